//! A program that holds sessions: one of the examples, as a process of its own.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::PATIENCE;
use crate::gateway::Gateway;
use crate::tools::{is_installed, skip};

/// An example, and what runs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Example {
    pub(super) interpreter: &'static str,
    pub(super) file: &'static str,
}

const PYTHON: Example = Example {
    interpreter: "python3",
    file: "holder.py",
};
const NODE: Example = Example {
    interpreter: "node",
    file: "holder.mjs",
};

impl Example {
    /// Those whose interpreters this machine has. Of the others it is said that `test` leaves them out.
    pub(super) fn all(test: &str) -> Vec<Self> {
        let all = [PYTHON, NODE].into_iter();
        let installed = all.filter(|example| {
            let is_installed = is_installed(example.interpreter);
            if !is_installed {
                skip(&format!("{test}, {}", example.file), example.interpreter);
            }
            is_installed
        });
        installed.collect()
    }

    pub(super) fn path(self) -> PathBuf {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        root.join("docs/examples").join(self.file)
    }

    /// What runs it, to hold for the holder `name` at the gateway at `url`.
    pub(super) fn command(self, url: &str, name: &str, grace: Duration) -> Command {
        let mut command = Command::new(self.interpreter);
        command
            .arg(self.path())
            .env("SESSION_SUPERVISOR_URL", url)
            .env("SESSION_SUPERVISOR_HOLDER", name)
            .env("HOLDER_GRACE_MS", grace.as_millis().to_string())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env_remove("SESSION_SUPERVISOR_TOKEN")
            .env_remove("SESSION_SUPERVISOR_RUN_ID");
        command
    }

    /// Runs it, and waits until it holds these sessions.
    #[track_caller]
    pub(super) fn hold(
        self,
        gateway: &Gateway,
        name: &str,
        grace: Duration,
        ids: &[&str],
    ) -> Program {
        let mut command = self.command(gateway.url(), name, grace);
        let mut program = Program::spawn(command.args(ids));
        program.wait_until_it_holds(ids);
        program
    }
}

/// A running program. Killed when dropped.
pub(super) struct Program {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
    said: Vec<String>,
}

impl Program {
    pub(super) fn spawn(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let stdin = child.stdin.take().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (said, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if said.send(line).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            stdin,
            lines,
            said: Vec::new(),
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it has its lease and has started these sessions, in whatever order.
    #[track_caller]
    pub(super) fn wait_until_it_holds(&mut self, ids: &[&str]) {
        let started = ids.iter().map(|id| format!("session {id} started"));
        let mut awaited: Vec<_> = started.chain(["holding".into()]).collect();
        while !awaited.is_empty() {
            let line = self.next_line(&awaited.join(", "));
            awaited.retain(|text| *text != line);
        }
    }

    /// Waits for this line, from here on.
    #[track_caller]
    pub(super) fn wait_for(&mut self, text: &str) {
        while self.next_line(text) != text {}
    }

    #[track_caller]
    fn next_line(&mut self, awaited: &str) -> String {
        let Ok(line) = self.lines.recv_timeout(PATIENCE) else {
            panic!("it does not say `{awaited}`: {:?}", self.said);
        };
        self.said.push(line.clone());
        line
    }

    /// Tells it to start the session, or to end it if it is active.
    pub(super) fn tell(&mut self, id: &str) {
        writeln!(self.stdin, "{id}").unwrap();
    }

    pub(super) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap());
        kill(pid, signal).unwrap();
    }

    /// Sends `signal` and waits for the end. Answers everything that it has said, too.
    #[track_caller]
    pub(super) fn stop(mut self, signal: Signal) -> (ExitStatus, Vec<String>) {
        self.signal(signal);
        let until = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < until, "it does not end: {:?}", self.said);
            thread::sleep(Duration::from_millis(5));
        };
        let mut said = std::mem::take(&mut self.said);
        said.extend(self.lines.iter());
        (status, said)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
