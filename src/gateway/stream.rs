//! Streams of server-sent events: their frames, how they stay alive and how they end, and how many
//! there may be.

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header;
use actix_web::web::Bytes;
use actix_web::{HttpResponse, HttpResponseBuilder};
use futures_util::stream::{self, Stream};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::problem::{Kind, Problem};
use crate::event::{Event, Seq};

/// Streams of all events that are open at a time: each is a connection that stays, and work for every
/// event.
const MAX_FOLLOWERS: usize = 64;

/// Streams that are leases and open at a time: each is a connection that stays, and next to no work.
const MAX_HOLDS: usize = 4096;

/// How long a stream that is to end goes on with what has happened by then, and how long nothing
/// must come before that is taken for all. Less than the server waits before it cuts streams off.
const LAST_WORDS: Duration = Duration::from_millis(50);
const LAST_SILENCE: Duration = Duration::from_millis(10);

/// What a stream begins with: a client whose stream breaks off comes back after a second.
const HELLO: &[u8] = b"retry: 1000\n\n";

/// What keeps a silent stream alive.
const COMMENT: &[u8] = b": still here\n\n";

/// The open streams: how many there may be, and when they end.
#[derive(Debug, Clone)]
pub(super) struct Streams {
    followers: Places,
    holds: Places,
    closing: CancellationToken,
}

/// The places for one kind of streams.
#[derive(Debug, Clone)]
struct Places {
    free: Arc<Semaphore>,
    count: usize,
}

/// The place of a stream, which is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    closing: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

impl Streams {
    /// None yet. They end when `closing` fires. Leases have at most half of the `connections` that may
    /// be open: whoever holds sessions also has to start them.
    pub(super) fn new(closing: CancellationToken, connections: usize) -> Self {
        Self {
            followers: Places::new(MAX_FOLLOWERS),
            holds: Places::new(MAX_HOLDS.min(connections / 2).max(1)),
            closing,
        }
    }

    /// Completes when all are closed.
    pub(super) async fn closed(&self) {
        tokio::join!(self.followers.all_free(), self.holds.all_free());
    }

    /// A place for a stream of all events.
    pub(super) fn follow(&self) -> Result<Place, Problem> {
        self.place(&self.followers)
    }

    /// A place for a stream that is a lease.
    pub(super) fn hold(&self) -> Result<Place, Problem> {
        self.place(&self.holds)
    }

    fn place(&self, places: &Places) -> Result<Place, Problem> {
        let permit = Arc::clone(&places.free).try_acquire_owned();
        let permit = permit.map_err(|_| {
            let count = places.count;
            let detail = format!("{count} such streams are open, which is the most that may be");
            Problem::new(Kind::TooManyStreams, detail)
        })?;
        Ok(Place {
            closing: self.closing.clone(),
            _permit: permit,
        })
    }
}

impl Places {
    fn new(count: usize) -> Self {
        Self {
            free: Arc::new(Semaphore::new(count)),
            count,
        }
    }

    async fn all_free(&self) {
        let count = u32::try_from(self.count).unwrap_or(u32::MAX);
        // It is never closed, so this does not fail.
        let _ = self.free.acquire_many(count).await;
    }
}

/// Where the events of a stream come from.
pub(super) trait Source {
    /// The next one as a frame; none at the end. Dropping the future loses nothing.
    async fn next(&mut self) -> Option<Bytes>;
}

/// A stream that a client reads.
#[derive(Debug)]
pub(super) struct EventStream<S> {
    source: S,
    /// After how long a silent stream says that it is still there.
    keep_alive: Duration,
    has_begun: bool,
    /// When it ends at the latest, once it is to end.
    ends_at: Option<Instant>,
    place: Place,
}

impl<S: Source + 'static> EventStream<S> {
    pub(super) fn new(source: S, keep_alive: Duration, place: Place) -> Self {
        Self {
            source,
            keep_alive,
            has_begun: false,
            ends_at: None,
            place,
        }
    }

    /// What is sent next; none at the end of the stream.
    async fn next(&mut self) -> Option<Bytes> {
        if !std::mem::replace(&mut self.has_begun, true) {
            return Some(Bytes::from_static(HELLO));
        }
        if self.ends_at.is_none() {
            tokio::select! {
                biased;
                () = self.place.closing.cancelled() => {}
                seen = timeout(self.keep_alive, self.source.next()) => {
                    return seen.unwrap_or_else(|_| Some(Bytes::from_static(COMMENT)));
                }
            }
        }
        // The last progress of a drain comes right before the stream is to end.
        let now = Instant::now();
        let ends_at = *self.ends_at.get_or_insert(now + LAST_WORDS);
        let quiet_at = ends_at.min(now + LAST_SILENCE);
        timeout_at(quiet_at, self.source.next())
            .await
            .ok()
            .flatten()
    }

    /// The answer that it is.
    pub(super) fn into_response(self) -> HttpResponse {
        response().streaming(self.into_body())
    }

    fn into_body(self) -> impl Stream<Item = Result<Bytes, actix_web::Error>> {
        stream::unfold(self, async |mut stream| {
            let bytes = stream.next().await?;
            Some((Ok(bytes), stream))
        })
    }
}

