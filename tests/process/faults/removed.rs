//! Files of the state directory that are taken away while a gateway has them.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::gateway::{AUDITED, Gateway};

const PATIENCE: Duration = Duration::from_secs(30);

/// Takes something of a state directory away.
type TakeAway = fn(&Path);

#[test]
fn g6_a_gateway_whose_files_are_taken_away_records_nothing_that_nobody_would_find() {
    let ways: [(&str, TakeAway); 4] = [
        ("removed", |state| fs::remove_dir_all(state).unwrap()),
        ("moved", |state| {
            fs::rename(state, state.with_extension("aside")).unwrap();
        }),
        ("without its ledger", |state| {
            fs::remove_file(state.join("ledger.db")).unwrap();
        }),
        ("without its lock", |state| {
            fs::remove_file(state.join("lock")).unwrap();
        }),
    ];
    for (way, take_away) in ways {
        let gateway = Gateway::start_in(tempfile::tempdir().unwrap(), AUDITED);
        let state = gateway.path("state");
        gateway.begin("A");
        take_away(&state);
        let until = Instant::now() + PATIENCE;
        while gateway.get("/readyz").0 != 503 {
            assert!(Instant::now() < until, "{way}: still ready");
            sleep(Duration::from_millis(20));
        }
        let (status, problem) = gateway.post("/v1/sessions", &json!({"id": "B"}));
        assert_eq!(status, 503, "{way}: {problem}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("was removed or replaced"), "{detail}");
        let (status, problem) = gateway.post("/v1/sessions/A/end", &json!({}));
        assert_eq!(status, 503, "{way}: {problem}");

        let ended = gateway.stop(Signal::SIGTERM);
        assert_eq!(ended.status.code(), Some(3), "{way}: {}", ended.log);
        let said = ended.log.matches("refused from now on").count();
        assert_eq!(said, 1, "{way}: {}", ended.log);
        let report = ended.report();
        assert_eq!(report["outcome"], "lost", "{way}: {report}");
        let warnings = report["warnings"].as_array().unwrap();
        assert!(warnings.contains(&json!("ledger")), "{way}: {report}");
    }
}
