//! A gateway that runs as a process of its own, and what the tests ask of it.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long anything may take before a test fails instead of hanging.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long plugins may take until they have what they are owed.
const SETTLED_WITHIN: Duration = Duration::from_secs(120);

/// A configuration with a log of all events, `audit.jsonl`, to which tests add what they need.
pub(crate) const AUDITED: &str = r#"
state_dir = "state"

[[plugin]]
name = "audit"
kind = "log"
path = "audit.jsonl"
"#;

/// The binary under test.
pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_session-supervisor"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SESSION_SUPERVISOR_") {
            command.env_remove(name);
        }
    }
    command
        .env_remove("RUST_LOG")
        .env_remove("STATE_DIRECTORY")
        .env_remove("NOTIFY_SOCKET")
        .env_remove("WATCHDOG_USEC")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// A running `serve` in a folder of its own. Killed when dropped.
pub(crate) struct Gateway {
    child: Child,
    url: String,
    dir: TempDir,
    log: Receiver<String>,
    logged: Vec<String>,
}

/// How a gateway ended.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    /// From the last signal to the exit.
    pub(crate) took: Duration,
    pub(crate) stdout: String,
    /// Everything it logged.
    pub(crate) log: String,
    pub(crate) dir: TempDir,
}

impl Gateway {
    /// Starts one in `dir` with this configuration.
    pub(crate) fn start_in(dir: TempDir, config: &str) -> Self {
        Self::start_with_env(dir, config, &[])
    }

    /// The same, with these variables in its environment.
    pub(crate) fn start_with_env(dir: TempDir, config: &str, env: &[(&str, &str)]) -> Self {
        let mut command = Self::command_in(&dir, config);
        command.envs(env.iter().copied());
        Self::spawn(dir, command)
    }

    /// What starts one in `dir` with this configuration.
    pub(crate) fn command_in(dir: &TempDir, config: &str) -> Command {
        let path = dir.path().join("config.toml");
        std::fs::write(&path, config).unwrap();
        let mut command = command();
        command
            .args(["serve", "--log-format", "json"])
            .args(["--listen", "127.0.0.1:0", "--config"])
            .arg(&path);
        command
    }

    /// The same, and it may have this many files open.
    pub(crate) fn start_with_files(dir: TempDir, config: &str, files: usize) -> Self {
        let path = dir.path().join("config.toml");
        std::fs::write(&path, config).unwrap();
        let mut shell = Command::new("sh");
        let script = format!("ulimit -n {files} && exec \"$0\" \"$@\"");
        shell
            .args(["-c", &script, env!("CARGO_BIN_EXE_session-supervisor")])
            .args(["serve", "--log-format", "json"])
            .args(["--listen", "127.0.0.1:0", "--config"])
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Self::spawn(dir, shell)
    }

