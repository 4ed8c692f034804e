//! The example `minimal`.

use nix::sys::signal::Signal;

use super::Example;

#[test]
fn the_minimal_example_ends_its_session_when_it_is_stopped() {
    let mut example = Example::start("minimal", &[]);
    example.wait_for_line("session_start");
    let (status, printed) = example.stop(Signal::SIGINT);
    assert_eq!(status.code(), Some(0), "{printed:?}");
    let told = printed.iter().filter(|line| line.starts_with("session_"));
    let told: Vec<_> = told.map(|line| line.trim()).collect();
    assert_eq!(told, ["session_start", "session_end shutdown"]);
    let last = printed.last().unwrap();
    assert!(last.starts_with("clean after "), "{printed:?}");
}
