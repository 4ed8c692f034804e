//! What `serve` refuses, and with which exit code.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// The binary, with nothing of the tests' environment that it would obey.
fn command(directory: &TempDir, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_session-supervisor"));
    command
        .args(arguments)
        .current_dir(directory.path())
        .env_clear()
        .stdin(Stdio::null());
    command
}

fn run(directory: &TempDir, arguments: &[&str]) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = command(directory, arguments).output().unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

#[test]
fn a_wrong_configuration_exits_78_with_the_lines_at_fault() {
    let directory = TempDir::new().unwrap();
    let text = "listen = \"127.0.0.1:0\"\n[shutdown]\ncap = 2\nkil_after = \"1s\"\n";
    fs::write(directory.path().join("c.toml"), text).unwrap();

    let (code, stderr) = run(&directory, &["serve", "--config", "c.toml"]);
    assert_eq!(code, Some(78), "{stderr}");
    let expected = [
        "c.toml:3: `shutdown.cap` is 2 without a unit, expected a string with one such as \"2s\"",
        "c.toml:4: unknown key `shutdown.kil_after`, expected a known one: the nearest is `kill_after`",
    ];
    assert_eq!(stderr.lines().collect::<Vec<_>>(), expected);
    assert!(!directory.path().join("state").exists());
}

#[test]
fn wrong_usage_exits_2() {
    let directory = TempDir::new().unwrap();
    let (code, stderr) = run(&directory, &["serve", "--listen", "here"]);
    assert_eq!(code, Some(2), "{stderr}");
}

#[test]
fn a_taken_port_exits_1_and_is_named() {
    let directory = TempDir::new().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();

    let (code, stderr) = run(&directory, &["serve", "--listen", &address]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(
        stderr.contains(&format!("can't listen on {address}")),
        "{stderr}"
    );
}

#[test]
fn a_standard_error_that_nobody_reads_changes_no_exit_code() {
    let directory = TempDir::new().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);

    // A filter that is none makes a log line before the port is found taken.
    let status = command(&directory, &["serve", "--listen", &address])
        .env("RUST_LOG", "a=b=c")
        .stderr(writer)
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(1));
}
