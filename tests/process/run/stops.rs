//! `run` is asked to stop.

use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;

use super::{Around, ORDERLY, Python, all, distinct_ends, is_alive, run_command};
use crate::gateway::{AUDITED, command, run};

fn stops_in_order(python: Python, sent: Signal, passed_on: &str, reason: &str) {
    let mut around = Around::start(python.folder(AUDITED, ORDERLY), &[]);
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
for number in (signal.SIGUSR1, signal.SIGWINCH, signal.SIGHUP):
    signal.signal(number, note)
start('A'); say('ready')
while len(got) < 3: time.sleep(0.01)
# Not where they come in: one may come while another is being noted.
say('got', ' '.join(sorted(got)))
";
    let mut around = Around::start(python.folder(AUDITED, program), &[]);
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
    let mut around = Around::start(python.folder(AUDITED, STUBBORN), &["--grace", "300ms"]);
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
    let mut around = Around::start(python.folder(AUDITED, STUBBORN), &[]);
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
        "{AUDITED}[[auth.token]]\nname = \"ops\"\nscope = \"operator\"\ntoken_env = \"OPS\"\n"
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
