//! A program that holds by a connection is killed, started again, or ends by itself.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::{
    Example, assert_active, assert_within, ends, incarnation, reasons, session, start,
    wait_for_ends,
};

/// For a holder that is not to lose its lease while a test runs.
const LONG: Duration = Duration::from_secs(600);

#[test]
fn g11_the_sessions_of_a_program_that_is_killed_are_lost_within_its_grace() {
    let grace = Duration::from_secs(1);
    for example in Example::all("a holder that is killed") {
        let gateway = start();
        let victim = example.hold(&gateway, "victim", grace, &["A", "B"]);
        let _other = example.hold(&gateway, "other", grace, &["C"]);
        gateway.begin("nobody's");

        victim.stop(Signal::SIGKILL);
        wait_for_ends(&gateway, &["A", "B"], "lost");
        assert_active(&gateway, &["C", "nobody's"]);
        gateway.settle();
        let ends = ends(&gateway.path("audit.jsonl"));
        assert_eq!(reasons(&ends), [("A", "lost"), ("B", "lost")]);
        for told in ends.values() {
            assert_eq!(told.holder, "victim");
            assert_within(grace, told);
        }
    }
}

#[test]
fn g11_what_a_dead_run_left_ends_as_soon_as_the_program_is_started_again() {
    for example in Example::all("a holder that is started again") {
        let gateway = start();
        let first = example.hold(&gateway, "worker", LONG, &["A", "B"]);
        let _other = example.hold(&gateway, "other", LONG, &["D"]);
        let before = incarnation(&gateway, "A");
        first.stop(Signal::SIGKILL);

        // As a supervisor of programs does, long before the lease is over. One session goes on under
        // its id, as another incarnation.
        let _second = example.hold(&gateway, "worker", LONG, &["A", "C"]);
        wait_for_ends(&gateway, &["B"], "crash");
        let again = session(&gateway, "A");
        assert_eq!(again["state"], "active", "{again}");
        assert_eq!(again["previous_incarnation"], before, "{again}");
        assert_active(&gateway, &["C", "D"]);
        gateway.settle();
        let ends = ends(&gateway.path("audit.jsonl"));
        assert_eq!(reasons(&ends), [("A", "crash"), ("B", "crash")]);
    }
}

#[test]
fn g11_a_program_ends_its_sessions_one_by_one_and_all_when_it_stops() {
    for example in Example::all("a holder that stops") {
        let gateway = start();
        let mut program = example.hold(&gateway, "worker", LONG, &["A", "B", "a/../\u{e4}"]);
        program.tell("A");
        program.wait_for("session A ended: completed");
        program.tell("C");
        program.wait_for("session C started");
        // An operator ends one: the program hears of it.
        gateway.run(&["sessions", "end", "B"]).done();
        program.wait_for("session B ended: closed");

        let (status, said) = program.stop(Signal::SIGTERM);
        assert_eq!(status.code(), Some(0), "{said:?}");
        let last = said.last().map(String::as_str);
        assert_eq!(last, Some("stopped, 2 sessions ended"), "{said:?}");
        let ends = ends(&gateway.path("audit.jsonl"));
        let expected = [
            ("A", "completed"),
            ("B", "closed"),
            ("C", "shutdown"),
            ("a/../\u{e4}", "shutdown"),
        ];
        assert_eq!(reasons(&ends), expected, "told by the time of the answer");
        let holders = gateway.get("/v1/holders").1;
        assert_eq!(holders["holders"], serde_json::json!([]), "{holders}");
    }
}
