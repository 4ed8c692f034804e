//! What the binary refuses at start, with the exit code that tells why.

use std::process::Output;

use crate::gateway::{Gateway, command};

fn serve(config: &str) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.toml");
    std::fs::write(&path, config).unwrap();
    let mut command = command();
    command
        .current_dir(dir.path())
        .args(["serve", "--config", "config.toml"]);
    command.output().unwrap()
}

fn assert_refused(output: &Output, code: i32, expected: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(stderr.contains(expected), "no `{expected}` in:\n{stderr}");
}

#[test]
fn a_wrong_configuration_is_refused_with_file_and_line() {
    let output = serve("[shutdown]\n\ncpa = \"2s\"\n");
    assert_refused(&output, 78, "config.toml:3: ");
    assert_refused(&output, 78, "cap");
}

#[test]
fn budgets_that_do_not_nest_are_refused() {
    let output = serve("[shutdown]\ncap = \"9s\"\nteardown = \"1s\"\n");
    assert_refused(&output, 78, "config.toml:2: ");
}

#[test]
fn an_address_of_other_machines_is_refused_without_a_token() {
    let output = serve("listen = \"0.0.0.0:7467\"\n");
    assert_refused(&output, 78, "config.toml:1: ");
    assert_refused(&output, 78, "token");
}

#[test]
fn a_ledger_that_does_not_exist_yet_is_refused() {
    let output = serve("[ledger]\nkind = \"sqlite\"\n");
    assert_refused(&output, 78, "config.toml:2: ");
    assert_refused(&output, 78, "memory");
}

#[test]
fn a_statement_that_is_no_sql_is_refused() {
    let plugin = "[[plugin]]\nname = \"db\"\nkind = \"sql\"\nurl = \"sqlite:app.db\"\n";
    let output = serve(&format!("{plugin}session_end = \"UPDAET t SET a = 1\"\n"));
    assert_refused(&output, 78, "config.toml:5: ");
    let output = serve(&format!("{plugin}session_end = \"UPDATE t SET a = :raeson\"\n"));
    assert_refused(&output, 78, "reason");
}

#[test]
fn a_port_that_is_taken_is_named() {
    let gateway = Gateway::start_with_defaults();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut command = command();
    command
        .current_dir(gateway.path(""))
        .args(["serve", "--listen", &address]);
    let output = command.output().unwrap();
    assert_refused(&output, 1, &address);
}

#[test]
fn wrong_usage_is_code_2() {
    let output = command().args(["serve", "--no-such-flag"]).output().unwrap();
    assert_refused(&output, 2, "--no-such-flag");
}
