//! `run`: a gateway around a program of another language.

mod child;
mod exits;
mod killed;
mod stops;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::gateway::{Finished, command, json_lines, run};
use crate::tools::{is_installed, skip};

const PATIENCE: Duration = Duration::from_secs(30);

/// What the programs of these tests have of the API.
const CLIENT: &str = r#"
import json, os, signal, subprocess, sys, time, urllib.error, urllib.request

def send(method, path, body=None):
    request = urllib.request.Request(
        os.environ["SESSION_SUPERVISOR_URL"] + path,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={
            "Content-Type": "application/json",
            "Authorization": "Bearer " + os.environ["SESSION_SUPERVISOR_TOKEN"],
        },
    )
    return urllib.request.urlopen(request, timeout=20)

def ask(method, path, body=None):
    try:
        with send(method, path, body) as answer:
            return answer.status, json.loads(answer.read() or "null")
    except urllib.error.HTTPError as refusal:
        return refusal.code, json.loads(refusal.read() or "null")

def start(id):
    status, answer = ask("POST", "/v1/sessions", {"id": id})
    assert status == 201, answer
    assert answer["holder"] == os.environ["SESSION_SUPERVISOR_HOLDER"] == "run", answer

def say(name, text=""):
    with open(name + ".part", "w") as file:
        file.write(str(text))
    os.rename(name + ".part", name)
"#;

/// A folder to run in, with a configuration.
fn folder(config: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.toml"), config).unwrap();
    dir
}

/// The interpreter of the programs of these tests, which this machine has.
#[derive(Clone, Copy)]
struct Python;

impl Python {
    /// It, if there is one. Else it is said that this test is left out.
    fn find() -> Option<Self> {
        if is_installed("python3") {
            return Some(Self);
        }
        let test = std::thread::current();
        skip(test.name().unwrap_or("a test of `run`"), "python3");
        None
    }

    /// A folder to run in, with a configuration and a program.
    fn folder(self, config: &str, program: &str) -> TempDir {
        let dir = folder(config);
        let program = format!("{CLIENT}\n{program}\n");
        std::fs::write(dir.path().join("program.py"), program).unwrap();
        dir
    }
}

/// `run` in that folder, with these options and this command.
fn run_command(dir: &Path, options: &[&str], program: &[&str]) -> Command {
    let mut command = command();
    command
        .args(["run", "--config", "config.toml", "--log-format", "json"])
        .args(options)
        .arg("--")
        .args(program)
        .current_dir(dir);
    command
}

fn run_sh(dir: &TempDir, script: &str) -> Finished {
    run(&mut run_command(dir.path(), &[], &["sh", "-c", script]))
}

/// A `run` around the program of the folder. Killed when dropped.
struct Around {
    child: Child,
    dir: TempDir,
}

impl Around {
    fn start(dir: TempDir, options: &[&str]) -> Self {
        let mut command = run_command(dir.path(), options, &["python3", "program.py"]);
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        Self { child, dir }
    }

    /// What the program has said under this name, once it has.
    fn wait_for(&self, name: &str) -> String {
        let file = self.dir.path().join(name);
        let mut text = None;
        self.wait_until(&format!("`{name}`"), || {
            text = std::fs::read_to_string(&file).ok();
            text.is_some()
        });
        text.unwrap()
    }

    fn wait_until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let until = Instant::now() + PATIENCE;
        while !is_so() {
            assert!(Instant::now() < until, "no {what}:\n{}", self.log());
            sleep(Duration::from_millis(5));
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn wait_for_log(&self, text: &str) {
        self.wait_until(&format!("`{text}` in the log"), || {
            self.log().contains(text)
        });
    }

    fn signal(&self, signal: Signal) {
        send(self.child.id(), signal);
    }

    /// What it exits with, in time.
    fn code(&mut self) -> i32 {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().expect("no signal has ended it");
            }
            assert!(Instant::now() < until, "it does not end:\n{}", self.log());
            sleep(Duration::from_millis(5));
        }
    }

    /// The ids and reasons of all ends, in order of the ids. None was told twice.
    fn ends(&self) -> Vec<(String, String)> {
        ends(self.dir.path())
    }

    fn report(&self) -> Value {
        report(self.dir.path())
    }
}

impl Drop for Around {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.try_into().unwrap()), signal).unwrap();
}

fn events(dir: &Path, kind: &str) -> Vec<Value> {
    let lines = json_lines(&dir.join("audit.jsonl")).into_iter();
    lines.filter(|line| line["type"] == kind).collect()
}

fn ends(dir: &Path) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let ends = events(dir, "session_end").into_iter();
    let mut ends: Vec<_> = ends
        .map(|end| (text(&end["session"]["id"]), text(&end["reason"])))
        .collect();
    ends.sort();
    ends
}

fn report(dir: &Path) -> Value {
    let path = dir.join("state/last-shutdown.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// These sessions, all with this reason.
fn all(ids: &[&str], reason: &str) -> Vec<(String, String)> {
    let ids = ids.iter();
    ids.map(|id| ((*id).to_owned(), reason.to_owned()))
        .collect()
}

fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
    // A zombie is dead.
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

const TWO_SESSIONS: &str = "start('A'); start('B'); say('ready', os.getpid()); time.sleep(600)";

/// A program that says which signal it got, ends a session itself, starts another, and exits with 5.
const ORDERLY: &str = r"
def stop(number, _):
    status, _ = ask('POST', '/v1/sessions/A/end', {'reason': 'completed'})
    assert status == 200
    start('late')
    say('signal', signal.Signals(number).name)
    os._exit(5)
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1):
    signal.signal(number, stop)
start('A'); start('B'); say('ready')
while True: time.sleep(600)
";

/// The ends in order of the ids, where one that was told of may be told again: who was broken off could
/// not note that.
fn distinct_ends(around: &Around) -> Vec<(String, String)> {
    let mut ends = around.ends();
    ends.dedup();
    ends
}
