//! What the command has of the `run` around it: environment, limits, streams, terminal, and its own children.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::{Python, ends, folder, report, run_command, run_sh};
use crate::gateway::{AUDITED, Finished, run};
use crate::tools::skip;

#[test]
fn the_command_has_the_environment_and_its_exit_code_is_passed_through() {
    let dir = folder(AUDITED);
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
    let dir = folder(AUDITED);
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
    let dir = folder(AUDITED);
    let file = dir.path().join("data");
    std::fs::write(&file, "no program").unwrap();
    let try_run = |program: &str| run(&mut run_command(dir.path(), &[], &[program]));
    try_run("no-such-program").failed(
        127,
        &["can't run `no-such-program`: there is no such program in PATH\n"],
    );
    try_run("./no-such-program").failed(
        127,
        &["can't run `./no-such-program`: there is no such program\n"],
    );
    try_run("./data").failed(126, &["can't run `./data`"]);
    assert!(!dir.path().join("state").exists());
    // What only the system can tell: it wants another program for it.
    std::fs::write(&file, "#!/no/such/interpreter\n").unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).unwrap();
    try_run("./data").failed(127, &["can't run `./data`"]);
}

#[test]
fn a_grace_that_does_not_fit_is_a_problem_of_the_configuration() {
    let dir = folder(AUDITED);
    let with_grace = |grace: &str| {
        let mut command = run_command(dir.path(), &["--grace", grace], &["true"]);
        run(&mut command)
    };
    let expected =
        "--grace: `--grace` 6s 1ms + `cap` 2s + `teardown` 1s + 1s of slack make 10s 1ms";
    with_grace("6001ms").failed(78, &[expected]);
    with_grace("6s").done();
    // The default has to fit too.
    let short = format!("{AUDITED}[shutdown]\nkill_after = \"7s\"\n");
    std::fs::write(dir.path().join("config.toml"), short).unwrap();
    let ended = run(&mut run_command(dir.path(), &[], &["true"]));
    ended.failed(78, &["config.toml:9: `--grace` 4s + `cap` 2s"]);
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
        "{AUDITED}[[plugin]]\nname = \"told\"\nkind = \"command\"\n\
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
        AUDITED,
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
