//! About how much memory events take whose details a client may make large.

#[cfg(feature = "sqlite")]
use crate::event::Event;
use crate::session::{End, Session};

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
        session.agent_id.as_deref(),
        session.store_path(),
        session.session_file(),
    ];
    let texts = texts.into_iter().flatten().map(str::len);
    texts.sum::<usize>() + session.metadata.bytes()
}

#[cfg(all(test, feature = "sqlite"))]
mod tests {
    use super::*;
    use crate::ledger::tests::support::*;
    use crate::session::{Metadata, NewSession};

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

        let note = [("note", "x".repeat(500).into())];
        let details = plain().with_metadata(Metadata::from_iter(note));
        assert!((500..600).contains(&weight(details)));
    }
}
