//! The ledger does what a naive list does, whenever it is closed, killed and opened again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::support::Home;
use crate::event::OpenSession;
use crate::ledger::sqlite::SqliteLedger;
use crate::ledger::tests::support::*;
use crate::ledger::{Append, Ledger, Progress};
use crate::session::{End, EndDetails, EndReason, Metadata, NewSession};

const PLUGINS: [&str; 3] = ["audit", "crm", "sink"];
const RETENTION: Duration = Duration::from_secs(5);

#[derive(Debug, Clone)]
enum Step {
    /// This session starts, or ends if it is active.
    Toggle(usize),
    /// One session ends and another starts in one append.
    Replace(usize, usize),
    /// An active session gets other details.
    Amend(usize),
    /// An end that can't be: the session has ended.
    EndAgain(usize),
    Attach(usize),
    /// The plugin goes so many events on and parks some of them; whether they are dead.
    Advance(usize, usize, Vec<bool>),
    /// The plugin's first parked event is acknowledged.
    Unpark(usize),
    /// Only these are configured.
    Configure(Vec<bool>),
    Pass,
    Reclaim,
    Close,
    /// And what the next run recovers.
    Kill,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let id = 0usize..4;
    let plugin = 0usize..PLUGINS.len();
    let step = prop_oneof![
        8 => id.clone().prop_map(Step::Toggle),
        2 => (id.clone(), id.clone()).prop_map(|(old, new)| Step::Replace(old, new)),
        2 => id.clone().prop_map(Step::Amend),
        1 => id.prop_map(Step::EndAgain),
        2 => plugin.clone().prop_map(Step::Attach),
        6 => (plugin.clone(), 1usize..6, vec(any::<bool>(), 0..3))
            .prop_map(|(plugin, count, dead)| Step::Advance(plugin, count, dead)),
        2 => plugin.prop_map(Step::Unpark),
        1 => vec(any::<bool>(), 3).prop_map(Step::Configure),
        3 => Just(Step::Pass),
        3 => Just(Step::Reclaim),
        1 => Just(Step::Close),
        1 => Just(Step::Kill),
    ];
    vec(step, 1..60)
}

#[derive(Debug, Clone)]
struct Plugin {
    since: u64,
    cursor: u64,
    /// By place, whether it is dead.
    parked: BTreeMap<u64, bool>,
    detached_at: Option<i64>,
}

#[derive(Debug, Default)]
struct Model {
    log: BTreeMap<u64, Told>,
    head: u64,
    /// By number of the id.
    active: BTreeMap<usize, OpenSession>,
    last_ended: Option<OpenSession>,
    plugins: BTreeMap<usize, Plugin>,
}

impl Model {
    fn record(&mut self, events: &[crate::event::Event]) {
        for event in events {
            self.head += 1;
            assert_eq!(event.seq(), Some(self.head));
            self.log.insert(self.head, told(event));
        }
    }

    fn reclaim(&mut self, now: i64) -> Vec<(String, u64)> {
        let before = now - 5;
        let over: Vec<_> = self
            .plugins
            .iter()
            .filter(|(_, plugin)| plugin.detached_at.is_some_and(|at| at <= before))
            .map(|(&number, _)| number)
            .collect();
        let mut dropped = Vec::new();
        for number in over {
            if let Some(plugin) = self.plugins.remove(&number) {
                let parked = plugin.parked.values().filter(|dead| !**dead).count();
                let owed = self.head - plugin.cursor + parked as u64;
                dropped.push((PLUGINS[number].to_owned(), owed));
            }
        }
        let slowest = self.plugins.values().map(|plugin| plugin.cursor).min();
        let parked: BTreeSet<_> = self
            .plugins
            .values()
            .flat_map(|plugin| plugin.parked.keys().copied())
            .collect();
        let goes = |told: &Told| {
            told.end.is_some()
                && told.timestamp <= at(before)
                && told.seq <= slowest.unwrap_or(u64::MAX)
                && told.seq < self.head
                && !parked.contains(&told.seq)
                && !parked.contains(&told.start_seq)
        };
        let gone: Vec<_> = self
            .log
            .values()
            .filter(|told| goes(told))
            .cloned()
            .collect();
        for told in gone {
            self.log.remove(&told.seq);
            self.log.remove(&told.start_seq);
        }
        dropped
    }
}

struct World {
    home: Home,
    ledger: Option<SqliteLedger>,
    run: Run,
    now: i64,
    model: Model,
}

