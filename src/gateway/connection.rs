//! Connections, and what is refused before there is a request.
//!
//! What is not HTTP never gets as far as a route: the HTTP layer answers it with a head alone and
//! closes the connection. [`Connection`] sees that answer on its way out and gives it the document
//! that every refusal has.
//!
//! Where the connection is a lease, its request also has to know soon that the client has gone, and a
//! client that is merely slow has to keep it: [`Peer`] is what the request sees of the connection.

mod limited;
#[cfg(test)]
mod tests;

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_rt::net::TcpStream;
use actix_web::ResponseError as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;

use self::limited::LimitedStream;
use super::problem::{Kind, MEDIA_TYPE, Problem};

/// How long the head of a connection's first request may take to arrive.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a client may leave what is sent to it unread, so that those that never read don't hold
/// their connection for ever.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// What a request sees of its connection. Clones are of the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Peer {
    gone: CancellationToken,
    /// It is watched until this fires.
    watched_until: Arc<Mutex<Option<CancellationToken>>>,
}

impl Peer {
    /// Completes when the client sends nothing more, which is how it looks when its process has died:
    /// the HTTP layer goes on with an answer that it has begun until a write fails.
    pub(super) async fn gone(&self) {
        self.gone.cancelled().await;
    }

    /// Has the connection fail when the client's system has not answered for 3 s, as that of a machine
    /// that has vanished without a word, which otherwise takes a quarter of an hour; and not when the
    /// client does not read. On Linux, until `until` fires.
    pub(super) fn watch(&self, until: CancellationToken) {
        *self.watched_until() = Some(until);
    }

    fn is_watched(&self) -> bool {
        let until = self.watched_until();
        until.as_ref().is_some_and(|until| !until.is_cancelled())
    }

    fn watched_until(&self) -> MutexGuard<'_, Option<CancellationToken>> {
        let until = self.watched_until.lock();
        until.unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection whose bare refusals become problem documents, and that fails once its client has
/// read nothing for too long.
#[derive(Debug)]
pub(super) struct Connection {
    stream: LimitedStream,
    replacement: Option<Replacement>,
    peer: Peer,
}

/// A refusal on its way out.
#[derive(Debug)]
struct Replacement {
    /// How many bytes it takes the place of.
    replaced: usize,
    bytes: Vec<u8>,
    written: usize,
}

impl Connection {
    /// `stream`, on which a write fails that makes no progress for `write_timeout`.
    pub(super) fn new(stream: TcpStream, write_timeout: Duration) -> Self {
        Self {
            stream: LimitedStream::new(stream, write_timeout),
            replacement: None,
            peer: Peer::default(),
        }
    }

    /// What its requests see of it.
    pub(super) fn peer(&self) -> &Peer {
        &self.peer
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let room = buffer.remaining();
        let read = Pin::new(&mut self.stream.stream).poll_read(context, buffer);
        if matches!(read, Poll::Ready(Ok(()))) && room > 0 && buffer.filled().len() == before {
            self.peer.gone.cancel();
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Self {
            stream,
            replacement,
            peer,
        } = self.get_mut();
        let is_watched = peer.is_watched();
        if replacement.is_none() {
            match bare_refusal(bytes) {
                None => return stream.poll_write(context, bytes, is_watched),
                // Answers to earlier requests go first, as they are.
                Some((start @ 1.., _)) => {
                    return stream.poll_write(context, &bytes[..start], is_watched);
                }
                Some((0, refusal)) => {
                    *replacement = Some(Replacement {
                        replaced: bytes.len(),
                        bytes: refusal,
                        written: 0,
                    });
                }
            }
        }
        while let Some(unfinished) = replacement {
            let rest = &unfinished.bytes[unfinished.written..];
            if rest.is_empty() {
                break;
            }
            match ready!(stream.poll_write(context, rest, is_watched))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => unfinished.written += written,
            }
        }
        let replaced = replacement.take().map_or(0, |finished| finished.replaced);
        Poll::Ready(Ok(replaced))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream.stream).poll_shutdown(context)
    }
}

/// Where in `bytes` a refusal of the HTTP layer begins, if there is one, and what to send instead.
///
/// It is always the last that is written, and it has an empty body where ours have a document.
fn bare_refusal(bytes: &[u8]) -> Option<(usize, Vec<u8>)> {
    let head = bytes.strip_suffix(b"\r\n\r\n")?;
    let start = head.windows(7).rposition(|window| window == b"HTTP/1.")?;
    let head = std::str::from_utf8(&head[start..]).ok()?;
    let mut lines = head.split("\r\n");
    let mut status_line = lines.next()?.split(' ');
    let (version, status) = (status_line.next()?, status_line.next()?);
    let detail = match status {
        "400" => {
            "the request is not valid HTTP/1.1: its request line, its headers or how it gives the \
                  length of its body break the rules"
                .to_owned()
        }
        "408" => {
            let limit = HEAD_TIMEOUT.as_secs();
            format!("the head of the request did not arrive within {limit} s")
        }
        "431" => "the head of the request is too large".to_owned(),
        _ => return None,
    };
    let is_length = |line: &&str| line.starts_with("content-length: ");
    let (length, headers): (Vec<_>, Vec<_>) = lines.partition(is_length);
    if length != ["content-length: 0"] {
        return None;
    }

    // There is one type for what can't be read, and with it goes one status.
    let problem = Problem::new(Kind::MalformedJson, detail);
    let body = serde_json::to_string(&problem).ok()?;
    let refusal = format!(
        "{version} {}\r\n{}\r\ncontent-length: {}\r\ncontent-type: {MEDIA_TYPE}\r\n\r\n{body}",
        problem.status_code(),
        headers.join("\r\n"),
        body.len(),
    );
    Some((start, refusal.into_bytes()))
}
