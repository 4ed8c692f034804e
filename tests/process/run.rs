//! `run`: a gateway around a program of another language.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::gateway::{Finished, command, json_lines, run};
use crate::tools::{is_installed, skip};

const PATIENCE: Duration = Duration::from_secs(30);

/// How soon after the exit of the program its sessions are on record as ended.
const NOTICED_WITHIN_MS: i128 = 100;

const CONFIG: &str = r#"
state_dir = "state"

[[plugin]]
name = "audit"
kind = "log"
path = "audit.jsonl"
"#;

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

#[test]
fn the_command_has_the_environment_and_its_exit_code_is_passed_through() {
    let dir = folder(CONFIG);
    let ended = run_sh(&dir, "env | grep ^SESSION_SUPERVISOR_ | sort; exit 7");
    assert_eq!(ended.code, Some(7), "{ended:?}");
    let names: Vec<_> = ended
        .stdout
        .lines()
        .map(|line| line.split_once('=').unwrap())
        .collect();
    let [(_, holder), (_, run_id), (_, token), (_, url)] = names[..] else {
        panic!("{ended:?}")
    };
    assert_eq!(holder, "run");
    assert!(url.starts_with("http://127.0.0.1:"), "{url}");
    assert!(run_id.len() == 32 && token.len() == 64, "{ended:?}");
    assert!(!ended.stderr.contains(token), "{ended:?}");
    let report = report(dir.path());
    assert_eq!(report["reason"], "shutdown");
    assert_eq!(report["trigger"], "child-exit");
    assert_eq!(report["exit_code"], 7);

    for (script, code) in [
        ("exit 0", 0),
        ("kill -15 $$", 128 + 15),
        ("kill -9 $$", 137),
    ] {
        let ended = run_sh(&dir, script);
        assert_eq!(ended.code, Some(code), "{script}: {ended:?}");
    }
}

#[test]
fn the_command_has_the_limit_of_open_files_that_run_was_started_with() {
    let dir = folder(CONFIG);
    let script = "ulimit -S -n; sed -n 's/^Max open files *//p' /proc/$PPID/limits";
    let inner = run_command(dir.path(), &[], &["sh", "-c", script]);
    // Fewer files than `run` itself wants.
    let mut limited = Command::new("sh");
    limited
        .args(["-c", "ulimit -S -n 256 && exec \"$0\" \"$@\""])
        .arg(inner.get_program())
        .args(inner.get_args())
        .current_dir(dir.path());
    let ended = run(&mut limited);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let limits = ended.stdout.split_whitespace().take(2);
    let limits: Vec<u64> = limits.map(|files| files.parse().unwrap()).collect();
    let [of_command, of_run] = limits[..] else {
        panic!("{ended:?}")
    };
    assert_eq!(of_command, 256);
    assert!(of_run > 256, "{ended:?}");
}

#[test]
fn standard_streams_are_the_commands_and_the_log_goes_to_standard_error() {
    let Some(python) = Python::find() else { return };
    let config =
        "state_dir = \"state\"\n[[plugin]]\nname = \"log\"\nkind = \"log\"\npath = \"-\"\n";
    let dir = python.folder(config, "start('A'); print(sys.stdin.read())");
    let mut command = run_command(dir.path(), &[], &["python3", "program.py"]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"words").unwrap();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert_eq!(output.stdout, b"words\n");
    assert!(stderr.contains("\"type\":\"session_end\""), "{stderr}");
}

#[test]
fn a_command_that_can_not_be_run_is_said_before_anything_starts() {
    let dir = folder(CONFIG);
    let file = dir.path().join("data");
    std::fs::write(&file, "no program").unwrap();
    let try_run = |program: &str| run(&mut run_command(dir.path(), &[], &[program]));
    try_run("no-such-program").failed(127, &["can't run `no-such-program`"]);
    try_run("./no-such-program").failed(127, &["can't run `./no-such-program`"]);
    try_run("./data").failed(126, &["can't run `./data`"]);
    assert!(!dir.path().join("state").exists());
    // What only the system can tell: it wants another program for it.
    std::fs::write(&file, "#!/no/such/interpreter\n").unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).unwrap();
    try_run("./data").failed(127, &["can't run `./data`"]);
}

