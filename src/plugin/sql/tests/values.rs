//! What the parameters stand for.

use std::fmt::Display;
use std::sync::Arc;

use rusqlite::types::Value;

use super::super::parameters;
use super::*;
use crate::event::{InstanceId, Lifecycle, OpenSession};
use crate::session::{
    End, EndDetails, EndReason, Incarnation, Metadata, NewSession, Session, SessionId, SessionKey,
};

/// Runs `event` through a statement that stores every parameter; returns name and value of each.
async fn stored_parameters(event: Event) -> Vec<(&'static str, Value)> {
    let names: Vec<_> = parameters::ALL.iter().map(|known| known.name).collect();
    let columns = names.join("\", \"");
    let values = names.iter().enumerate().map(|(number, name)| {
        let prefix = [":", "@", "$"][number % 3];
        format!("{prefix}{name}")
    });
    // In another order than they are listed, and one of them twice.
    let values = values.collect::<Vec<_>>().join(", ");
    let app = App::new(&format!("CREATE TABLE facts (\"{columns}\", once_more)"));
    let sql = format!(
        "WITH given(once_more) AS (SELECT :metadata) \
         INSERT INTO facts SELECT {values}, once_more FROM given RETURNING *"
    );
    let settings = SqlSettings::new(app.path()).with_statement(event.hook(), sql);
    let plugin = SqlPlugin::new(settings.unwrap());
    let delivery = delivery(&[event]).with_attempt(3);
    plugin.deliver(&delivery).await.unwrap();

    let connection = app.connect();
    let mut statement = connection.prepare("SELECT * FROM facts").unwrap();
    let row = statement.query_one([], |row| {
        (0..=names.len())
            .map(|column| row.get(column))
            .collect::<Result<Vec<Value>, _>>()
    });
    let mut row = row.unwrap();
    let once_more = row.pop().unwrap();
    let named: Vec<_> = names.into_iter().zip(row).collect();
    assert_eq!(named.last(), Some(&("metadata", once_more)));
    named
}

fn assert_stored(stored: &[(&str, Value)], expected: &[(&str, Value)]) {
    for (name, value) in stored {
        let listed = expected.iter().find(|(expected, _)| expected == name);
        let expected = listed.map_or(&Value::Null, |(_, value)| value);
        if *name == "remaining_ms" && *expected != Value::Null {
            let left = matches!(value, Value::Integer(1..=20_000));
            assert!(left, "{value:?}");
        } else {
            assert_eq!(value, expected, "{name}");
        }
    }
    assert_eq!(stored.len(), 31);
}

fn text(text: impl Display) -> Value {
    Value::Text(text.to_string())
}

#[tokio::test]
async fn every_parameter_of_an_end_has_its_value() {
    let mut new =
        NewSession::new(SessionId::new("s-1").unwrap()).with_key(SessionKey::new("k-1").unwrap());
    new.agent_id = Some("main".into());
    new.store_path = Some("/data/store.json".into());
    new.session_file = Some("/data/s-1.jsonl".into());
    new.resumed_from = Some(SessionId::new("s-0").unwrap());
    new.holder = Some("holder-1".parse().unwrap());
    new.metadata = Metadata::from_iter([("n", serde_json::json!([1, "ü"]))]);
    let (incarnation, previous) = (Incarnation::generate(), Incarnation::generate());
    let started_at = sample::time("2026-11-22T10:00:00.5Z");
    let session = Arc::new(Session::begin(new, incarnation, Some(previous), started_at));
    let end = End {
        reason: EndReason::Crash,
        ended_at: sample::time("2026-11-22T11:00:00Z"),
        detected_at: sample::time("2026-11-22T12:00:00.25Z"),
        details: EndDetails {
            detail: Some("found dead".into()),
            next_session_id: Some(SessionId::new("s-2").unwrap()),
            next_key: Some(SessionKey::new("k-2").unwrap()),
            message_count: Some(u64::MAX),
            transcript_archived: Some(true),
        },
    };
    let instance = InstanceId::generate();
    let event = Event::end(OpenSession::new(session, 1), Arc::new(end), instance).with_seq(4711);
    let event_id = event.id();

    let expected = [
        ("event_id", text(event_id)),
        ("type", text("session_end")),
        ("seq", Value::Integer(4711)),
        ("timestamp", text("2026-11-22T12:00:00.250Z")),
        ("synthetic", Value::Integer(0)),
        ("remaining_ms", Value::Integer(0)),
        ("session_id", text("s-1")),
        ("incarnation", text(incarnation)),
        ("previous_incarnation", text(previous)),
        ("key", text("k-1")),
        ("agent_id", text("main")),
        ("store_path", text("/data/store.json")),
        ("session_file", text("/data/s-1.jsonl")),
        ("resumed_from", text("s-0")),
        ("holder", text("holder-1")),
        ("started_at", text("2026-11-22T10:00:00.500Z")),
        ("reason", text("crash")),
        ("detail", text("found dead")),
        ("resumable", Value::Integer(1)),
        ("ended_at", text("2026-11-22T11:00:00.000Z")),
        ("detected_at", text("2026-11-22T12:00:00.250Z")),
        ("duration_ms", Value::Integer(3_599_500)),
        ("message_count", Value::Integer(i64::MAX)),
        ("transcript_archived", Value::Integer(1)),
        ("next_session_id", text("s-2")),
        ("next_key", text("k-2")),
        ("instance", text(instance)),
        ("attempt", Value::Integer(3)),
        ("metadata", text(r#"{"n":[1,"ü"]}"#)),
    ];
    assert_stored(&stored_parameters(event).await, &expected);
}

fn pre_restart() -> Event {
    let lifecycle = Lifecycle {
        hook: Hook::GatewayPreRestart,
        reason: Some(EndReason::Restart),
        restart_expected_ms: Some(1500),
        active_sessions: 11,
    };
    let now = sample::time("2026-11-22T11:00:00Z");
    Event::of_lifecycle(lifecycle, now, InstanceId::generate())
}

#[tokio::test]
async fn parameters_that_an_event_lacks_are_null() {
    let start = sample::start("s-1");
    let expected = [
        ("event_id", text(start.id())),
        ("type", text("session_start")),
        ("timestamp", text("2026-11-22T10:00:00.000Z")),
        ("synthetic", Value::Integer(0)),
        ("remaining_ms", Value::Integer(0)),
        ("session_id", text("s-1")),
        ("incarnation", text(start.session().unwrap().incarnation)),
        ("started_at", text("2026-11-22T10:00:00.000Z")),
        ("instance", text(start.instance())),
        ("attempt", Value::Integer(3)),
        ("metadata", text("{}")),
    ];
    assert_stored(&stored_parameters(start).await, &expected);

    let pre_restart = pre_restart();
    let expected = [
        ("event_id", text(pre_restart.id())),
        ("type", text("gateway_pre_restart")),
        ("timestamp", text("2026-11-22T11:00:00.000Z")),
        ("restart_expected_ms", Value::Integer(1500)),
        ("active_sessions", Value::Integer(11)),
        ("reason", text("restart")),
        ("instance", text(pre_restart.instance())),
    ];
    assert_stored(&stored_parameters(pre_restart).await, &expected);
}
