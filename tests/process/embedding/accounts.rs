//! The example `deduplicating`: what is told again is booked once.

use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;
use rusqlite::Connection;

use super::Example;

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_folder(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

fn run(dir: &Path, signal: Signal) -> Vec<String> {
    let mut example = Example::start("deduplicating", &[dir.as_os_str()]);
    example.wait_for_line("3 sessions");
    let (status, printed) = example.stop(signal);
    assert_eq!(status.code(), (signal != Signal::SIGKILL).then_some(0));
    printed
}

#[test]
fn g6_an_end_that_is_told_again_is_booked_once_by_the_deduplicating_example() {
    let dir = tempfile::tempdir().unwrap();
    let (state, backup) = (dir.path().join("state"), dir.path().join("backup"));
    run(dir.path(), Signal::SIGKILL);
    copy_folder(&state, &backup);
    // Three ends after the crash, and three at the stop.
    let printed = run(dir.path(), Signal::SIGINT);
    assert!(printed[1].starts_with("6 sessions of "), "{printed:?}");

    // The ledger of before knows of no acknowledgement: the first three are told once more.
    fs::remove_dir_all(&state).unwrap();
    fs::rename(&backup, &state).unwrap();
    let printed = run(dir.path(), Signal::SIGINT);
    assert!(printed[1].starts_with("9 sessions of "), "{printed:?}");
    let database = Connection::open(dir.path().join("accounts.db")).unwrap();
    let count = "SELECT count(*) FROM booked";
    let booked: i64 = database.query_row(count, [], |row| row.get(0)).unwrap();
    assert_eq!(booked, 9);
}
