//! What a program in the mode `stream` answers, and for which event.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use serde::Deserialize;
use tokio::sync::Notify;

use super::output::shown;
use crate::event::{Acks, Deliver, EventId};
use crate::text::beginning;

/// How much of a line that is no answer the plugin's `last_error` shows.
const MAX_REMARKED_BYTES: usize = 200;

/// A line of the program that answers an event.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Taken(EventId),
    Rejected(EventId, String),
}

#[derive(Deserialize)]
struct Fields {
    ack: Option<String>,
    reject: Option<String>,
    message: Option<String>,
}

impl Answer {
    /// None for a line that is no answer.
    fn parse(line: &[u8]) -> Option<Self> {
        let fields: Fields = serde_json::from_slice(line).ok()?;
        match (fields.ack, fields.reject) {
            (Some(id), None) => Some(Self::Taken(id.parse().ok()?)),
            (None, Some(id)) => {
                let message = fields.message.unwrap_or_default();
                Some(Self::Rejected(id.parse().ok()?, shown(message.as_bytes())))
            }
            _ => None,
        }
    }
}

/// A delivery whose events the program is to answer.
#[derive(Debug)]
pub(super) struct Batch {
    acks: Acks,
    /// How many are not answered.
    open: Cell<usize>,
    all_answered: Notify,
}

impl Batch {
    /// Completes when every event is answered.
    pub(super) async fn all_answered(&self) {
        while self.open.get() > 0 {
            self.all_answered.notified().await;
        }
    }
}

/// The events that a program has not answered.
#[derive(Debug, Default)]
pub(super) struct Unanswered {
    events: RefCell<HashMap<EventId, (Rc<Batch>, usize)>>,
    /// Those that are waited for: few.
    batches: RefCell<Vec<Rc<Batch>>>,
}

impl Unanswered {
    /// Expects answers for the events of `delivery`.
    pub(super) fn expect(&self, delivery: &Deliver) -> Rc<Batch> {
        let missing = "the program has not answered all events: does it flush each answer?";
        delivery.acks.remark(missing);
        let batch = Rc::new(Batch {
            acks: delivery.acks.clone(),
            open: Cell::new(delivery.events.len()),
            all_answered: Notify::new(),
        });
        let ids = delivery.events.iter().map(crate::event::Event::id);
        let entries = ids
            .enumerate()
            .map(|(index, id)| (id, (Rc::clone(&batch), index)));
        self.events.borrow_mut().extend(entries);
        self.batches.borrow_mut().push(Rc::clone(&batch));
        batch
    }

    /// Expects no more answers for `delivery`, which made `batch`.
    pub(super) fn forget(&self, delivery: &Deliver, batch: &Rc<Batch>) {
        let mut unanswered = self.events.borrow_mut();
        for event in delivery.events.iter() {
            unanswered.remove(&event.id());
        }
        let mut batches = self.batches.borrow_mut();
        batches.retain(|other| !Rc::ptr_eq(other, batch));
    }

    /// Takes a line. What it is, unless it answers an event.
    pub(super) fn take(&self, line: &[u8]) -> Result<(), &'static str> {
        let Some(answer) = Answer::parse(line) else {
            let about = "the program wrote what is no answer";
            let line = shown(line);
            let line = beginning(&line, MAX_REMARKED_BYTES);
            let remark =
                format!(r#"{about}: {line} (expected a line such as {{"ack":"<event_id>"}})"#);
            let remark: Arc<str> = remark.into();
            for batch in &*self.batches.borrow() {
                batch.acks.remark(Arc::clone(&remark));
            }
            return Err(about);
        };
        let (Answer::Taken(id) | Answer::Rejected(id, _)) = &answer;
        let found = self.events.borrow_mut().remove(id);
        let (batch, index) = found.ok_or("the program answered what it was not asked")?;
        match answer {
            Answer::Taken(_) => batch.acks.acknowledge(index),
            Answer::Rejected(_, message) => batch.acks.reject(index, rejection(message)),
        }
        batch.open.set(batch.open.get() - 1);
        batch.all_answered.notify_one();
        Ok(())
    }
}

fn rejection(message: String) -> anyhow::Error {
    match message.is_empty() {
        true => anyhow::anyhow!("rejected without a message"),
        false => anyhow::Error::msg(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "01a204900045717497ca18a91bfdcc7e-session_end";

    #[track_caller]
    fn parse(line: &str) -> Option<Answer> {
        Answer::parse(line.replace("ID", ID).as_bytes())
    }

    #[test]
    fn an_answer_is_an_object_that_takes_or_rejects_one_event() {
        let id = || ID.parse().unwrap();
        let rejected = |message: &str| Some(Answer::Rejected(id(), message.into()));
        assert_eq!(parse(r#"{"ack":"ID"}"#), Some(Answer::Taken(id())));
        assert_eq!(
            parse("{\"ack\": \"ID\", \"took_ms\": 3}\r"),
            Some(Answer::Taken(id()))
        );
        assert_eq!(
            parse(r#"{"reject":"ID","message":"no such row"}"#),
            rejected("no such row")
        );
        assert_eq!(parse(r#"{"reject":"ID"}"#), rejected(""));
        assert_eq!(
            parse(r#"{"reject":"ID","message":"a\nb\u001b"}"#),
            rejected("a b\u{fffd}")
        );

        let no_answers = [
            "",
            "ready",
            "[]",
            "null",
            "{}",
            r#"{"ack":"x"}"#,
            r#"{"ack":1}"#,
            r#"{"ack":"ID"} x"#,
            r#"{"ack":"ID","reject":"ID"}"#,
            r#"{"ack":"ID"}{"ack":"ID"}"#,
            r#"{"ack":"ID""#,
        ];
        for line in no_answers {
            assert_eq!(parse(line), None, "{line}");
        }
    }
}
