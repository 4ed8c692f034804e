//! A program whose machine vanishes: no packet of it comes any more, not even that it is gone. Two
//! network namespaces and a cable between them, of which one end is pulled.

use std::io::{self, Write as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::program::{Example, Program};
use super::{ends, reasons, wait_until};
use crate::gateway::{AUDITED, Finished, Gateway, command, run};

const HERE: &str = "192.0.2.1";
const TOKEN: &str = "operator-0123456789";

/// After how long a machine counts as gone: it is looked at with each comment, every 2 s, and the
/// first that it has not answered has to be 3 s ago.
const NOTICED_WITHIN: Duration = Duration::from_secs(6);

const GRACE: Duration = Duration::from_secs(1);

/// What runs in a namespace of its own, or in that of another process.
fn unshared() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--net"]);
    command
}

fn beside(pid: u32) -> Command {
    let mut command = Command::new("nsenter");
    let target = pid.to_string();
    command.args([
        "--target",
        &target,
        "--user",
        "--net",
        "--preserve-credentials",
    ]);
    command
}

#[track_caller]
fn ip(beside_pid: u32, arguments: &str) {
    let mut command = beside(beside_pid);
    let done = run(command.arg("ip").args(arguments.split(' ')));
    assert_eq!(done.code, Some(0), "ip {arguments}: {done:?}");
}

/// Whether this machine lets us have namespaces and cables. If not, it is said.
fn is_permitted() -> bool {
    let script = "ip link add here type veth peer name there && nsenter --version";
    let mut trial = unshared();
    trial.args(["sh", "-c", script]).stdin(Stdio::null());
    let is_permitted = trial.output().is_ok_and(|output| output.status.success());
    if !is_permitted {
        let _ = writeln!(
            io::stderr(),
            "SKIPPED: a program whose machine vanishes needs network namespaces, which are not permitted"
        );
    }
    is_permitted
}

/// A gateway behind one end of a cable.
fn start() -> Gateway {
    let dir = tempfile::tempdir().unwrap();
    let tokens = "[[auth.token]]\nname = \"ops\"\ntoken_env = \"OPS\"\nscope = \"operator\"\n";
    let config = dir.path().join("config.toml");
    std::fs::write(&config, format!("{AUDITED}{tokens}")).unwrap();
    let script = format!(
        "ip link set lo up && ip link add here type veth peer name there && \
         ip addr add {HERE}/30 dev here && ip link set here up && \
         exec \"$0\" serve --log-format json --listen {HERE}:7467 --config \"$1\""
    );
    let mut serve = unshared();
    serve
        .args([
            "sh",
            "-c",
            &script,
            env!("CARGO_BIN_EXE_session-supervisor"),
        ])
        .arg(&config)
        .env("OPS", TOKEN)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let gateway = Gateway::launch(dir, serve);
    gateway.unwrap_or_else(|ended| panic!("it ended:\n{}", ended.log))
}

/// Runs a command that asks the gateway, where it can be reached.
fn ask(gateway: &Gateway, arguments: &[&str]) -> Finished {
    let binary = command().get_program().to_owned();
    let mut asks = beside(gateway.pid());
    asks.arg(binary)
        .args(arguments)
        .args(["--url", gateway.url()])
        .env("SESSION_SUPERVISOR_TOKEN", TOKEN);
    run(&mut asks)
}

fn session(gateway: &Gateway, id: &str) -> Value {
    ask(gateway, &["sessions", "show", id, "--format", "json"]).json()
}

#[test]
fn g11_a_program_whose_machine_vanishes_without_a_word_loses_its_sessions() {
    let examples = Example::all("a program whose machine vanishes");
    let Some(example) = examples.first().filter(|_| is_permitted()) else {
        return;
    };
    let gateway = start();
    let beside_gateway = gateway.pid();
    // The far end of the cable, and the program behind it.
    let mut there = beside(beside_gateway);
    let script = "echo here; read -r _; exec \"$0\" \"$1\" A B";
    there
        .args(["unshare", "--net", "sh", "-c", script, example.interpreter])
        .arg(example.path())
        .envs([
            ("SESSION_SUPERVISOR_URL", gateway.url()),
            ("SESSION_SUPERVISOR_TOKEN", TOKEN),
            ("SESSION_SUPERVISOR_HOLDER", "far"),
            ("HOLDER_GRACE_MS", &GRACE.as_millis().to_string()),
            ("PYTHONDONTWRITEBYTECODE", "1"),
        ]);
    let mut far = Program::spawn(&mut there);
    far.wait_for("here");
    let pid = far.pid();
    ip(beside_gateway, &format!("link set there netns {pid}"));
    ip(pid, "addr add 192.0.2.2/30 dev there");
    ip(pid, "link set there up");
    far.tell("go");
    far.wait_until_it_holds(&["A", "B"]);
    let near = ["sessions", "start", "C", "--holder", "near"];
    ask(&gateway, &near).done();

    ip(pid, "link set there down");
    let began = Instant::now();
    wait_until(|| session(&gateway, "B")["state"] == "ended");
    let took = began.elapsed();
    println!("its sessions were lost after {took:?}");
    assert!(took < NOTICED_WITHIN + GRACE + super::LATE, "{took:?}");
    assert_eq!(session(&gateway, "C")["state"], "active");
    wait_until(|| {
        let plugins = ask(&gateway, &["plugins", "list", "--format", "json"]).json();
        plugins["plugins"][0]["owed"] == 0
    });
    let ends = ends(&gateway.path("audit.jsonl"));
    assert_eq!(reasons(&ends), [("A", "lost"), ("B", "lost")]);
}
