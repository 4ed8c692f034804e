//! The gateway is restarted, killed or shut down while programs hold sessions.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::{
    Example, assert_active, ends, events, incarnation, reasons, start, start_again, wait_for_ends,
};
use crate::gateway::{AUDITED, Gateway};

const GRACE: Duration = Duration::from_secs(5);

#[test]
fn g11_held_sessions_go_on_as_they_are_when_the_gateway_is_restarted_or_killed() {
    for example in Example::all("a gateway that is restarted") {
        for (signal, reason) in [(Signal::SIGUSR2, "restart"), (Signal::SIGKILL, "crash")] {
            let gateway = start();
            let mut program = example.hold(&gateway, "worker", GRACE, &["A", "B"]);
            let before = ["A", "B"].map(|id| incarnation(&gateway, id));
            gateway.begin("own");
            // One that the program does not know of.
            let stray = ["sessions", "start", "stray", "--holder", "worker"];
            gateway.run(&stray).done();

            let url = gateway.url().to_owned();
            let ended = gateway.stop(signal);
            let gateway = start_again(ended.dir, &url);
            wait_for_ends(&gateway, &["own"], reason);
            // It is back, and has said which sessions it has.
            program.wait_for("holding");
            wait_for_ends(&gateway, &["stray"], "lost");
            let after = ["A", "B"].map(|id| incarnation(&gateway, id));
            assert_eq!(after, before);

            program.tell("A");
            program.wait_for("session A ended: completed");
            program.tell("C");
            program.wait_for("session C started");
            gateway.settle();
            let log = gateway.path("audit.jsonl");
            let starts = events(&log).into_iter().filter(|event| {
                event["type"] == "session_start" && event["session"]["holder"] == "worker"
            });
            assert_eq!(starts.count(), 4, "each has started once");
            let expected = [("A", "completed"), ("own", reason), ("stray", "lost")];
            assert_eq!(reasons(&ends(&log)), expected);
        }
    }
}

#[test]
fn g11_a_shutdown_of_the_gateway_ends_what_programs_hold_and_they_hear_of_it() {
    for example in Example::all("a gateway that is shut down") {
        let gateway = start();
        let mut program = example.hold(&gateway, "worker", GRACE, &["A"]);
        gateway.begin("own");
        let url = gateway.url().to_owned();
        let ended = gateway.stop(Signal::SIGTERM);
        assert_eq!(ended.report()["drain"]["sessions"], 2);
        let expected = [("A", "shutdown"), ("own", "shutdown")];
        assert_eq!(reasons(&ends(&ended.path("audit.jsonl"))), expected);

        let gateway = start_again(ended.dir, &url);
        program.wait_for("holding");
        program.tell("A");
        program.wait_for("session A started");
        assert_active(&gateway, &["A"]);
    }
}

#[test]
fn g11_a_program_that_died_while_the_gateway_was_away_loses_its_sessions_after_all() {
    // It was given an hour to be back, and has a new run by then.
    let hour = Duration::from_secs(3600);
    for example in Example::all("a holder that died unseen") {
        let gateway = start();
        let program = example.hold(&gateway, "worker", hour, &["A"]);
        let ended = gateway.stop(Signal::SIGKILL);
        program.stop(Signal::SIGKILL);
        let gateway = Gateway::start_in(ended.dir, AUDITED);
        assert_active(&gateway, &["A"]);
        let holder = &gateway.get("/v1/holders").1["holders"][0];
        assert_eq!(holder["lease"], "awaited", "{holder}");
        let _again = example.hold(&gateway, "worker", hour, &["B"]);
        wait_for_ends(&gateway, &["A"], "crash");
        assert_active(&gateway, &["B"]);
    }
}
