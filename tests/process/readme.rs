//! The README's walk, run as it stands there.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::gateway::Gateway;
use crate::tools::{is_installed, skip};

/// The shell block behind the mark.
fn walk() -> &'static str {
    let readme = include_str!("../../README.md");
    let block = readme.split("<!-- walk -->\n```sh\n").nth(1);
    block.and_then(|rest| rest.split("```").next()).unwrap()
}

/// The program that holds a session.
fn holder() -> &'static str {
    let readme = include_str!("../../README.md");
    let block = readme.split("<!-- holder -->\n```python\n").nth(1);
    block.and_then(|rest| rest.split("```").next()).unwrap()
}

/// The session that was recorded: what was typed, and what was printed.
fn recorded() -> (Vec<&'static str>, String) {
    let readme = include_str!("../../README.md");
    let block = readme.split("<!-- recorded -->\n```console\n").nth(1);
    let lines = block
        .and_then(|rest| rest.split("```").next())
        .unwrap()
        .lines();
    let (typed, printed): (Vec<_>, Vec<_>) = lines.partition(|line| line.starts_with("$ "));
    let typed = typed.iter().map(|line| &line["$ ".len()..]);
    (typed.collect(), printed.join("\n"))
}

/// A text without what is another in each run: how long ago something was, and how wide its column is.
fn without_times(text: &str) -> Vec<String> {
    let is_time = |word: &str| word.starts_with(|c: char| c.is_ascii_digit());
    let line = |line: &str| {
        let words = line.split_whitespace();
        let words = words.map(|word| if is_time(word) { "…" } else { word });
        words.collect::<Vec<_>>().join(" ")
    };
    text.lines().map(line).collect()
}

/// What the README says that it prints.
fn promised() -> &'static str {
    let readme = include_str!("../../README.md");
    let block = readme.split("It prints, beside what the gateway logs:\n\n```text\n");
    block
        .skip(1)
        .flat_map(|rest| rest.split("```"))
        .next()
        .unwrap()
}

#[test]
fn the_walk_leaves_no_ghost_and_prints_what_the_readme_says() {
    for program in ["curl", "sqlite3"] {
        if !is_installed(program) {
            return skip("the walk of the README", program);
        }
    }
    // A free port instead of the default one, which may be taken on the machine of whoever tests.
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let binary = env!("CARGO_BIN_EXE_session-supervisor");
    let script = walk()
        .replace("127.0.0.1:7467", &address)
        .replace("target/release/session-supervisor", binary);
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new("bash")
        .args(["-eu", "-c", &script])
        .current_dir(dir.path())
        .env("SESSION_SUPERVISOR_LISTEN", &address)
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stdout}\n{stderr}");
    assert!(stdout.ends_with(promised()), "{stdout}\n{stderr}");
    assert!(dir.path().join("walk/state/last-shutdown.json").exists());
}

#[test]
fn the_recorded_session_goes_as_it_went() {
    let (typed, printed) = recorded();
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let ready = "for n in $(seq 600); do session-supervisor status --ready > status 2>&1 && break; sleep 0.05; done";
    // Whoever types takes longer than a gateway to be there, or to be gone.
    let lines = typed.iter().map(|line| match line {
        line if line.ends_with('&') => format!("{line}\n{ready}\n"),
        line if line.starts_with("kill") => format!("{line}\nwait $!\n"),
        line => format!("{line}\n"),
    });
    // However it goes, nothing of it is left.
    let script = format!("trap 'kill -9 $!' EXIT\n{}", lines.collect::<String>());
    let dir = tempfile::tempdir().unwrap();
    let binary = Path::new(env!("CARGO_BIN_EXE_session-supervisor"));
    let mut path = binary.parent().unwrap().as_os_str().to_owned();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let output = Command::new("bash")
        .args(["-c", &script])
        .current_dir(dir.path())
        .env("PATH", path)
        .env("SESSION_SUPERVISOR_LISTEN", &address)
        .env("SESSION_SUPERVISOR_URL", format!("http://{address}"))
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(without_times(&stdout), without_times(&printed), "{stderr}");
}

#[test]
fn g11_the_program_of_the_readme_holds_its_session_until_it_is_killed() {
    if !is_installed("python3") {
        return skip("the program of the README", "python3");
    }
    let gateway = Gateway::start_with_defaults();
    let program = holder().replace("http://127.0.0.1:7467", gateway.url());
    let mut python = Command::new("python3")
        .args(["-c", &program])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let wait_for = |state: &str, limit| {
        let until = Instant::now() + Duration::from_secs(limit);
        loop {
            let (_, session) = gateway.get("/v1/sessions/sess-1");
            if session["state"] == state {
                return session;
            }
            assert!(Instant::now() < until, "not {state}: {session}");
            sleep(Duration::from_millis(20));
        }
    };
    wait_for("active", 30);
    python.kill().unwrap();
    python.wait().unwrap();
    // Its connection may be gone for 5 s.
    let session = wait_for("ended", 5 + 5);
    assert_eq!(session["reason"], "lost", "{session}");
}
