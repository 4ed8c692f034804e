//! About how much memory events take whose details a client may make large.

use serde_json::{Map, Value};

#[cfg(feature = "sqlite")]
use crate::event::Event;
use crate::session::{End, Session};

/// How many bytes a value of JSON takes, whatever it is.
const VALUE_BYTES: usize = size_of::<Value>();

/// About how many bytes the details of `events` take. What has none costs nothing here: it is limited
/// by its number.
#[cfg(feature = "sqlite")]
pub(super) fn weigh(events: &[Event]) -> usize {
    let weights = events.iter().map(|event| {
        let session = event.session().map_or(0, |session| of_session(session));
        session + event.how_ended().map_or(0, |end| of_end(end))
    });
    weights.sum()
}

/// About how many bytes the details of `end` take.
pub(super) fn of_end(end: &End) -> usize {
    end.details.detail.as_ref().map_or(0, |text| text.len())
}

/// About how many bytes the details of `session` take.
pub(super) fn of_session(session: &Session) -> usize {
    let texts = [
        &session.agent_id,
        &session.store_path,
        &session.session_file,
    ];
    let texts = texts.into_iter().flatten().map(|text| text.len());
    texts.sum::<usize>() + of_map(&session.metadata)
}

fn of_map(values: &Map<String, Value>) -> usize {
    let entry = |(name, value): (&String, &Value)| name.len() + 2 * VALUE_BYTES + of_value(value);
    values.iter().map(entry).sum()
}

/// What `value` takes beside itself.
fn of_value(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(values) => values.iter().map(|it| VALUE_BYTES + of_value(it)).sum(),
        Value::Object(values) => of_map(values),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

#[cfg(all(test, feature = "sqlite"))]
mod tests {
    use super::*;
    use crate::ledger::tests::support::*;
    use crate::session::NewSession;

    #[test]
    fn details_weigh_about_what_they_take_and_none_weigh_nothing() {
        let run = Run::new();
        let weight = |new| weigh(&[run.start_event(new, at(0))]);
        let plain = || NewSession::new(id("a"));
        assert_eq!(weight(plain()), 0);

        let mut texts = plain();
        texts.agent_id = Some("x".repeat(1000).into());
        texts.session_file = Some("x".repeat(3000).into());
        assert_eq!(weight(texts), 4000);

        let mut nested = plain();
        let list = vec![serde_json::json!({ "note": "x".repeat(500) }); 10];
        nested.metadata.insert("list".into(), list.into());
        assert!((5000..10_000).contains(&weight(nested)));

        let mut numbers = plain();
        numbers.metadata.insert("list".into(), vec![0; 1000].into());
        assert!(weight(numbers) >= 1000 * VALUE_BYTES);
    }
}