#[test]
fn a_grace_that_does_not_fit_is_a_problem_of_the_configuration() {
    let dir = folder(CONFIG);
    let with_grace = |grace: &str| {
        let mut command = run_command(dir.path(), &["--grace", grace], &["true"]);
        run(&mut command)
    };
    let expected =
        "--grace: `--grace` 6s 1ms + `cap` 2s + `teardown` 1s + 1s of slack make 10s 1ms";
    with_grace("6001ms").failed(78, &[expected]);
    with_grace("6s").done();
    // The default has to fit too.
    let short = format!("{CONFIG}[shutdown]\nkill_after = \"7s\"\n");
    std::fs::write(dir.path().join("config.toml"), short).unwrap();
    let ended = run(&mut run_command(dir.path(), &[], &["true"]));
    ended.failed(78, &["config.toml:9: `--grace` 4s + `cap` 2s"]);
}

/// Kills the command of a `run`. How long after that, in milliseconds, its sessions were on record as
/// ended.
fn noticed_after(python: Python) -> i128 {
    let mut around = Around::start(python.folder(CONFIG, TWO_SESSIONS), &[]);
    let pid = around.wait_for("ready").parse().unwrap();
    let killed_at = jiff::Timestamp::now();
    send(pid, Signal::SIGKILL);
    assert_eq!(around.code(), 137);
    assert_eq!(around.ends(), all(&["A", "B"], "crash"));
    let report = around.report();
    assert_eq!(report["trigger"], "child-exit");
    assert_eq!(
        (&report["reason"], &report["outcome"]),
        (&json!("shutdown"), &json!("clean"))
    );
    let ends = events(around.dir.path(), "session_end").into_iter();
    let detected_at = ends.map(|end| end["detected_at"].as_str().unwrap().to_owned());
    let last = detected_at.max().expect("two ends");
    let last: jiff::Timestamp = last.parse().unwrap();
    last.duration_since(killed_at).as_millis()
}

#[test]
fn g11_the_sessions_of_a_command_that_is_killed_end_with_crash_within_100_ms() {
    let Some(python) = Python::find() else { return };
    // This machine has other tests to run, which may be what was late.
    let mut late = Vec::new();
    while late.len() < 3 {
        match noticed_after(python) {
            ..=NOTICED_WITHIN_MS => return,
            took => late.push(took),
        }
    }
    panic!("after so many ms: {late:?}");
}

#[test]
fn g11_the_sessions_of_a_command_that_exits_end_with_shutdown_or_else_with_crash() {
    let Some(python) = Python::find() else { return };
    for (code, reason) in [(0, "shutdown"), (3, "crash")] {
        let dir = python.folder(CONFIG, &format!("start('A'); sys.exit({code})"));
        let mut around = Around::start(dir, &[]);
        assert_eq!(around.code(), code);
        assert_eq!(around.ends(), all(&["A"], reason));
    }
}

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

fn stops_in_order(python: Python, sent: Signal, passed_on: &str, reason: &str) {
    let mut around = Around::start(python.folder(CONFIG, ORDERLY), &[]);
    around.wait_for("ready");
    around.signal(sent);
    assert_eq!(around.code(), 5);
    assert_eq!(around.wait_for("signal"), passed_on);
    let mut expected = all(&["A"], "completed");
    expected.extend(all(&["B", "late"], reason));
    assert_eq!(around.ends(), expected, "{}", around.log());
    let report = around.report();
    assert_eq!(
        (&report["trigger"], &report["reason"]),
        (&json!(sent.as_str()), &json!(reason))
    );
    assert_eq!(
        (&report["exit_code"], &report["outcome"]),
        (&json!(5), &json!("clean"))
    );
    // What the program did itself is not the stop's.
    assert_eq!(report["drain"]["sessions"], 2);
}

#[test]
fn g11_the_command_gets_the_signal_and_may_use_the_gateway_until_it_is_gone() {
    let Some(python) = Python::find() else { return };
    stops_in_order(python, Signal::SIGTERM, "SIGTERM", "shutdown");
    stops_in_order(python, Signal::SIGINT, "SIGINT", "shutdown");
    stops_in_order(python, Signal::SIGQUIT, "SIGQUIT", "shutdown");
}

#[test]
fn g11_a_planned_restart_is_sigterm_to_the_command() {
    let Some(python) = Python::find() else { return };
    stops_in_order(python, Signal::SIGUSR2, "SIGTERM", "restart");
}

/// Whether this process was started to ignore a hang-up, as under `nohup`, and so its children are.
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mut lines = status.lines();
    let ignored = lines.find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & 1 == 1)
}