/// An answer that is a stream, without it.
pub(super) fn response() -> HttpResponseBuilder {
    let mut response = HttpResponse::Ok();
    response
        .insert_header((header::CONTENT_TYPE, "text/event-stream"))
        .insert_header((header::CACHE_CONTROL, "no-store"));
    response
}

/// Events that the ledger keeps no longer were passed over.
#[derive(Debug, Serialize)]
struct Gap {
    /// The last place that the client has seen, as far as is known.
    after: Seq,
    /// The place of the next event that can be seen.
    next: Seq,
}

/// The frame of a start or an end.
pub(super) fn encode_event(name: &str, id: Option<Seq>, event: &Event) -> Bytes {
    encode(name, id, &event.wire(1, Duration::ZERO))
}

/// The frame that says that events were passed over.
pub(super) fn encode_gap(after: Seq, next: Seq) -> Bytes {
    encode("gap", None, &Gap { after, next })
}

/// One event of a stream. JSON has no line break, so its data is one line.
pub(super) fn encode(name: &str, id: Option<Seq>, data: &impl Serialize) -> Bytes {
    let mut frame = format!("event: {name}\n").into_bytes();
    if let Some(id) = id {
        frame.extend_from_slice(format!("id: {id}\n").as_bytes());
    }
    frame.extend_from_slice(b"data: ");
    if let Err(error) = serde_json::to_writer(&mut frame, data) {
        tracing::error!(%error, "an event of the stream can't be written as JSON");
        return Bytes::from_static(COMMENT);
    }
    frame.extend_from_slice(b"\n\n");
    frame.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP_ALIVE: Duration = Duration::from_secs(3);

    /// Has the frames that are sent to it.
    struct Sent(tokio::sync::mpsc::UnboundedReceiver<Bytes>);

    impl Source for Sent {
        async fn next(&mut self) -> Option<Bytes> {
            self.0.recv().await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_stream_says_that_it_is_still_there() {
        let closing = CancellationToken::new();
        let streams = Streams::new(closing.clone(), 2);
        let (send, sent) = tokio::sync::mpsc::unbounded_channel();
        let place = streams.follow().unwrap();
        let mut stream = EventStream::new(Sent(sent), KEEP_ALIVE, place);
        assert_eq!(stream.next().await.as_deref(), Some(HELLO));
        for _ in 0..3 {
            let began = Instant::now();
            assert_eq!(stream.next().await.as_deref(), Some(COMMENT));
            assert!(began.elapsed() >= KEEP_ALIVE, "{:?}", began.elapsed());
            assert!(began.elapsed() < KEEP_ALIVE * 2, "{:?}", began.elapsed());
        }
        send.send(encode("drain", Some(7), &[1])).unwrap();
        let frame = stream.next().await;
        assert_eq!(
            frame.as_deref(),
            Some(&b"event: drain\nid: 7\ndata: [1]\n\n"[..])
        );

        // What has happened by the end is sent still.
        send.send(Bytes::from_static(b"last")).unwrap();
        closing.cancel();
        assert_eq!(stream.next().await.as_deref(), Some(&b"last"[..]));
        assert_eq!(stream.next().await, None);
        let all_closed = timeout(KEEP_ALIVE, streams.closed());
        assert!(all_closed.await.is_err(), "one is open");
        drop(stream);
        streams.closed().await;
    }

    #[test]
    fn each_kind_has_places_of_its_own() {
        let streams = Streams::new(CancellationToken::new(), 4);
        let holds = [streams.hold(), streams.hold()];
        assert!(holds.iter().all(Result::is_ok));
        let refusal = streams.hold().unwrap_err().to_string();
        assert!(refusal.starts_with("too-many-streams: 2 such"), "{refusal}");
        let followers: Vec<_> = (0..MAX_FOLLOWERS).map(|_| streams.follow()).collect();
        assert!(followers.iter().all(Result::is_ok));
        assert!(streams.follow().is_err());
        drop(holds);
        assert!(streams.hold().is_ok());
    }
}
