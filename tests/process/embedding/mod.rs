//! Programs that embed the crate: the examples in `docs/examples`, as users run them.

mod accounts;
mod chat;
mod jobs;
mod minimal;

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::examples::example;

/// How long anything may take before a test fails instead of hanging.
const PATIENCE: Duration = Duration::from_secs(60);

/// An example that runs. Killed when dropped.
struct Example {
    child: Child,
    lines: Receiver<String>,
    printed: Vec<String>,
}

impl Example {
    fn start(name: &'static str, arguments: &[&OsStr]) -> Self {
        let mut child = Command::new(example(name))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the example starts");
        let stdout = child.stdout.take().expect("its output is a pipe");
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            lines,
            printed: Vec::new(),
        }
    }

    /// Waits for a line that begins like this, and answers the rest of it.
    fn wait_for_line(&mut self, begin: &str) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                panic!("no line `{begin}…` in {:?}", self.printed);
            };
            self.printed.push(line.clone());
            if let Some(rest) = line.strip_prefix(begin) {
                return rest.to_owned();
            }
        }
    }

    /// Sends `signal`, waits for the end, and answers how it exited and every line that it has printed.
    fn stop(mut self, signal: Signal) -> (ExitStatus, Vec<String>) {
        let pid = Pid::from_raw(self.child.id().try_into().expect("a number of a process"));
        kill(pid, signal).expect("it runs");
        let until = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                break status;
            }
            assert!(
                Instant::now() < until,
                "it does not stop: {:?}",
                self.printed
            );
            thread::sleep(Duration::from_millis(5));
        };
        // Its end closes the pipe.
        let rest = self.lines.iter().collect::<Vec<_>>();
        self.printed.extend(rest);
        (status, std::mem::take(&mut self.printed))
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The events in a file of lines, but for a last line that is not finished.
fn events(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let lines = whole.lines().filter(|line| !line.is_empty());
    lines
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .collect()
}

/// Waits until what `look` says of the events in a file is true.
fn wait_for_events(path: &Path, look: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let until = Instant::now() + PATIENCE;
    loop {
        let events = events(path);
        if look(&events) {
            return events;
        }
        assert!(Instant::now() < until, "{events:#?}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Each end as `what it was for: why it ended`, in alphabetical order. Every incarnation that has started
/// has one end, and every end a start.
fn ends_by(events: &[Value], what: impl Fn(&Value) -> String) -> Vec<String> {
    let of_type = |hook: &str| {
        let events = events.iter().filter(|event| event["type"] == hook);
        let incarnation = |event: &&Value| event["session"]["incarnation"].to_string();
        let mut incarnations: Vec<_> = events.clone().map(|it| incarnation(&it)).collect();
        incarnations.sort();
        (events.collect::<Vec<_>>(), incarnations)
    };
    let (_, started) = of_type("session_start");
    let (ends, mut ended) = of_type("session_end");
    // An event may be told again, under its id.
    ended.dedup();
    let mut distinct = started;
    distinct.dedup();
    assert_eq!(distinct, ended, "{events:#?}");
    let mut ends: Vec<_> = ends
        .iter()
        .map(|end| (end["event_id"].to_string(), what(end)))
        .collect();
    ends.sort();
    ends.dedup();
    assert_eq!(ends.len(), ended.len(), "one end each: {ends:?}");
    let mut ends: Vec<_> = ends.into_iter().map(|(_, end)| end).collect();
    ends.sort();
    ends
}