#[test]
fn other_signals_are_passed_on_and_stop_nothing() {
    let Some(python) = Python::find() else { return };
    if ignores_hangup() {
        eprintln!("SKIPPED: a hang-up is ignored here, as under `nohup`, and so by every child");
        return;
    }
    let program = "
got = []
def note(number, _):
    got.append(signal.Signals(number).name)
    say('got', ' '.join(sorted(got)))
for number in (signal.SIGUSR1, signal.SIGWINCH, signal.SIGHUP):
    signal.signal(number, note)
start('A'); say('ready')
while len(got) < 3: time.sleep(0.01)
";
    let mut around = Around::start(python.folder(CONFIG, program), &[]);
    around.wait_for("ready");
    for signal in [Signal::SIGUSR1, Signal::SIGWINCH, Signal::SIGHUP] {
        around.signal(signal);
    }
    around.wait_for_log("\"reloaded\"");
    assert_eq!(around.code(), 0);
    assert_eq!(around.wait_for("got"), "SIGHUP SIGUSR1 SIGWINCH");
    // The reload has found nothing that it can't change.
    assert!(!around.log().contains("stays as it is"), "{}", around.log());
}

/// A program that does not care, and whose child does not either.
const STUBBORN: &str = "
signal.signal(signal.SIGTERM, signal.SIG_IGN)
inner = subprocess.Popen(['sleep', '600'])
start('A'); say('ready', inner.pid); time.sleep(600)
";

#[test]
fn g11_a_command_that_does_not_exit_is_killed_with_its_group_when_the_grace_is_over() {
    let Some(python) = Python::find() else { return };
    let mut around = Around::start(python.folder(CONFIG, STUBBORN), &["--grace", "300ms"]);
    let inner = around.wait_for("ready");
    let began = Instant::now();
    around.signal(Signal::SIGTERM);
    assert_eq!(around.code(), 137);
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(300), "{took:?}");
    // Grace, cap and teardown.
    assert!(took < Duration::from_millis(3300 + 500), "{took:?}");
    assert_eq!(around.ends(), all(&["A"], "shutdown"));
    around.wait_until("end of the group", || !is_alive(&inner));
    assert_eq!(around.report()["trigger"], "SIGTERM");
}

#[test]
fn a_further_signal_after_a_second_kills_the_command_and_forces_the_exit() {
    let Some(python) = Python::find() else { return };
    let mut around = Around::start(python.folder(CONFIG, STUBBORN), &[]);
    let inner = around.wait_for("ready");
    around.signal(Signal::SIGTERM);
    around.wait_for_log("waiting for the program");
    around.signal(Signal::SIGINT);
    around.wait_for_log("waited for before");
    assert!(is_alive(&inner));
    // The rule counts from the signal's arrival, which was before the line.
    sleep(Duration::from_millis(1100));
    around.signal(Signal::SIGINT);
    assert_eq!(around.code(), 128 + 2);
    around.wait_until("end of the group", || !is_alive(&inner));
    assert_eq!(around.report()["exit_code"], 130);
    let log = around.log();
    assert!(log.contains("waited for no longer"), "{log}");
    // Who was not told in the moment that there was is told at the next start.
    run(&mut run_command(around.dir.path(), &[], &["true"])).done();
    assert_eq!(distinct_ends(&around), all(&["A"], "shutdown"));
}

#[test]
fn g11_a_stop_over_http_waits_for_the_command_too() {
    let Some(python) = Python::find() else { return };
    let config = format!(
        "{CONFIG}[[auth.token]]\nname = \"ops\"\nscope = \"operator\"\ntoken_env = \"OPS\"\n"
    );
    let dir = python.folder(
        &config,
        "
def stop(number, _):
    start('late'); say('signal', number); sys.exit(0)
signal.signal(signal.SIGTERM, stop)
start('A'); say('ready', os.environ['SESSION_SUPERVISOR_URL'])
while True: time.sleep(600)
",
    );
    const OPS: &str = "operator-0123456789";
    let mut run = run_command(dir.path(), &[], &["python3", "program.py"]);
    let log = std::fs::File::create(dir.path().join("log")).unwrap();
    run.env("OPS", OPS).stdout(Stdio::null()).stderr(log);
    let child = run.spawn().unwrap();
    let mut around = Around { child, dir };
    let url = around.wait_for("ready");
    let mut stop = command();
    stop.args(["stop", "--reason", "restart"])
        .env("SESSION_SUPERVISOR_URL", url)
        .env("SESSION_SUPERVISOR_TOKEN", OPS);
    crate::gateway::run(&mut stop).done();
    assert_eq!(around.code(), 0);
    assert_eq!(around.wait_for("signal"), "15");
    assert_eq!(around.ends(), all(&["A", "late"], "restart"));
    let report = around.report();
    assert_eq!(
        (&report["trigger"], &report["reason"]),
        (&json!("api"), &json!("restart"))
    );
}

