//! The bench's plugin: how it takes events, and what that makes of a delivery.

use std::collections::HashMap;
use std::time::Duration;

use super::bench::Bench;
use crate::bus::lane::{Failure, Flight, Outcome};
use crate::event::{Event, Hook, Verdict};
use crate::plugin::DeliveryPolicy;

/// What the bench's plugin makes of one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    Well,
    Rejects,
    /// The delivery fails at this event with an error of its own.
    Fails,
    Down,
    Hangs,
    Panics,
    /// The process dies.
    Kills,
}

pub(super) fn policy() -> DeliveryPolicy {
    DeliveryPolicy::default()
}

/// A policy for deliveries of at most `max_batch` events.
pub(super) fn batches_of(max_batch: usize) -> DeliveryPolicy {
    DeliveryPolicy {
        max_batch,
        ..policy()
    }
}

/// A plugin that takes each event as `behaviour` says of its name, and all others well.
pub(super) fn takes<const N: usize>(
    behaviour: [(&'static str, Takes); N],
) -> Box<dyn FnMut(&Event) -> Takes> {
    let behaviour = HashMap::from(behaviour);
    let takes = move |event: &Event| behaviour.get(&*name(event)).copied();
    Box::new(move |event| takes(event).unwrap_or(Takes::Well))
}

/// `"A+"` for the start of A, `"A-"` for its end.
pub(super) fn name(event: &Event) -> String {
    let session = event.session().expect("an event of a session");
    let sign = match event.hook() {
        Hook::SessionStart => '+',
        _ => '-',
    };
    format!("{}{sign}", session.id)
}

pub(super) fn names(flight: &Flight) -> String {
    let names: Vec<_> = flight.events.iter().map(name).collect();
    names.join(" ")
}

impl Bench {
    pub(super) fn outcome(&mut self, flight: &Flight) -> (Outcome, Duration) {
        if let Some(outcome) = self.next_outcome.take() {
            return (outcome, self.call_time);
        }
        let mut verdicts = Vec::new();
        let mut failure = None;
        for event in flight.events.iter() {
            let open_or_acknowledged = match self.acks_singly {
                true => Verdict::Acknowledged,
                false => Verdict::Open,
            };
            failure = match (self.plugin)(event) {
                Takes::Well => {
                    verdicts.push(open_or_acknowledged);
                    continue;
                }
                Takes::Rejects => {
                    verdicts.push(Verdict::Rejected("rejected".into()));
                    continue;
                }
                Takes::Fails => Some(Failure::Error("failed".into())),
                Takes::Down => Some(Failure::Down("down".into(), None)),
                Takes::Hangs => Some(Failure::TimedOut(None)),
                Takes::Kills => {
                    self.kills = true;
                    break;
                }
                Takes::Panics => Some(Failure::Panicked("panicked".into())),
            };
            break;
        }
        let calls = u32::try_from(flight.events.len()).unwrap();
        let took = match failure {
            Some(Failure::TimedOut(_)) => self.policy.timeout,
            _ => self.call_time * calls,
        };
        if verdicts.iter().all(|verdict| *verdict == Verdict::Open) {
            verdicts.clear();
        } else {
            verdicts.resize(flight.events.len(), Verdict::Open);
        }
        (Outcome { verdicts, failure }, took)
    }
}
