use super::super::LeaseState;
use super::super::lease::MAX_PAST_RUNS;
use super::*;
use crate::session::{Incarnation, NewSession};

fn name<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

const WALL: Timestamp = Timestamp::UNIX_EPOCH;

fn leave(holders: &mut Holders, holder: &HolderId, now: Instant) {
    let since = holders.begin_to_leave(holder, None).unwrap();
    holders.leave(holder, since, now, WALL);
}

#[test]
fn a_holder_that_shows_that_it_lives_while_it_leaves_stays() {
    let (mut holders, now) = (Holders::default(), Instant::now());
    let (holder, ttl) = (name("h"), FIRST_LEASE);
    holders.beat(&holder, &name("1"), ttl, now, WALL).unwrap();
    let since = holders.begin_to_leave(&holder, Some(&name("1"))).unwrap();
    holders.beat(&holder, &name("2"), ttl, now, WALL).unwrap();
    holders.leave(&holder, since, now, WALL);
    assert!(!holders.forget(&holder, now));
    let over = holders.begin_to_leave(&holder, Some(&name("1")));
    assert!(matches!(over, Err(Refused::RunIsOver { .. })), "{over:?}");
}

#[test]
fn a_holder_that_was_forgotten_with_a_start_under_way_knows_its_past_runs() {
    let (mut holders, now) = (Holders::default(), Instant::now());
    let (holder, ttl) = (name("h"), FIRST_LEASE);
    for run in ["1", "2"] {
        holders.beat(&holder, &name(run), ttl, now, WALL).unwrap();
    }
    leave(&mut holders, &holder, now);
    assert!(holders.forget(&holder, now));
    let gone = holders.begin_to_leave(&holder, Some(&name("1")));
    assert!(gone.is_err(), "a run that was over before");

    let late = |run: &str| {
        let mut new = NewSession::new(name("A"));
        new.holder = Some(name("h"));
        new.run_id = Some(name(run));
        Session::begin(new, Incarnation::generate(), None, WALL)
    };
    let superseded = late("1");
    holders.take_back(&superseded, WALL, now);
    let due = holders.due(&superseded, now).map(|(due, _)| due);
    assert_eq!(due, Some(Due::Superseded));
    assert!(holders.beat(&holder, &name("1"), ttl, now, WALL).is_err());
    holders.beat(&holder, &name("2"), ttl, now, WALL).unwrap();
}

#[test]
fn a_lease_of_long_ago_is_not_waited_for_after_a_restart() {
    let (mut holders, now) = (Holders::default(), Instant::now());
    let (holder, run_id, hour) = (name("h"), name("r"), Duration::from_secs(3600));
    holders.beat(&holder, &run_id, hour, now, WALL).unwrap();
    let mut kept_after = |later| {
        let now = (now + later, WALL);
        let grace = Duration::from_secs(5);
        let connected = holders.connect(&holder, &run_id, grace, false, now);
        connected.unwrap().2.keep.map(|kept| kept.lease)
    };
    assert_eq!(kept_after(hour / 2), None, "both count");
    assert_eq!(kept_after(hour), Some(Duration::from_secs(5)));
}

#[test]
fn leases_that_were_found_to_be_over_do_not_come_back() {
    let (mut holders, now) = (Holders::default(), Instant::now());
    let second = Duration::from_secs(1);
    for (holder, ttl) in [("lost", second), ("living", second * 4)] {
        holders
            .beat(&name(holder), &name("r"), ttl, now, WALL)
            .unwrap();
    }
    let later = now + second * 3;
    assert_eq!(holders.find_lost(later), [name("lost")]);
    assert_eq!(holders.until(&name("lost")), None);
    holders.extend(second * 10, later);
    assert_eq!(holders.until(&name("living")), Some(later + second * 4));
    assert_eq!(holders.next_over(), Some(later + second * 4));
    // A sign of life is another lease.
    holders
        .beat(&name("lost"), &name("r"), second, later, WALL)
        .unwrap();
    assert_eq!(holders.until(&name("lost")), Some(later + second));
}

#[test]
fn a_run_whose_place_was_taken_is_remembered_for_a_while() {
    let (mut holders, now) = (Holders::default(), Instant::now());
    let mut beat = |run: &str| {
        let run_id = name(run);
        holders.beat(&name("h"), &run_id, FIRST_LEASE, now, WALL)
    };
    for number in 0..=MAX_PAST_RUNS {
        assert_eq!(beat(&number.to_string()).unwrap().takes_over, number > 0);
    }
    for number in 0..MAX_PAST_RUNS {
        assert!(beat(&number.to_string()).is_err(), "{number}");
    }
    assert!(beat("one more").unwrap().takes_over);
    // The oldest is forgotten.
    assert!(beat("0").unwrap().takes_over);
}

#[test]
fn a_parents_lease_lasts_whatever_its_child_does() {
    let (mut holders, now) = (Holders::default(), Instant::now());
    let (holder, grace, later) = (name("h"), Duration::ZERO, now + FIRST_LEASE * 2);
    let connect = |holders: &mut Holders, run: &str, is_parent| {
        let connected = holders.connect(&holder, &name(run), grace, is_parent, (now, WALL));
        connected.unwrap().0
    };
    let parent = connect(&mut holders, "1", true);
    let is_connected = |holders: &Holders| {
        let status = holders.statuses(later, |_| 0).pop().unwrap();
        status.lease == LeaseState::Connected && status.expires_in_ms.is_none()
    };

    let own = connect(&mut holders, "1", false);
    holders.disconnect(&holder, own, now, WALL);
    assert!(is_connected(&holders), "after a connection of its own");
    holders
        .beat(&holder, &name("1"), FIRST_LEASE, now, WALL)
        .unwrap();
    let other = connect(&mut holders, "2", false);
    holders.disconnect(&holder, other, now, WALL);
    assert!(is_connected(&holders), "after another run of it");
    leave(&mut holders, &holder, now);
    assert!(!holders.forget(&holder, later), "after its own end");
    assert!(is_connected(&holders));
    assert_eq!(holders.find_lost(later), []);

    holders.disconnect(&holder, parent, now, WALL);
    assert_eq!(holders.find_lost(later), std::slice::from_ref(&holder));
    assert!(holders.forget(&holder, later));
}

#[test]
fn a_sign_of_life_that_is_refused_leaves_no_trace() {
    let (mut holders, now) = (Holders::default(), Instant::now());
    for number in 0..MAX_HOLDERS {
        let holder = name(&number.to_string());
        let change = holders.beat(&holder, &name("run"), FIRST_LEASE, now, WALL);
        assert!(change.unwrap().keep.is_some());
    }
    let refused = holders.beat(&name("h"), &name("run"), FIRST_LEASE, now, WALL);
    assert_eq!(refused, Err(Refused::TooMany));
    assert!(!holders.knows(&name("h")));
    // One that is known is as welcome as before, and nothing new is known of it.
    let again = holders.beat(&name("7"), &name("run"), FIRST_LEASE, now, WALL);
    assert_eq!(again, Ok(Change::default()));
    leave(&mut holders, &name("7"), now);
    assert!(holders.forget(&name("7"), now));
    holders
        .beat(&name("h"), &name("run"), FIRST_LEASE, now, WALL)
        .unwrap();
}