/// A folder in which a `run` was killed while its program had two sessions.
fn killed(python: Python) -> Around {
    let mut around = Around::start(python.folder(CONFIG, TWO_SESSIONS), &[]);
    let pid = around.wait_for("ready");
    around.signal(Signal::SIGKILL);
    around.child.wait().unwrap();
    around.wait_until("end of the command", || !is_alive(&pid));
    assert_eq!(around.ends(), []);
    around
}

#[test]
fn g11_with_the_wrapper_killed_the_command_dies_and_the_next_run_ends_its_sessions() {
    let Some(python) = Python::find() else { return };
    let around = killed(python);
    let again = run(&mut run_command(around.dir.path(), &[], &["true"]));
    again.done();
    assert_eq!(around.ends(), all(&["A", "B"], "crash"));
}

#[test]
fn g11_what_a_killed_wrapper_has_left_ends_whichever_command_comes_next() {
    let Some(python) = Python::find() else { return };
    let around = killed(python);
    let mut recover = command();
    recover.args(["recover", "--config", "config.toml"]);
    let said = run(recover.current_dir(around.dir.path())).done();
    let expected = "2 sessions ended, reason crash\n";
    assert!(said.starts_with(expected), "{said}");
    assert_eq!(around.ends(), all(&["A", "B"], "crash"));

    let mut around = killed(python);
    let mut serve = command();
    serve
        .args([
            "serve",
            "--config",
            "config.toml",
            "--listen",
            "127.0.0.1:0",
        ])
        .current_dir(around.dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    around.child = serve.spawn().unwrap();
    around.wait_until("end", || around.ends().len() == 2);
    assert_eq!(around.ends(), all(&["A", "B"], "crash"));
}

/// The ends in order of the ids, where one that was told of may be told again: who was broken off could
/// not note that.
fn distinct_ends(around: &Around) -> Vec<(String, String)> {
    let mut ends = around.ends();
    ends.dedup();
    ends
}

/// Why the run of this ledger is about to stop.
fn intent(dir: &Path) -> Option<String> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let ledger = Connection::open_with_flags(dir.join("state/ledger.db"), flags).ok()?;
    let reason = ledger.query_row("SELECT reason FROM instances", [], |row| row.get(0));
    reason.ok()?
}

#[test]
fn g11_a_wrapper_killed_while_it_stops_leaves_the_reason_that_it_had() {
    let Some(python) = Python::find() else { return };
    let slow = "[[plugin]]\nname = \"slow\"\nkind = \"command\"\n\
                command = [\"sleep\", \"20\"]\npass_env = [\"PATH\"]\n";
    let mut around = Around::start(python.folder(&format!("{CONFIG}{slow}"), ORDERLY), &[]);
    around.wait_for("ready");
    around.signal(Signal::SIGUSR2);
    around.wait_until("reason on record", || intent(around.dir.path()).is_some());
    around.signal(Signal::SIGKILL);
    assert_eq!(around.child.wait().unwrap().code(), None);
    std::fs::write(around.dir.path().join("config.toml"), CONFIG).unwrap();
    run(&mut run_command(around.dir.path(), &[], &["true"])).done();
    let ends = distinct_ends(&around);
    let mut expected = all(&["A"], "completed");
    expected.extend(all(&["B", "late"], "restart"));
    assert_eq!(ends, expected, "{}", around.log());
}

#[test]
fn g11_the_lease_outlives_what_the_command_makes_of_it() {
    let Some(python) = Python::find() else { return };
    let program = "
def hold(run_id):
    return send('POST', '/v1/holders/run/hold', {'run_id': run_id, 'grace_ms': 0})
def lease():
    status, answer = ask('GET', '/v1/holders')
    return {it['holder']: it for it in answer['holders']}['run']
own = os.environ['SESSION_SUPERVISOR_RUN_ID']

start('ended')
status, answer = ask('POST', '/v1/holders/run/end', {'reason': 'completed'})
assert (status, answer) == (200, {'ended': 1}), answer
start('superseded')
hold(own).close()
status, answer = ask('POST', '/v1/holders/run/heartbeat', {'run_id': own, 'ttl_ms': 1000})
assert status == 204, answer
# A program that takes another name for its process.
stream = hold('another')
start('last')
stream.close()
# By then every lease that it took itself is over.
time.sleep(1.5)
status, session = ask('GET', '/v1/sessions/last')
assert session['state'] == 'active', session
say('lease', json.dumps(lease()))
";
    let mut around = Around::start(python.folder(CONFIG, program), &[]);
    assert_eq!(around.code(), 0, "{}", around.log());
    let lease: Value = serde_json::from_str(&around.wait_for("lease")).unwrap();
    let state = (&lease["lease"], &lease["expires_in_ms"]);
    assert_eq!(state, (&json!("connected"), &Value::Null), "{lease}");
    let ends = around.ends();
    let ends: Vec<_> = ends.iter().map(|(id, why)| (&**id, &**why)).collect();
    let expected = [
        ("ended", "completed"),
        ("last", "shutdown"),
        ("superseded", "crash"),
    ];
    assert_eq!(ends, expected);
}