impl World {
    fn new() -> Self {
        let home = Home::new();
        let ledger = Some(home.open());
        let mut world = Self {
            home,
            ledger,
            run: Run::new(),
            now: 0,
            model: Model::default(),
        };
        world.begin();
        world
    }

    fn ledger(&self) -> &SqliteLedger {
        self.ledger.as_ref().unwrap()
    }

    fn begin(&mut self) {
        self.run = Run::new();
        let recovery = get(self.ledger().recover(self.run.instance, at(self.now)));
        assert_eq!(recovery.found as usize, self.model.active.len());
        let mut open: Vec<_> = std::mem::take(&mut self.model.active)
            .into_values()
            .collect();
        open.sort_by_key(|open| open.start_seq);
        for open in open {
            // Nobody calls `keep_alive`, so they ended when they started.
            let started = self.model.log[&open.start_seq].timestamp;
            let end = End {
                ended_at: started,
                ..End::now(EndReason::Crash, EndDetails::default(), at(self.now))
            };
            let event = self.run.end_event(&open, end);
            let seq = self.model.head + 1;
            self.model.record(&[event.with_seq(seq)]);
        }
    }

    fn start(&self, number: usize) -> crate::event::Event {
        let mut new = NewSession::new(id(&format!("s{number}")));
        new.metadata = Metadata::from_iter([("at", self.now.into())]);
        self.run.start_event(new, at(self.now))
    }

    fn end(&self, open: &OpenSession) -> crate::event::Event {
        let details = EndDetails {
            detail: (self.now % 2 == 0).then(|| "even".into()),
            ..EndDetails::default()
        };
        let end = End::now(EndReason::Completed, details, at(self.now));
        self.run.end_event(open, end)
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Toggle(number) => match self.model.active.remove(number) {
                Some(open) => {
                    let events = append(self.ledger(), vec![self.end(&open)]);
                    self.model.record(&events);
                    self.model.last_ended = Some(open);
                }
                None => {
                    let events = append(self.ledger(), vec![self.start(*number)]);
                    self.model.active.insert(*number, open(&events[0]));
                    self.model.record(&events);
                }
            },
            Step::Replace(old, new) => {
                if self.model.active.contains_key(new) {
                    return;
                }
                let Some(replaced) = self.model.active.remove(old) else {
                    return;
                };
                let events = vec![self.end(&replaced), self.start(*new)];
                let events = append(self.ledger(), events);
                self.model.active.insert(*new, open(&events[1]));
                self.model.record(&events);
            }
            Step::Amend(number) => {
                let now = self.now;
                let Some(open) = self.model.active.get_mut(number) else {
                    return;
                };
                let mut new = NewSession::new(open.session.id.clone());
                new.agent_id = Some(format!("agent {now}").into());
                open.session = Arc::new(open.session.replace_details(new));
                let amended = Some(open.clone());
                get(self.ledger().append(Append {
                    events: Arc::default(),
                    amended,
                }));
            }
            Step::EndAgain(number) => {
                let Some(open) = &self.model.last_ended else {
                    return;
                };
                let events = [self.start(*number), self.end(open)];
                ask(self.ledger().append(Append::from(events))).unwrap_err();
            }
            Step::Attach(number) => {
                let position = get(self.ledger().attach(PLUGINS[*number]));
                let head = self.model.head;
                let plugin = self.model.plugins.entry(*number).or_insert(Plugin {
                    since: head,
                    cursor: head,
                    parked: BTreeMap::new(),
                    detached_at: None,
                });
                plugin.detached_at = None;
                assert_eq!(
                    (position.since, position.cursor),
                    (plugin.since, plugin.cursor)
                );
                let parked = position.parked.iter().map(|row| told(&row.event));
                let is_alive = |(seq, dead): (&u64, &bool)| (!dead).then_some(*seq);
                let expected = plugin.parked.iter().filter_map(is_alive);
                let expected = expected.map(|seq| self.model.log[&seq].clone());
                assert_eq!(parked.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
                let is_dead = |(seq, dead): (&u64, &bool)| dead.then_some(*seq);
                let expected = plugin.parked.iter().filter_map(is_dead);
                let expected = expected.map(|seq| (seq, self.model.log[&seq].session.incarnation));
                assert_eq!(position.dead, expected.collect::<Vec<_>>());
            }
            Step::Advance(number, count, dead) => {
                let Some(plugin) = self.model.plugins.get_mut(number) else {
                    ask(self
                        .ledger
                        .as_ref()
                        .unwrap()
                        .advance(PLUGINS[*number], Progress::default()))
                    .unwrap_err();
                    return;
                };
                let ledger = self.ledger.as_ref().unwrap();
                let page = get(ledger.read(plugin.cursor, *count));
                assert_eq!(page.gap, 0, "nothing is lost that a plugin is owed");
                let Some(last) = page.events.last() else {
                    assert_eq!(plugin.cursor, self.model.head);
                    return;
                };
                plugin.cursor = last.recorded_seq();
                let park: Vec<_> = page
                    .events
                    .iter()
                    .zip(dead)
                    .map(|(event, &dead)| parked(event, 1, dead))
                    .collect();
                for row in &park {
                    plugin.parked.insert(row.event.recorded_seq(), row.dead);
                }
                let progress = Progress {
                    cursor: Some(plugin.cursor),
                    park,
                    unpark: Vec::new(),
                };
                get(ledger.advance(PLUGINS[*number], progress));
            }
            Step::Unpark(number) => {
                let plugin = self.model.plugins.get_mut(number);
                let Some((seq, _)) = plugin.and_then(|plugin| plugin.parked.pop_first()) else {
                    return;
                };
                let progress = Progress {
                    unpark: vec![seq],
                    ..Progress::default()
                };
                get(self.ledger().advance(PLUGINS[*number], progress));
            }
            Step::Configure(configured) => {
                let is_configured = |number: &usize| configured[*number];
                let names: Vec<Arc<str>> = (0..PLUGINS.len())
                    .filter(is_configured)
                    .map(|number| PLUGINS[number].into())
                    .collect();
                get(self.ledger().detach_others(&names, at(self.now)));
                for (number, plugin) in &mut self.model.plugins {
                    plugin.detached_at = match configured[*number] {
                        true => None,
                        false => plugin.detached_at.or(Some(self.now)),
                    };
                }
            }
            Step::Pass => self.now += 3,
            Step::Reclaim => {
                let mut reclaimed = get(self.ledger().reclaim(at(self.now), RETENTION));
                let mut dropped = std::mem::take(&mut reclaimed.dropped);
                while reclaimed.more {
                    reclaimed = get(self.ledger().reclaim(at(self.now), RETENTION));
                    dropped.append(&mut reclaimed.dropped);
                }
                dropped.sort_unstable();
                assert_eq!(dropped, self.model.reclaim(self.now));
            }
            Step::Close => {
                if let Some(ledger) = self.ledger.take() {
                    ledger.close();
                }
                self.ledger = Some(self.home.open());
            }
            Step::Kill => {
                let killed = self.home.killed();
                if let Some(ledger) = self.ledger.take() {
                    ledger.close();
                }
                self.home = killed;
                self.ledger = Some(self.home.open());
                self.begin();
            }
        }
    }

