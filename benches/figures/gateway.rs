//! The binary as a process of its own.

use std::env;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::client;

/// How long plugins may take until they have what they are owed.
const SETTLED_WITHIN: Duration = Duration::from_secs(600);

/// How often it is looked whether they have.
const PERIOD: Duration = Duration::from_millis(10);

/// A process that is measured. Killed when dropped.
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn spawn(command: &mut Command) -> Self {
        Self(command.spawn().expect("it starts"))
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// What `/proc` says of its memory under `name`, in MiB.
    pub(crate) fn memory(&self, name: &str) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id()));
        let status = status.expect("the process runs");
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<f64>().ok());
        kib.expect("a number of kB") / 1024.0
    }

    /// Forgets the most memory that it has had.
    fn reset_peak(&self) {
        let path = format!("/proc/{}/clear_refs", self.0.id());
        fs::write(path, "5").expect("the peak is forgotten");
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.0.id().try_into().expect("a process id"));
        kill(pid, signal).expect("the process runs");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A gateway that is ready.
pub(crate) struct Gateway {
    process: Process,
    pub(crate) address: SocketAddr,
    /// From its start until it was ready.
    pub(crate) ready_after: Duration,
}

impl Gateway {
    /// Starts one in `directory`, with these plugins.
    pub(crate) fn start(directory: &Path, plugins: &str) -> Self {
        let config = directory.join("config.toml");
        let text = format!("state_dir = \"state\"\n{plugins}");
        fs::write(&config, text).expect("it is written");
        let mut command = Command::new(env!("CARGO_BIN_EXE_session-supervisor"));
        for (name, _) in env::vars_os() {
            if name.to_string_lossy().starts_with("SESSION_SUPERVISOR_") {
                command.env_remove(name);
            }
        }
        command
            .args(["serve", "--log-format", "json"])
            .args(["--listen", "127.0.0.1:0", "--config"])
            .arg(&config)
            .env_remove("RUST_LOG")
            .env_remove("STATE_DIRECTORY")
            .env_remove("NOTIFY_SOCKET")
            .env_remove("WATCHDOG_USEC")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let began = Instant::now();
        let mut process = Process::spawn(&mut command);
        let stderr = process.child().stderr.take().expect("a pipe");
        let mut log = BufReader::new(stderr).lines().map_while(Result::ok);
        let address = log.find_map(|line| {
            let line: Value = serde_json::from_str(&line).ok()?;
            let fields = &line["fields"];
            let address = (fields["message"] == "listening").then(|| fields["address"].as_str());
            address.flatten()?.parse().ok()
        });
        let address = address.expect("it listens");
        while client::get(address, "/readyz").0 != 200 {
            thread::sleep(Duration::from_millis(1));
        }
        let ready_after = began.elapsed();
        // Read to its end, or a full pipe would hold the gateway up.
        thread::spawn(move || log.for_each(drop));
        Self {
            process,
            address,
            ready_after,
        }
    }

    /// Starts so many sessions and waits until the plugins know.
    pub(crate) fn fill(&self, sessions: usize) {
        client::load(self.address, client::CLIENTS, sessions, 201, client::start);
        self.settle();
    }

    /// Waits until no plugin is owed anything.
    pub(crate) fn settle(&self) {
        let until = Instant::now() + SETTLED_WITHIN;
        loop {
            let (_, answer) = client::get(self.address, "/v1/plugins");
            let answer: Value = serde_json::from_slice(&answer).expect("it is JSON");
            let plugins = answer["plugins"].as_array().expect("a list");
            if plugins.iter().all(|plugin| plugin["owed"] == 0) {
                return;
            }
            assert!(Instant::now() < until, "not settled: {answer}");
            thread::sleep(PERIOD);
        }
    }

    /// The memory that it has resident, in MiB.
    pub(crate) fn memory(&self) -> f64 {
        self.process.memory("VmRSS:")
    }

    /// By how many MiB its memory has grown at the most while `work` was done.
    pub(crate) fn growth(&self, work: impl FnOnce()) -> f64 {
        self.process.reset_peak();
        let before = self.memory();
        work();
        self.process.memory("VmHWM:") - before
    }

    /// Stops it with SIGTERM. How long it takes until it is gone.
    pub(crate) fn stop(mut self) -> Duration {
        let began = Instant::now();
        self.process.signal(Signal::SIGTERM);
        self.process.child().wait().expect("it ends");
        began.elapsed()
    }

    /// Kills it.
    pub(crate) fn kill(self) {
        drop(self.process);
    }
}

/// The report of the last stop in `directory`.
pub(crate) fn report(directory: &Path) -> Value {
    let path = directory.join("state/last-shutdown.json");
    let text = fs::read_to_string(path).expect("a report");
    serde_json::from_str(&text).expect("it is JSON")
}
