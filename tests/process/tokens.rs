//! Tokens of a configuration, and that nobody gets to see them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use nix::sys::signal::Signal;

use crate::gateway::{Gateway, agent};

const OPERATOR: &str = "operator-0123456789";
const READER: &str = "reader-0123456789";
const CONFIG: &str = r#"
state_dir = "state"

[[auth.token]]
name = "ops"
token_file = "ops.token"
scope = "operator"

[[auth.token]]
name = "dashboard"
token_env = "DASHBOARD_TOKEN"
scope = "read"
"#;

fn start() -> Gateway {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ops.token");
    fs::write(&path, format!("{OPERATOR}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let env = [("DASHBOARD_TOKEN", READER), ("RUST_LOG", "trace")];
    Gateway::start_with_env(dir, CONFIG, &env)
}

/// The statuses that a bearer of `token` gets for reading and for a start.
fn statuses(gateway: &Gateway, token: &str) -> (u16, u16) {
    let url = format!("{}/v1/sessions", gateway.url());
    let header = ("Authorization", format!("Bearer {token}"));
    let read = agent().get(&url).header(header.0, &header.1).call();
    let start = agent().post(&url).header(header.0, &header.1);
    let start = start.send_json(serde_json::json!({"id": "a"}));
    (
        read.unwrap().status().as_u16(),
        start.unwrap().status().as_u16(),
    )
}

#[test]
fn tokens_open_the_gateway_and_are_in_no_log_output_or_report() {
    let gateway = start();
    assert_eq!(gateway.get("/healthz").0, 200);
    assert_eq!(gateway.get("/v1/sessions").0, 401);
    assert_eq!(statuses(&gateway, "stranger-0123456789"), (401, 401));
    assert_eq!(statuses(&gateway, READER), (200, 403));
    assert_eq!(statuses(&gateway, OPERATOR), (200, 201));
    let ended = gateway.stop(Signal::SIGTERM);
    assert!(ended.log.contains("every user of this machine may open"));
    for secret in [OPERATOR, READER, "stranger-0123456789"] {
        assert!(!ended.log.contains(secret), "{}", ended.log);
        assert!(!ended.stdout.contains(secret), "{}", ended.stdout);
        assert!(!ended.report().to_string().contains(secret));
    }
}
