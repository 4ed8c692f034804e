//! The example `misbehaving` as a process of its own.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

use crate::examples::example;
use crate::shim::Shim;

/// How long anything may take before a test fails instead of hanging.
const PATIENCE: Duration = Duration::from_secs(120);

/// What goes wrong around the plugins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// Standard error is a pipe that is full, and nobody reads it.
    FullStandardError,
    /// The same, and whoever logs waits for a reader.
    LogBlocks,
    /// From the signal on `fdatasync` does not return.
    LedgerStalls,
    /// From the signal on there is no room on the disk of the ledger.
    DiskFull,
}

/// A process that has started its sessions. Killed when dropped.
pub(crate) struct Program {
    child: Child,
    dir: Option<TempDir>,
    /// The end of the pipe that nobody reads: without it a write would fail rather than wait.
    _unread: Option<OwnedFd>,
}

/// How a process ended.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    /// From the signal to the exit.
    pub(crate) took: Duration,
    pub(crate) dir: TempDir,
}

impl fmt::Debug for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        let log: Vec<_> = log.lines().rev().take(40).collect();
        let log: Vec<_> = log.into_iter().rev().collect();
        let report = fs::read_to_string(self.dir.path().join("state/last-shutdown.json"));
        let report = report.unwrap_or_default();
        let report: String = report.chars().take(2000).collect();
        writeln!(f, "{} after {:?}", self.status, self.took)?;
        write!(f, "report: {report}\nlog:\n{}", log.join("\n"))
    }
}

impl Program {
    /// Starts it in `dir` and waits until its sessions have started, and the healthy plugins know.
    pub(crate) fn start(
        dir: TempDir,
        plugin: &str,
        sessions: usize,
        cap: Duration,
        fault: Fault,
        shim: Option<&Shim>,
    ) -> Self {
        let mut command = Command::new(example("misbehaving"));
        command
            .args(["--plugin", plugin])
            .args(["--sessions", &sessions.to_string()])
            .args(["--cap", &format!("{}ms", cap.as_millis())])
            .arg("--dir")
            .arg(dir.path())
            .env_remove("RUST_LOG")
            // A backtrace takes a second in a debug build.
            .env("RUST_BACKTRACE", "0")
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let pipe = match fault {
            Fault::FullStandardError | Fault::LogBlocks => Some(nix::unistd::pipe().unwrap()),
            _ => None,
        };
        match &pipe {
            Some((_, writer)) => command.stderr(writer.try_clone().unwrap()),
            None => command.stderr(log_file(dir.path())),
        };
        if fault == Fault::LogBlocks {
            command.arg("--log-blocks");
        }
        if let Some(shim) = shim {
            shim.watch(&mut command, &dir.path().join("state"));
        }
        let child = command.spawn().unwrap();
        let mut program = Self {
            child,
            dir: Some(dir),
            _unread: None,
        };
        program.wait_until_ready();
        program._unread = pipe.map(|(reader, writer)| {
            fill(writer);
            reader
        });
        match (shim, fault) {
            (Some(shim), Fault::LedgerStalls) => shim.set("stall", ""),
            (Some(shim), Fault::DiskFull) => shim.set("full", ""),
            _ => {}
        }
        program
    }

    fn wait_until_ready(&mut self) {
        let _overdue = Overdue::after(PATIENCE, &self.child);
        let mut stdout = BufReader::new(self.child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        if line != "ready\n" {
            let status = self.child.wait().unwrap();
            let (took, dir) = (Duration::ZERO, self.dir.take().unwrap());
            panic!("it does not start: {:?}", Ended { status, took, dir });
        }
        // Whoever holds its lock must not meet a closed pipe.
        self.child.stdout = Some(stdout.into_inner());
    }

    /// Sends `signal` and waits for the end.
    pub(crate) fn stop(mut self, signal: Signal) -> Ended {
        let _overdue = Overdue::after(PATIENCE, &self.child);
        let began = Instant::now();
        kill(pid(&self.child), signal).unwrap();
        let status = self.child.wait().unwrap();
        let took = began.elapsed();
        let dir = self.dir.take().unwrap();
        Ended { status, took, dir }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    /// The report of its stop.
    pub(crate) fn report(&self) -> Value {
        let path = self.dir.path().join("state/last-shutdown.json");
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        serde_json::from_str(&text).unwrap()
    }
}

/// The ends that a log has, by session: the event's id. A repeat has to have the same. A process that
/// aborts may leave a line unfinished, which whoever reads such a log passes over.
pub(crate) fn distinct_ends(dir: &Path, plugin: &str) -> HashMap<String, String> {
    let file = File::open(dir.join(plugin).with_extension("jsonl"));
    let (mut ends, mut torn) = (HashMap::new(), 0);
    let Ok(file) = file else {
        return ends;
    };
    for line in BufReader::new(file).lines() {
        let line = line.unwrap();
        // Most of the time would go into reading starts.
        if !line.contains("session_end") {
            continue;
        }
        let Ok(event) = serde_json::from_str::<Line>(&line) else {
            torn += 1;
            assert_eq!(torn, 1, "{line}");
            continue;
        };
        if event.hook == "session_end" {
            let (id, event) = (event.session.id.to_owned(), event.event_id.to_owned());
            let before = ends.insert(id, event.clone());
            assert!(before.is_none_or(|before| before == event), "two ends");
        }
    }
    ends
}

/// What is looked at of a line: there are hundreds of thousands of them.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    hook: &'a str,
    event_id: &'a str,
    #[serde(borrow)]
    session: Named<'a>,
}

#[derive(Deserialize)]
struct Named<'a> {
    id: &'a str,
}

fn log_file(dir: &Path) -> File {
    let mut options = File::options();
    options.append(true).create(true);
    options.open(dir.join("log")).unwrap()
}

/// Writes to a pipe until it is full.
fn fill(writer: OwnedFd) {
    let flags = OFlag::from_bits_retain(fcntl(&writer, FcntlArg::F_GETFL).unwrap());
    fcntl(&writer, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).unwrap();
    let mut pipe = File::from(writer);
    for chunk in [[b' '; 4096].as_slice(), b" "] {
        while pipe.write(chunk).is_ok() {}
    }
    // The flag is the pipe's, and the process has the same pipe.
    fcntl(&pipe, FcntlArg::F_SETFL(flags)).unwrap();
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().try_into().unwrap())
}

/// Kills a process that takes for ever, unless it is dropped before.
struct Overdue {
    _over: mpsc::Sender<()>,
}

impl Overdue {
    fn after(patience: Duration, child: &Child) -> Self {
        let (sender, over) = mpsc::channel::<()>();
        let pid = pid(child);
        thread::spawn(move || {
            if over.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
                let _ = kill(pid, Signal::SIGKILL);
            }
        });
        Self { _over: sender }
    }
}
