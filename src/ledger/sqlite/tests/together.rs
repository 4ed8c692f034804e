//! The ends of many, which one statement records where it can.

use std::sync::Arc;

use super::support::Home;
use crate::event::{Ending, Event, OpenSession};
use crate::ledger::tests::support::*;
use crate::ledger::{Append, Ledger as _};
use crate::session::{End, EndDetails, EndReason, NewSession};

const COUNT: usize = 80;

/// Ends all of some sessions, in the order that `order` gives them, and `reads` what the file has of
/// them afterwards: the places of their ends and of their starts.
fn ended(ending: impl Fn(&Run, Vec<OpenSession>) -> Arc<[Event]>) -> Vec<Told> {
    let home = Home::new();
    let told = {
        let ledger = home.open();
        let run = Run::new();
        let starts =
            (0..COUNT).map(|n| run.start_event(NewSession::new(id(&n.to_string())), at(0)));
        let started = append(&ledger, starts.collect());
        let ends = ending(&run, started.iter().map(open).collect());
        all_told(&get(ledger.append(Append::from(ends))))
    };
    // Not what the writer remembers, but what it wrote.
    let (log, gaps) = read_all(&home.open(), 1000);
    assert_eq!(gaps, 0);
    let left = home.number("SELECT count(*) FROM open");
    assert_eq!(left as usize, COUNT - told.len());
    assert_eq!(log[COUNT..], told);
    told
}

fn end(reason: EndReason) -> Arc<End> {
    let details = EndDetails::default().with_message_count(3);
    Arc::new(End::now(reason, details, at(5)))
}

#[test]
fn all_that_is_open_side_by_side_is_ended_as_it_was_told() {
    let told = ended(|run, open| {
        let count = open.len();
        Ending::new(open.into(), end(EndReason::Restart), run.instance).events(0..count)
    });
    let starts: Vec<_> = told.iter().map(|it| it.start_seq).collect();
    assert_eq!(starts, Vec::from_iter(1..=COUNT as u64));
}

#[test]
fn what_does_not_lie_side_by_side_or_is_in_another_order_is_ended_too() {
    let told = ended(|run, mut open| {
        open.reverse();
        let count = open.len();
        Ending::new(open.into(), end(EndReason::Closed), run.instance).events(0..count)
    });
    assert_eq!(told[0].start_seq, COUNT as u64);
    ended(|run, mut open| {
        open.remove(COUNT / 2);
        let count = open.len();
        Ending::new(open.into(), end(EndReason::Closed), run.instance).events(0..count)
    });
}

#[test]
fn ends_that_are_not_alike_keep_what_each_tells() {
    let told = ended(|run, open| {
        let reasons = [EndReason::Closed, EndReason::Idle].map(end);
        let ends = open.into_iter().enumerate();
        let ends = ends.map(|(n, open)| {
            Event::end(
                open,
                Arc::clone(&reasons[usize::from(n == 40)]),
                run.instance,
            )
        });
        ends.collect()
    });
    let reason = |n: usize| told[n].end.as_ref().unwrap().reason;
    assert_eq!(
        (reason(39), reason(40)),
        (EndReason::Closed, EndReason::Idle)
    );
}
