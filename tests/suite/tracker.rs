//! The registry as a tracker of sessions: scenarios T1 to T6.

use session_supervisor::{EndReason, EndedSession, SessionId, Snapshot};

use crate::support::{Shorthand, builder, in_virtual_time, session};

#[test]
fn t1_the_snapshot_is_empty_when_nothing_has_started() {
    in_virtual_time(async |harness| {
        let supervisor = harness.start(builder()).await;
        assert!(supervisor.active_ids().await.is_empty());
    });
}

#[test]
fn t2_starting_again_with_another_session_file_replaces_the_entry() {
    in_virtual_time(async |harness| {
        let supervisor = harness.start(builder()).await;
        supervisor.begin("A").await;
        let mut again = session("A");
        again.session_file = Some("/data/other.jsonl".into());
        let answer = supervisor.started(again).await.unwrap();
        assert!(!answer.is_new);

        let sessions = supervisor.snapshot().await.unwrap();
        assert_eq!(sessions.len(), 1);
        assert_eq!(sessions[0].session_file(), Some("/data/other.jsonl"));
    });
}

/// A start holds a [`SessionId`], and none that is empty can be had: neither made nor read. What an empty
/// `id` in a request gets is in `gateway/refusals.rs:
/// fields_that_break_the_rules_are_named_and_change_nothing`.
#[test]
fn t3_a_start_with_an_empty_id_is_refused_and_nothing_is_tracked() {
    in_virtual_time(async |harness| {
        let supervisor = harness.start(builder()).await;
        let refused = SessionId::new("").unwrap_err();
        assert_eq!(refused.field, "id");
        let read: Result<SessionId, _> = serde_json::from_value("".into());
        assert!(read.is_err(), "{read:?}");
        assert!(supervisor.active_ids().await.is_empty());
    });
}

#[test]
fn t4_a_session_that_ended_is_listed_no_longer() {
    in_virtual_time(async |harness| {
        let supervisor = harness.start(builder()).await;
        supervisor.begin("A").await;
        supervisor.begin("B").await;
        let ended = supervisor.finish("A", EndReason::Completed).await;
        assert!(matches!(ended, EndedSession::Now(_)));
        assert_eq!(supervisor.active_ids().await, ["B"]);
    });
}

#[test]
fn t5_ending_an_unknown_id_changes_nothing_and_does_not_fail() {
    in_virtual_time(async |harness| {
        let supervisor = harness.start(builder()).await;
        supervisor.begin("A").await;
        let ended = supervisor.finish("nobody", EndReason::Completed).await;
        assert!(matches!(ended, EndedSession::Unknown));
        assert_eq!(supervisor.active_ids().await, ["A"]);
    });
}

#[test]
fn t6_emptying_a_snapshot_leaves_the_next_one_whole() {
    in_virtual_time(async |harness| {
        let supervisor = harness.start(builder()).await;
        supervisor.begin("A").await;
        let mut snapshot = supervisor.registry().send(Snapshot).await.unwrap();
        snapshot.clear();
        assert_eq!(supervisor.active_ids().await, ["A"]);
    });
}