/// What a process prints that runs alone in a PID namespace; none where that is not permitted.
fn in_pid_namespace(test: &str, dir: &Path, program: &[&str]) -> Option<Finished> {
    let unshare = ["--pid", "--fork", "--mount-proc", "--kill-child"];
    let mut probe = Command::new("unshare");
    let probe = probe.args(unshare).arg("true").output();
    if !probe.is_ok_and(|probe| probe.status.success()) {
        skip(test, "unshare --pid");
        return None;
    }
    let mut run = Command::new("unshare");
    run.args(unshare)
        .arg(env!("CARGO_BIN_EXE_session-supervisor"))
        .args(["run", "--config", "config.toml", "--"])
        .args(program)
        .current_dir(dir);
    Some(crate::gateway::run(&mut run))
}

#[test]
fn as_the_first_process_it_reaps_orphans_and_leaves_its_own_children_to_those_who_wait() {
    const TEST: &str = "as_the_first_process_it_reaps_orphans";
    let Some(python) = Python::find() else { return };
    let config = format!(
        "{CONFIG}[[plugin]]\nname = \"told\"\nkind = \"command\"\n\
         command = [\"sh\", \"-c\", \"cat > /dev/null; exit 0\"]\npass_env = [\"PATH\"]\n"
    );
    let program = r#"
def zombies():
    found = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            found += ") Z 1 " in open(f"/proc/{pid}/stat").read()
        except OSError: pass
    return found
assert os.getppid() == 1
for n in range(50):
    # A child of a process that has ended.
    subprocess.run(["sh", "-c", "sleep 0.05 & true"], check=True)
    start(f"s{n}")
until = time.monotonic() + 20
while zombies() or ask("GET", "/v1/sessions?limit=1")[0] != 200:
    assert time.monotonic() < until, f"{zombies()} zombies"
    time.sleep(0.02)
"#;
    let dir = python.folder(&config, program);
    let Some(ended) = in_pid_namespace(TEST, dir.path(), &["python3", "program.py"]) else {
        return;
    };
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(ends(dir.path()).len(), 50);
    // The plugin's programs were seen to exit with 0, each of them.
    let report = report(dir.path());
    assert_eq!(report["drain"]["owed"], 0, "{report}");
    let told = &report["plugins"][1];
    assert_eq!(
        (&told["name"], &told["last_error"]),
        (&json!("told"), &Value::Null),
        "{report}"
    );
}

#[test]
fn the_command_has_the_terminal_and_it_comes_back() {
    let Some(python) = Python::find() else { return };
    let dir = python.folder(
        CONFIG,
        "say('inside', os.tcgetpgrp(0) == os.getpgrp() == os.getpid())\nsay('line', input())",
    );
    // A session on a terminal of its own, as a shell has it.
    let outer = r"
import os, pty, signal, subprocess, sys
signal.alarm(30)
pid, terminal = pty.fork()
if pid == 0:
    code = subprocess.call(sys.argv[1:])
    back = os.tcgetpgrp(0) == os.getpgrp()
    os._exit(code if back else 99)
os.write(terminal, b'typed\n')
while True:
    try:
        if not os.read(terminal, 4096): break
    except OSError: break
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
";
    let mut script = Command::new("python3");
    script
        .args(["-c", outer, env!("CARGO_BIN_EXE_session-supervisor")])
        .args([
            "run",
            "--config",
            "config.toml",
            "--",
            "python3",
            "program.py",
        ])
        .current_dir(dir.path());
    let ended = run(&mut script);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let said = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    assert_eq!(said("inside"), "True");
    assert_eq!(said("line"), "typed");
}
