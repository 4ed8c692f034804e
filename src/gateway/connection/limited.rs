//! How long a client may leave what is sent to it unread, or not answer.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_rt::net::TcpStream;
use tokio::io::AsyncWrite as _;
use tokio::time::{Instant, Sleep, sleep};
use tracing::warn;

use crate::gateway::silence::{Silence, answers};

/// How often to look whether a client still answers that is [watched](super::Peer::watch), at the most.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A connection on which a write fails that makes no progress for `limit` or, while it is watched, if
/// the other end does not answer any more.
#[derive(Debug)]
pub(super) struct LimitedStream {
    pub(super) stream: TcpStream,
    limit: Duration,
    /// While there is no room for what is to be written.
    stall: Option<Stall>,
    silence: Silence,
    /// When it was last looked whether the other end answers.
    looked_at: Option<Instant>,
}

#[derive(Debug)]
struct Stall {
    since: Instant,
    next_look: Pin<Box<Sleep>>,
}

impl LimitedStream {
    pub(super) fn new(stream: TcpStream, limit: Duration) -> Self {
        Self {
            stream,
            limit,
            stall: None,
            silence: Silence::default(),
            looked_at: None,
        }
    }

    pub(super) fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[u8],
        is_watched: bool,
    ) -> Poll<io::Result<usize>> {
        if is_watched && self.is_gone() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        if let Poll::Ready(written) = Pin::new(&mut self.stream).poll_write(context, bytes) {
            self.stall = None;
            if is_watched {
                self.silence.sent(Instant::now());
            }
            return Poll::Ready(written);
        }
        let look_in = LOOK_EVERY.min(self.limit);
        loop {
            let stall = self.stall.get_or_insert_with(|| Stall {
                since: Instant::now(),
                next_look: Box::pin(sleep(look_in)),
            });
            ready!(stall.next_look.as_mut().poll(context));
            let now = Instant::now();
            if is_watched {
                // Whoever may wait has all the time once that is over.
                stall.since = now;
            }
            let since = stall.since;
            stall.next_look.as_mut().reset(now + look_in);
            let is_over = match is_watched {
                true => self.is_gone(),
                false => now.duration_since(since) >= self.limit,
            };
            if is_over {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
    }

    /// Whether the other end has not answered for too long, as far as it is time to look.
    fn is_gone(&mut self) -> bool {
        let now = Instant::now();
        let is_early = |at: Instant| now.duration_since(at) < LOOK_EVERY;
        if self.looked_at.is_some_and(is_early) {
            return false;
        }
        self.looked_at = Some(now);
        match answers(&self.stream) {
            Ok(Some(answers)) => self.silence.is_gone(answers, now),
            Ok(None) => false,
            Err(error) => {
                warn!(%error, "whether a holder is still there can't be told");
                false
            }
        }
    }
}