    /// Starts one without a configuration.
    pub(crate) fn start_with_defaults() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut command = command();
        command
            .args(["serve", "--log-format", "json"])
            .args(["--listen", "127.0.0.1:0"])
            .current_dir(dir.path());
        Self::spawn(dir, command)
    }

    /// Starts one without a configuration, whose standard error goes elsewhere.
    pub(crate) fn start_with_standard_error(stderr: impl Into<Stdio>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Its log can't be asked for the port that it took.
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap().to_string();
        drop(free);
        let mut command = command();
        command
            .args(["serve", "--listen", &address])
            .current_dir(dir.path())
            .stderr(stderr);
        let gateway = Self {
            child: command.spawn().expect("the binary starts"),
            url: format!("http://{address}"),
            dir,
            log: mpsc::channel().1,
            logged: Vec::new(),
        };
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect(&address).is_err() {
            assert!(Instant::now() < until, "the gateway does not listen");
            thread::sleep(Duration::from_millis(5));
        }
        gateway
    }

    fn spawn(dir: TempDir, command: Command) -> Self {
        Self::launch(dir, command).unwrap_or_else(|ended| panic!("it ended:\n{}", ended.log))
    }

    /// Starts one in `dir`, unless it ends before it listens.
    pub(crate) fn launch(dir: TempDir, mut command: Command) -> Result<Self, Ended> {
        let mut child = command.spawn().expect("the binary starts");
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (lines, log) = mpsc::channel();
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if lines.send(line).is_err() {
                    return;
                }
            }
        });
        let mut gateway = Self {
            child,
            url: String::new(),
            dir,
            log,
            logged: Vec::new(),
        };
        let Some(listening) = gateway.seek_in_log("\"listening\"") else {
            return Err(gateway.wait());
        };
        let listening: Value = serde_json::from_str(&listening).unwrap();
        let address = listening["fields"]["address"].as_str().unwrap();
        gateway.url = format!("http://{address}");
        Ok(gateway)
    }

    /// The first log line from here on that contains `text`.
    pub(crate) fn wait_for_log(&mut self, text: &str) -> String {
        let from = self.logged.len();
        self.seek_in_log(text).unwrap_or_else(|| {
            let seen = self.logged[from..].join("\n");
            panic!("no line with `{text}` in the log:\n{seen}")
        })
    }

    /// The same; none if the log ends without it.
    fn seek_in_log(&mut self, text: &str) -> Option<String> {
        let until = Instant::now() + PATIENCE;
        while let Ok(line) = self
            .log
            .recv_timeout(until.saturating_duration_since(Instant::now()))
        {
            self.logged.push(line);
            if let Some(line) = self.logged.last().filter(|line| line.contains(text)) {
                return Some(line.clone());
            }
        }
        None
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The folder that it was started in.
    pub(crate) fn folder(&self) -> &TempDir {
        &self.dir
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Runs a command that asks this gateway.
    pub(crate) fn run(&self, arguments: &[&str]) -> Finished {
        let mut command = command();
        run(command
            .args(arguments)
            .env("SESSION_SUPERVISOR_URL", &self.url))
    }

    /// A request with a JSON body. Answers the status and the JSON of the answer, null for none.
    pub(crate) fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.try_post(path, body).expect("an answer")
    }

    /// The same; none if it does not answer.
    pub(crate) fn try_post(&self, path: &str, body: &Value) -> Option<(u16, Value)> {
        post(&agent(), &format!("{}{path}", self.url), body)
    }

    pub(crate) fn get(&self, path: &str) -> (u16, Value) {
        self.try_get(path).expect("an answer")
    }

    /// The same; none if it does not answer.
    pub(crate) fn try_get(&self, path: &str) -> Option<(u16, Value)> {
        read(agent().get(format!("{}{path}", self.url)).call())
    }

    /// The number of its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The memory that its process has in use.
    pub(crate) fn memory_kib(&self) -> usize {
        self.status_kib("VmRSS:")
    }

    /// The most that it has had in use.
    pub(crate) fn peak_memory_kib(&self) -> usize {
        self.status_kib("VmHWM:")
    }

    fn status_kib(&self, name: &str) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        kib.unwrap().parse().unwrap()
    }

    /// Waits until each plugin has what it is owed, and answers how they are then.
    pub(crate) fn settle(&self) -> Value {
        let until = Instant::now() + SETTLED_WITHIN;
        let is_owed = |plugin: &Value| plugin["owed"] != 0;
        loop {
            let (_, plugins) = self.get("/v1/plugins");
            if !plugins["plugins"].as_array().unwrap().iter().any(is_owed) {
                return plugins;
            }
            assert!(Instant::now() < until, "{plugins}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Starts a session, which must work.
    pub(crate) fn begin(&self, id: &str) {
        let (status, answer) = self.post("/v1/sessions", &json!({ "id": id }));
        assert_eq!(status, 201, "{answer}");
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap());
        kill(pid, signal).unwrap();
    }

    /// Sends `signal` and waits for the end.
    pub(crate) fn stop(self, signal: Signal) -> Ended {
        self.signal(signal);
        self.wait()
    }

    /// Waits for the end.
    pub(crate) fn wait(mut self) -> Ended {
        let began = Instant::now();
        // Read on a thread, or a full pipe would keep the gateway from ending.
        let mut pipe = self.child.stdout.take().unwrap();
        let stdout = thread::spawn(move || {
            let mut text = String::new();
            pipe.read_to_string(&mut text).map(|_| text)
        });
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(began.elapsed() < PATIENCE, "the gateway does not end");
            thread::sleep(Duration::from_millis(2));
        };
        let took = began.elapsed();
        let mut logged = std::mem::take(&mut self.logged);
        logged.extend(self.log.iter());
        let dir = std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap());
        Ended {
            status,
            took,
            stdout: stdout.join().unwrap().unwrap(),
            log: logged.join("\n"),
            dir,
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    /// The report of the stop.
    pub(crate) fn report(&self) -> Value {
        let path = self.dir.path().join("state/last-shutdown.json");
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// How a command that ends by itself ended.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Finished {
    /// What it printed, if it did what it should.
    #[track_caller]
    pub(crate) fn done(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout
    }

    /// What it printed as JSON, if it did what it should.
    #[track_caller]
    pub(crate) fn json(self) -> Value {
        serde_json::from_str(&self.done()).unwrap()
    }

    /// Asserts that it ended with `code` and said each of `texts` on standard error.
    #[track_caller]
    pub(crate) fn failed(&self, code: i32, texts: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        for text in texts {
            assert!(self.stderr.contains(text), "no `{text}` in {self:?}");
        }
    }
}

/// Runs a command that ends by itself.
pub(crate) fn run(command: &mut Command) -> Finished {
    let output = command.output().unwrap();
    Finished {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

pub(crate) fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(PATIENCE));
    config.build().into()
}

/// Sends JSON. Answers the status and the JSON of the answer, or none without one.
pub(crate) fn post(agent: &ureq::Agent, url: &str, body: &Value) -> Option<(u16, Value)> {
    read(agent.post(url).send_json(body))
}

fn read(answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Option<(u16, Value)> {
    let mut answer = answer.ok()?;
    let status = answer.status().as_u16();
    let text = answer.body_mut().read_to_string().ok()?;
    Some((status, serde_json::from_str(&text).unwrap_or(Value::Null)))
}

/// The lines of a JSON lines file.
pub(crate) fn json_lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}