    fn check(&self) {
        let (ledger, model) = (self.ledger(), &self.model);
        assert_eq!(ledger.head(), model.head);
        for number in 0..4 {
            let name = id(&format!("s{number}"));
            let ended = get(ledger.last_ended(&name));
            let ended = ended.and_then(|record| record.end.map(|(_, seq)| seq));
            let expected = model.log.values().rev();
            let mut expected =
                expected.filter(|told| told.end.is_some() && told.session.id == name);
            // By the order of the starts; of one id that is the order of the ends.
            assert_eq!(ended, expected.next().map(|told| told.seq));
        }
        let listed = get(ledger.ended(&Default::default(), at(self.now), 0, 1000));
        let listed: Vec<_> = listed
            .into_iter()
            .map(|record| (record.start_seq, record.session))
            .collect();
        let ends = model.log.values().filter(|told| told.end.is_some());
        let mut expected: Vec<_> = ends
            .map(|told| (told.start_seq, Arc::clone(&told.session)))
            .collect();
        expected.sort_by_key(|(start_seq, _)| *start_seq);
        assert_eq!(listed, expected);
        for (number, plugin) in &model.plugins {
            let dead = get(ledger.dead_letters(PLUGINS[*number], 0, 1000));
            let dead: Vec<_> = dead.iter().map(|row| told(&row.event)).collect();
            let expected = plugin.parked.iter().filter(|(_, dead)| **dead);
            let expected = expected.map(|(seq, _)| model.log[seq].clone());
            assert_eq!(dead, expected.collect::<Vec<_>>());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_ledger_does_what_a_naive_list_does_however_often_it_is_opened(steps in steps()) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
            world.check();
        }
        // As a later process reads it, from the file alone.
        world.step(&Step::Close);
        world.check();
        let (log, _) = read_all(world.ledger(), 3);
        prop_assert_eq!(log, world.model.log.into_values().collect::<Vec<_>>());
    }
}
