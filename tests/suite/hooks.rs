//! What plugins receive: scenarios H1 and H2, and the wire form.

use jiff::Timestamp;
use serde_json::{Value, json};
use session_supervisor::testing::{Harness, Recording, recorder};
use session_supervisor::{
    EndDetails, EndReason, Ended, Incarnation, Metadata, SessionId, SessionKey, SessionSupervisor,
    Shutdown,
};

use crate::support::{builder, id, in_virtual_time, session};

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// A supervisor whose wall clock stands at noon.
async fn at_noon(harness: &Harness) -> (SessionSupervisor, Recording) {
    let (plugin, told) = recorder("p");
    let noon = at("2026-11-22T12:00:00.5Z");
    let supervisor = harness
        .start(builder().plugin(plugin).wall_clock(move || noon))
        .await;
    (supervisor, told)
}

fn wire(told: &Recording, index: usize) -> Value {
    let event = &told.events()[index];
    let remaining = std::time::Duration::from_millis(1874);
    serde_json::to_value(event.wire(1, remaining)).unwrap()
}

async fn start_a_full_session(supervisor: &SessionSupervisor) -> Incarnation {
    let mut new = session("sess-A");
    new.key = Some(SessionKey::new("agent:main:main").unwrap());
    new.agent_id = Some("main".into());
    new.store_path = Some("/data/store.json".into());
    new.session_file = Some("/data/sess-A.jsonl".into());
    new.resumed_from = Some(SessionId::new("sess-0").unwrap());
    new.started_at = Some(at("2026-11-22T11:00:00Z"));
    new.metadata = Metadata::from_iter([("channel", "web".into())]);
    supervisor.started(new).await.unwrap().session.incarnation
}

fn session_on_the_wire(incarnation: Incarnation) -> Value {
    json!({
        "id": "sess-A", "incarnation": incarnation, "previous_incarnation": null,
        "key": "agent:main:main", "agent_id": "main",
        "store_path": "/data/store.json", "session_file": "/data/sess-A.jsonl",
        "resumed_from": "sess-0", "holder": null,
        "started_at": "2026-11-22T11:00:00.000Z", "metadata": {"channel": "web"},
    })
}

#[test]
fn h1_a_session_start_handler_receives_exactly_the_event() {
    in_virtual_time(async |harness| {
        let (supervisor, told) = at_noon(harness).await;
        let incarnation = start_a_full_session(&supervisor).await;
        told.wait_for(1).await;
        let event = &told.events()[0];
        let expected = json!({
            "schema": 1, "type": "session_start", "event_id": event.id(), "seq": 1,
            "timestamp": "2026-11-22T12:00:00.500Z",
            "session": session_on_the_wire(incarnation),
            "instance": supervisor.instance(),
            "attempt": 1, "remaining_ms": 1874, "synthetic": false,
        });
        assert_eq!(wire(&told, 0), expected);
    });
}

#[test]
fn h2_a_session_end_handler_receives_exactly_the_event_with_reason_and_next_id() {
    in_virtual_time(async |harness| {
        let (supervisor, told) = at_noon(harness).await;
        let incarnation = start_a_full_session(&supervisor).await;
        let mut ended = Ended::new(id("sess-A"), EndReason::Compaction);
        let mut details = EndDetails::default();
        details.detail = Some("too long".into());
        details.next_session_id = Some(id("sess-B"));
        details.next_key = Some(SessionKey::new("agent:main:next").unwrap());
        details.message_count = Some(42);
        details.transcript_archived = Some(true);
        ended.details = details;
        supervisor.ended(ended).await.unwrap();
        told.wait_for(2).await;
        let event = &told.events()[1];
        let expected = json!({
            "schema": 1, "type": "session_end", "event_id": event.id(), "seq": 2,
            "timestamp": "2026-11-22T12:00:00.500Z",
            "session": session_on_the_wire(incarnation),
            "reason": "compaction", "detail": "too long", "resumable": false,
            "ended_at": "2026-11-22T12:00:00.500Z", "detected_at": "2026-11-22T12:00:00.500Z",
            "duration_ms": 3_600_500, "message_count": 42, "transcript_archived": true,
            "next_session_id": "sess-B", "next_key": "agent:main:next",
            "instance": supervisor.instance(),
            "attempt": 1, "remaining_ms": 1874, "synthetic": false,
        });
        assert_eq!(wire(&told, 1), expected);
        assert_ne!(told.events()[0].id(), told.events()[1].id());
    });
}

#[test]
fn a_drained_end_has_the_shape_of_a_normal_one() {
    in_virtual_time(async |harness| {
        let (supervisor, told) = at_noon(harness).await;
        let incarnation = start_a_full_session(&supervisor).await;
        supervisor.shutdown(Shutdown::now()).await.unwrap();
        let end = wire(&told, 1);
        assert_eq!(end["session"], session_on_the_wire(incarnation));
        assert_eq!(end["reason"], "shutdown");
        assert_eq!(end["resumable"], true);
        assert_eq!(end["next_session_id"], Value::Null);
        assert_eq!(end.as_object().unwrap().len(), 20);
    });
}

#[test]
fn a_lifecycle_event_has_its_own_shape() {
    in_virtual_time(async |harness| {
        let (plugin, told) = recorder("p");
        let hooks = session_supervisor::Hooks::ALL;
        let supervisor = harness
            .start(builder().plugin(plugin.with_hooks(hooks)))
            .await;
        supervisor.shutdown(Shutdown::now()).await.unwrap();
        let shutdown = wire(&told, 1);
        assert_eq!(shutdown["type"], "gateway_shutdown");
        let keys: Vec<_> = shutdown.as_object().unwrap().keys().collect();
        let expected = [
            "active_sessions",
            "event_id",
            "instance",
            "reason",
            "restart_expected_ms",
            "schema",
            "timestamp",
            "type",
        ];
        assert_eq!(keys, expected);
    });
}
