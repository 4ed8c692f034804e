//! What is sent: a body of JSON, and the id under which a receiver recognises it.

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::event::{Deliver, Event, WireEvent};

/// One request's worth of events.
#[derive(Debug)]
pub(super) struct Message {
    /// The value of `webhook-id`: the same whenever the same events are sent.
    pub(super) id: String,
    pub(super) body: Vec<u8>,
}

#[derive(Serialize)]
struct Batch<'a> {
    r#type: &'static str,
    schema: u32,
    events: Vec<WireEvent<'a>>,
}

impl Message {
    /// One event of `delivery`, as it is.
    pub(super) fn of_event(delivery: &Deliver, event: &Event) -> serde_json::Result<Self> {
        let wire = event.wire(delivery.attempt, delivery.deadline.remaining());
        Ok(Self {
            id: event.id().to_string(),
            body: serde_json::to_vec(&wire)?,
        })
    }

    /// All events of `delivery` together.
    pub(super) fn of_batch(delivery: &Deliver) -> serde_json::Result<Self> {
        let batch = Batch {
            r#type: "session_batch",
            schema: 1,
            events: delivery.wire().collect(),
        };
        Ok(Self {
            id: batch_id(&delivery.events),
            body: serde_json::to_vec(&batch)?,
        })
    }
}

/// An id that is another one as soon as an event is added or missing.
fn batch_id(events: &[Event]) -> String {
    let mut hash = Sha256::new();
    for event in events {
        hash.update(event.id().to_string());
        // No id has one.
        hash.update([0]);
    }
    let digest = hash.finalize();
    let hex: String = digest[..16]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("batch-{hex}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::Value;

    use super::*;
    use crate::event::Deadline;
    use crate::plugin::sample;

    fn delivery(events: &[Event]) -> Deliver {
        Deliver::new(events, Deadline::after(Duration::from_secs(5)))
    }

    fn json(body: &[u8]) -> Value {
        let mut json: Value = serde_json::from_slice(body).unwrap();
        // Shrinks by the moment.
        let remaining = |event: &mut Value| event["remaining_ms"].take();
        match json.get_mut("events") {
            Some(events) => drop(
                events
                    .as_array_mut()
                    .unwrap()
                    .iter_mut()
                    .map(remaining)
                    .count(),
            ),
            None => drop(remaining(&mut json)),
        }
        json
    }

    #[tokio::test]
    async fn an_event_is_sent_in_its_wire_form_under_its_own_id() {
        let start = sample::start("A");
        let delivery = delivery(std::slice::from_ref(&start)).with_attempt(3);
        let message = Message::of_event(&delivery, &start).unwrap();
        assert_eq!(message.id, start.id().to_string());
        let expected = start.wire(3, Duration::ZERO);
        let expected = json(&serde_json::to_vec(&expected).unwrap());
        assert_eq!(json(&message.body), expected);
    }

    #[tokio::test]
    async fn a_batch_has_its_events_in_order_even_if_it_is_one() {
        let start = sample::start("A");
        let end = sample::end_of(&start);
        for events in [&[start.clone()][..], &[start, end]] {
            let message = Message::of_batch(&delivery(events)).unwrap();
            let json = json(&message.body);
            assert_eq!(
                (&json["type"], &json["schema"]),
                (&"session_batch".into(), &1.into())
            );
            let ids = json["events"].as_array().unwrap().iter();
            let expected: Vec<_> = events.iter().map(|event| event.id().to_string()).collect();
            assert!(ids.map(|event| &event["event_id"]).eq(&expected), "{json}");
        }
    }

    #[tokio::test]
    async fn a_batch_has_the_same_id_as_long_as_it_has_the_same_events() {
        let start = sample::start("A");
        let (end, other) = (sample::end_of(&start), sample::start("B"));
        let id = |events: &[&Event], attempt| {
            let events: Vec<_> = events.iter().copied().cloned().collect();
            let delivery = delivery(&events).with_attempt(attempt);
            Message::of_batch(&delivery).unwrap().id
        };
        let both = id(&[&start, &end], 1);
        assert_eq!(id(&[&start, &end], 2), both);
        for others in [
            &[&start][..],
            &[&end],
            &[&start, &other],
            &[&start, &end, &other],
        ] {
            assert_ne!(id(others, 1), both);
        }
        // A full stop would end the id in what is signed.
        assert!(
            both.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'),
            "{both}"
        );
    }
}
