//! The README's walk, run as it stands there.

use std::net::TcpListener;
use std::process::Command;

use crate::tools::{is_installed, skip};

/// The shell block behind the mark.
fn walk() -> &'static str {
    let readme = include_str!("../../README.md");
    let block = readme.split("<!-- walk -->\n```sh\n").nth(1);
    block.and_then(|rest| rest.split("```").next()).unwrap()
}

/// What the README says that it prints.
fn promised() -> &'static str {
    let readme = include_str!("../../README.md");
    let block = readme.split("It prints, after the gateway's log lines:\n\n```text\n");
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
