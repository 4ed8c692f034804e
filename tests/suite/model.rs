//! G1, G2 and G3 against a naive model: random operations, and what plugins were told after each
//! of them must be what the model says.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use session_supervisor::testing::recorder;
use session_supervisor::{EndReason, Ended, EndedSession, Shutdown};
use tokio::time::sleep;

use crate::faulty_ledger::{Call, Fault, FaultyLedger};
use crate::support::{Shorthand, builder, id, in_virtual_time, session};

const IDS: [&str; 4] = ["A", "B", "C", "D"];
const KEYS: [&str; 2] = ["k1", "k2"];
const REASONS: [EndReason; 3] = [EndReason::Completed, EndReason::Reset, EndReason::Deleted];

#[derive(Debug, Clone)]
enum Operation {
    Start {
        id: usize,
        key: Option<usize>,
    },
    End {
        id: usize,
        reason: usize,
    },
    /// Ends an incarnation before the one that is active.
    EndStale {
        id: usize,
    },
}

fn operation() -> impl Strategy<Value = Operation> {
    let ids = 0..IDS.len();
    prop_oneof![
        3 => (ids.clone(), proptest::option::of(0..KEYS.len()))
            .prop_map(|(id, key)| Operation::Start { id, key }),
        2 => (ids.clone(), 0..REASONS.len())
            .prop_map(|(id, reason)| Operation::End { id, reason }),
        1 => ids.prop_map(|id| Operation::EndStale { id }),
    ]
}

/// Sessions as a table on paper: the active ids with their keys, and the lines told so far.
#[derive(Default)]
struct Model {
    active: BTreeMap<&'static str, Option<&'static str>>,
    told: Vec<String>,
}

impl Model {
    fn start(&mut self, id: &'static str, key: Option<&'static str>) {
        let holder = self
            .active
            .iter()
            .find(|(_, held)| key.is_some() && **held == key);
        if let Some(&displaced) = holder.map(|(holder, _)| holder)
            && displaced != id
        {
            self.end(displaced, "replaced");
        }
        if self.active.insert(id, key).is_none() {
            self.told.push(format!("session_start {id}"));
        }
    }

    fn end(&mut self, id: &'static str, reason: impl std::fmt::Display) -> bool {
        let was_active = self.active.remove(id).is_some();
        if was_active {
            self.told.push(format!("session_end {id} {reason}"));
        }
        was_active
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn g1_g2_g3_the_registry_does_what_a_naive_table_does(
        operations in proptest::collection::vec(operation(), 1..60)
    ) {
        in_virtual_time(async move |harness| {
            let (plugin, told) = recorder("p");
            let supervisor = harness.start(builder().plugin(plugin)).await;
            let mut model = Model::default();
            let mut incarnations = BTreeMap::new();
            for operation in operations {
                match operation {
                    Operation::Start { id: index, key } => {
                        let key = key.map(|key| KEYS[key]);
                        let was_active = model.active.contains_key(IDS[index]);
                        model.start(IDS[index], key);
                        let mut new = session(IDS[index]);
                        new.key = key.map(|key| key.parse().unwrap());
                        let answer = supervisor.started(new).await.unwrap();
                        assert_eq!(answer.is_new, !was_active);
                        let all: &mut Vec<_> = incarnations.entry(index).or_default();
                        if answer.is_new {
                            assert_eq!(answer.session.previous_incarnation(), all.last().copied());
                            all.push(answer.session.incarnation);
                        }
                    }
                    Operation::End { id: index, reason } => {
                        let reason = REASONS[reason];
                        let ends = model.end(IDS[index], reason);
                        let ended = Ended::new(id(IDS[index]), reason);
                        let answer = supervisor.ended(ended).await.unwrap();
                        assert_eq!(matches!(answer, EndedSession::Now(_)), ends);
                    }
                    Operation::EndStale { id: index } => {
                        let all = incarnations.entry(index).or_default();
                        let [.., stale, _] = all[..] else { continue };
                        let mut ended = Ended::new(id(IDS[index]), EndReason::Closed);
                        ended.incarnation = Some(stale);
                        let answer = supervisor.ended(ended).await.unwrap();
                        assert!(matches!(answer, EndedSession::Unchanged(_)));
                    }
                }
                let active: Vec<_> = model.active.keys().copied().collect();
                let mut snapshot = supervisor.snapshot().await.unwrap();
                snapshot.sort_by(|a, b| a.id.cmp(&b.id));
                let snapshot: Vec<_> = snapshot.iter().map(|it| it.id.as_str()).collect();
                assert_eq!(snapshot, active);
            }
            for id in model.active.keys().copied().collect::<Vec<_>>() {
                model.end(id, "shutdown");
            }
            let report = supervisor.shutdown(Shutdown::now()).await.unwrap();
            assert_eq!(report.drain.lost + report.drain.owed, 0);
            // The drain ends sessions in no particular order; all before is in order.
            let (mut expected, mut lines) = (model.told, told.lines());
            let drained = usize::try_from(report.drain.sessions).unwrap();
            let before = expected.len() - drained;
            assert_eq!(lines.len(), expected.len());
            expected[before..].sort();
            lines[before..].sort();
            assert_eq!(lines, expected);
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn g3_messages_sent_all_at_once_do_what_they_would_one_by_one(
        operations in proptest::collection::vec(operation(), 1..60),
        is_slow in any::<bool>(),
    ) {
        in_virtual_time(async move |harness| {
            let ledger = FaultyLedger::new();
            let (plugin, told) = recorder("p");
            let supervisor = harness.start(builder().plugin(plugin).ledger(ledger.clone())).await;
            let mut model = Model::default();
            let mut answers: Vec<std::pin::Pin<Box<dyn Future<Output = ()>>>> = Vec::new();
            if is_slow {
                ledger.breaks(Call::Append, 0, Fault::Hangs);
                answers.push(Box::pin(async {
                    sleep(Duration::from_millis(1)).await;
                    ledger.heal();
                }));
            }
            for operation in operations {
                match operation {
                    Operation::Start { id: index, key } => {
                        let key = key.map(|key| KEYS[key]);
                        model.start(IDS[index], key);
                        let mut new = session(IDS[index]);
                        new.key = key.map(|key| key.parse().unwrap());
                        let started = supervisor.started(new);
                        answers.push(Box::pin(async { drop(started.await.unwrap()) }));
                    }
                    Operation::End { id: index, reason } => {
                        model.end(IDS[index], REASONS[reason]);
                        let ended = Ended::new(id(IDS[index]), REASONS[reason]);
                        let ended = supervisor.ended(ended);
                        answers.push(Box::pin(async { drop(ended.await.unwrap()) }));
                    }
                    Operation::EndStale { .. } => {}
                }
            }
            futures_util::future::join_all(answers).await;
            let active: Vec<_> = model.active.keys().copied().collect();
            assert_eq!(supervisor.active_ids().await, active);
            supervisor.shutdown(Shutdown::now()).await.unwrap();
            for id in active {
                model.end(id, "shutdown");
            }
            // Sessions that share no key have no order among each other.
            let lines = told.lines();
            for id in IDS {
                let is_of = |line: &&String| line.split(' ').nth(1) == Some(id);
                let told: Vec<_> = lines.iter().filter(is_of).collect();
                let expected: Vec<_> = model.told.iter().filter(is_of).collect();
                assert_eq!(told, expected);
            }
        });
    }
}
