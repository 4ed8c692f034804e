//! What the binary refuses at start, with the exit code that tells why.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::process::Output;

use tempfile::TempDir;

use crate::gateway::command;

fn run(directory: &TempDir, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = command();
    command.args(arguments).current_dir(directory.path());
    let Output { status, stderr, .. } = command.output().unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

/// Asserts that `config` is refused with a line that begins with `place` and says `expected`.
fn assert_refused(config: &str, place: &str, expected: &str) {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("c.toml"), config).unwrap();
    let (code, stderr) = run(&directory, &["serve", "--config", "c.toml"]);
    assert_eq!(code, Some(78), "{stderr}");
    let mut lines = stderr.lines();
    let found = lines.any(|line| line.starts_with(place) && line.contains(expected));
    assert!(found, "no `{place}… {expected}` in:\n{stderr}");
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
    let status = command()
        .args(["serve", "--listen", &address])
        .current_dir(directory.path())
        .env("RUST_LOG", "a=b=c")
        .stderr(writer)
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(1));
}

#[test]
fn budgets_that_do_not_nest_are_refused() {
    let config = "[shutdown]\ncap = \"9s\"\nteardown = \"1s\"\n";
    assert_refused(config, "c.toml:2: ", "kill_after");
}

#[test]
fn an_address_of_other_machines_is_refused_without_a_token() {
    assert_refused("listen = \"0.0.0.0:7467\"\n", "c.toml:1: ", "token");
}

#[test]
fn a_ledger_of_another_kind_is_refused() {
    assert_refused("[ledger]\nkind = \"postgres\"\n", "c.toml:2: ", "memory");
    let directory = TempDir::new().unwrap();
    let (code, stderr) = run(&directory, &["serve", "--ledger", "postgres"]);
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.contains("memory"), "{stderr}");
}

#[test]
fn a_statement_that_is_no_sql_or_has_an_unknown_parameter_is_refused() {
    let plugin = "[[plugin]]\nname = \"db\"\nkind = \"sql\"\nurl = \"sqlite:app.db\"\n";
    let wrong = format!("{plugin}session_end = \"UPDAET t SET a = 1\"\n");
    assert_refused(&wrong, "c.toml:5: ", "UPDAET");
    let wrong = format!("{plugin}session_end = \"UPDATE t SET a = :raeson\"\n");
    assert_refused(&wrong, "c.toml:5: ", "raeson");
}
