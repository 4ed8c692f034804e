//! P2 and P3: a stop by a signal.

use std::time::{Duration, Instant};

use crate::common::bare::{Bare, Row};
use crate::common::drain::id;
use crate::common::{CHUNK, sizes};
use crate::gateway::{Gateway, report};
use crate::table::{count, row};

/// Takes everything.
pub(crate) const LOG: &str =
    "[[plugin]]\nname = \"audit\"\nkind = \"log\"\npath = \"audit.jsonl\"\n";

/// Is told of ends, and never answers.
const HANGS: &str = "[[plugin]]\nname = \"hangs\"\nkind = \"command\"\nhooks = [\"session_end\"]\n\
    command = [\"/bin/sleep\", \"3600\"]\n";

/// The cap unless set, and how long the exit may take after it.
const GONE_AFTER: Duration = Duration::from_millis(2050);

pub(crate) fn measure() {
    let quick = [1, 1_000, 10_000];
    let full = [1, 1_000, 10_000, 50_000, 100_000, 1_000_000];
    for sessions in sizes(&quick, &full) {
        let figure = format!("`log`, {} sessions", count(sessions));
        let (took, drain, delivered) = stop(sessions, LOG);
        if sessions > 1 {
            let told = match delivered == sessions {
                true => String::new(),
                false => format!(", of which {} told in the cap", count(delivered)),
            };
            let bare = bare_database(sessions).as_secs_f64() * 1000.0;
            let figure = format!("drain, {figure}{told}");
            let reach = "1.3; 50,000 in 700 ms, 1,000,000 in the cap";
            row("P2", &figure, [drain, bare], "ms", reach);
        }
        exit(&figure, took);
        let (took, ..) = stop(sessions, HANGS);
        exit(&format!("hangs, {} sessions", count(sessions)), took);
    }
}

fn exit(figure: &str, took: Duration) {
    let millis = [took, GONE_AFTER].map(|it| it.as_secs_f64() * 1000.0);
    let figure = format!("signal to exit, {figure}");
    row("P3", &figure, millis, "ms", "1");
}

/// How long the process takes to exit, its drain in milliseconds, and how many ends that delivered.
fn stop(sessions: usize, plugin: &str) -> (Duration, f64, usize) {
    let directory = tempfile::tempdir().expect("a directory");
    let gateway = Gateway::start(directory.path(), plugin);
    gateway.fill(sessions);
    let took = gateway.stop();
    let report = report(directory.path());
    let number = |name: &str| report["drain"][name].as_u64().expect("a number");
    assert_eq!(number("sessions"), sessions as u64, "{report}");
    let delivered = usize::try_from(number("delivered")).expect("a count");
    (took, number("duration_ms") as f64, delivered)
}

/// How long bare `rusqlite` takes to record as many ends.
fn bare_database(sessions: usize) -> Duration {
    let start = |n| {
        let id = id(n).to_string();
        Row {
            // As long as that of a session with few details.
            json: format!("{{\"id\":\"{id}\",\"started_at\":\"{:250}\"}}", ""),
            incarnation: n.to_be_bytes().repeat(2),
            at: 0,
            id,
        }
    };
    let rows: Vec<_> = (0..sessions).map(start).collect();
    let directory = tempfile::tempdir().expect("a directory");
    let bare = Bare::create(directory.path(), 1);
    bare.record_starts(&rows, CHUNK);
    let began = Instant::now();
    bare.record_ends(&rows, CHUNK, 1);
    began.elapsed()
}
