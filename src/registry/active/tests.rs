//! What the table answers after all that changes it.

use super::*;
use crate::session::EndReason;

fn session(id: &str, key: Option<&str>) -> Arc<Session> {
    let mut new = NewSession::new(SessionId::new(id).unwrap());
    new.key = key.map(|key| SessionKey::new(key).unwrap());
    let incarnation = Incarnation::generate();
    Arc::new(Session::begin(
        new,
        incarnation,
        None,
        Timestamp::UNIX_EPOCH,
    ))
}

#[test]
fn age_ends_a_session_that_is_touched_all_the_time_and_idleness_one_that_is_not() {
    let (mut active, start) = (ActiveSessions::default(), Instant::now());
    let minutes = |n: u64| Duration::from_secs(60 * n);
    active.insert(&session("busy", None), 1, start, Duration::ZERO);
    active.insert(&session("quiet", None), 2, start, Duration::ZERO);
    active.insert(&session("old", None), 3, start, minutes(50));
    let expiry = Expiry {
        idle_after: Some(minutes(30)),
        max_age: Some(minutes(60)),
    };
    let names = |active: &ActiveSessions, at| {
        let mut names: Vec<_> = active
            .expired(expiry, at)
            .into_iter()
            .map(|(open, reason)| (open.session.id.to_string(), reason))
            .collect();
        names.sort();
        names
    };

    assert!(names(&active, start + minutes(9)).is_empty());
    let old = ("old".into(), EndReason::Expired);
    assert_eq!(
        names(&active, start + minutes(10)),
        std::slice::from_ref(&old)
    );

    let busy = SessionId::new("busy").unwrap();
    assert!(active.touch(&busy, None, start + minutes(29)));
    let quiet = ("quiet".into(), EndReason::Idle);
    assert_eq!(names(&active, start + minutes(30)), [old, quiet]);
}

#[test]
fn the_order_of_starts_is_kept_by_all_that_changes_the_table() {
    let (mut active, now) = (ActiveSessions::default(), Instant::now());
    let sessions = ["d", "c", "b", "a"].map(|id| session(id, None));
    for (seq, session) in (1..).zip(&sessions) {
        active.insert(session, 2 * seq, now, Duration::ZERO);
    }
    let page = |active: &ActiveSessions, after| {
        let filter = SessionFilter::default();
        let matching = active.matching(&filter, now, Timestamp::UNIX_EPOCH, after);
        let ids = matching.map(|record| record.session.id.to_string());
        ids.collect::<Vec<_>>()
    };
    assert_eq!(page(&active, 0), ["d", "c", "b", "a"]);
    assert_eq!(page(&active, 4), ["b", "a"]);
    assert_eq!(page(&active, 5), ["b", "a"]);
    assert!(page(&active, Seq::MAX).is_empty());

    let amended = session("c", Some("k"));
    active.amend(&amended, now);
    active.remove(&sessions[0].id);
    active.set_ending(&sessions[3].id, true);
    assert_eq!(page(&active, 0), ["c", "b"]);

    let taken = TakenSessions::new(active.take_not_ending(false));
    let snapshot = [(amended, 4), (Arc::clone(&sessions[2]), 6)];
    let snapshot = snapshot.map(|(session, seq)| OpenSession::new(session, seq));
    assert_eq!(**taken.all(), snapshot);
    for open in &snapshot {
        let record = taken.record(&open.session.id).unwrap();
        assert_eq!(
            (record.session, record.start_seq),
            (Arc::clone(&open.session), open.start_seq)
        );
    }
    assert!(taken.record(&sessions[0].id).is_none());
    assert!(taken.record(&sessions[3].id).is_none());
    active.set_ending(&sessions[3].id, false);
    assert_eq!(page(&active, 0), ["a"]);
}

#[test]
fn a_key_that_moved_on_is_not_freed_by_its_former_session() {
    let (mut active, now) = (ActiveSessions::default(), Instant::now());
    let first = session("first", Some("k"));
    let second = session("second", Some("k"));
    active.insert(&first, 1, now, Duration::ZERO);
    active.insert(&second, 2, now, Duration::ZERO);
    active.remove(&SessionId::new("first").unwrap());

    let mut third = NewSession::new(SessionId::new("third").unwrap());
    third.key = second.key.clone();
    let displaced = active.plan_start(&third).displaced.map(|open| open.session);
    assert_eq!(displaced, Some(second));
}

#[test]
fn what_stays_when_the_rest_is_taken_keeps_its_order_whatever_slots_it_had() {
    let (mut active, now) = (ActiveSessions::default(), Instant::now());
    let name = |n: u64| format!("s{n}");
    for n in 1..=20 {
        active.insert(&session(&name(n), None), n, now, Duration::ZERO);
    }
    // The slots of those that went are taken again, the last one first.
    for n in 1..=10 {
        active.remove(&SessionId::new(name(n)).unwrap());
    }
    for n in 21..=30 {
        active.insert(&session(&name(n), Some(&name(n))), n, now, Duration::ZERO);
    }
    for n in (12..=30).step_by(2) {
        active.set_ending(&SessionId::new(name(n)).unwrap(), true);
    }
    let taken = TakenSessions::new(active.take_not_ending(false));
    let taken: Vec<_> = taken.all().iter().map(|open| open.start_seq).collect();
    let odd: Vec<_> = (11..=30).filter(|n| n % 2 == 1).collect();
    assert_eq!(taken, odd);
    for n in (12..=30).step_by(2) {
        active.set_ending(&SessionId::new(name(n)).unwrap(), false);
    }
    assert_eq!((active.len(), active.ending), (10, 0));
    let filter = SessionFilter::default();
    let left = active.matching(&filter, now, Timestamp::UNIX_EPOCH, 0);
    let left: Vec<_> = left.map(|record| record.start_seq).collect();
    assert_eq!(left, Vec::from_iter((12..=30).step_by(2)));
    let mut new = NewSession::new(SessionId::new("new").unwrap());
    new.key = Some(SessionKey::new(name(22)).unwrap());
    let displaced = active.plan_start(&new).displaced.map(|open| open.start_seq);
    assert_eq!(displaced, Some(22));
}

#[test]
fn a_table_that_is_shown_does_not_show_who_is_in_it() {
    let shared = SharedSessions::default();
    shared.insert(&session("secret", None), 1, Instant::now(), Duration::ZERO);
    assert_eq!(format!("{shared:?}"), "SharedSessions { len: 1, .. }");
}
