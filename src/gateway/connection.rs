//! Connections, and what is refused before there is a request.
//!
//! What is not HTTP never gets as far as a route: the HTTP layer answers it with a head alone and
//! closes the connection. [`Connection`] sees that answer on its way out and gives it the document
//! that every refusal has.
//!
//! Where the connection is a lease, its request also has to know soon that the client has gone, and a
//! client that is merely slow has to keep it: [`Peer`] is what the request sees of the connection.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_rt::net::TcpStream;
use actix_web::ResponseError as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::problem::{Kind, MEDIA_TYPE, Problem};
use super::silence::{Silence, answers};

/// How long the head of a connection's first request may take to arrive.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a client may leave what is sent to it unread, so that those that never read don't hold
/// their connection for ever.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// How often to look whether a client still answers that is [watched](Peer::watch), at the most.
const LOOK_EVERY: Duration = Duration::from_millis(500);

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

/// A connection on which a write fails that makes no progress for `limit` or, while it is watched, if
/// the other end does not answer any more.
#[derive(Debug)]
struct LimitedStream {
    stream: TcpStream,
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
    fn poll_write(
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
            stream: LimitedStream {
                stream,
                limit: write_timeout,
                stall: None,
                silence: Silence::default(),
                looked_at: None,
            },
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

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use tokio::io::AsyncWriteExt as _;

    use super::*;

    const BARE: &str = "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

    fn replaced(bytes: &str) -> Option<(usize, String)> {
        let (start, bytes) = bare_refusal(bytes.as_bytes())?;
        Some((start, String::from_utf8(bytes).unwrap()))
    }

    /// A client, and the connection that it has to us.
    fn pair(write_timeout: Duration) -> (std::net::TcpStream, Connection) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        accepted.set_nonblocking(true).unwrap();
        let stream = TcpStream::from_std(accepted).unwrap();
        (client, Connection::new(stream, write_timeout))
    }

    #[actix_web::test]
    async fn a_client_that_never_reads_loses_its_connection() {
        const LIMIT: Duration = Duration::from_millis(200);
        let (mut client, mut connection) = pair(LIMIT);

        // A client that is late but reads gets all of it.
        let answer = vec![b'x'; 32 << 20];
        let size = answer.len();
        let reads = std::thread::spawn(move || {
            std::thread::sleep(LIMIT / 4);
            client.read_exact(&mut vec![0; size]).map(|()| client)
        });
        connection.write_all(&answer).await.unwrap();
        let _client = reads.join().unwrap().unwrap();

        let began = tokio::time::Instant::now();
        // One that does not read is found once its socket takes in no more.
        let stalls = async {
            loop {
                if let Err(error) = connection.write_all(&answer).await {
                    break error;
                }
            }
        };
        let error = tokio::time::timeout(LIMIT * 100, stalls).await;
        let error = error.expect("it is held for ever");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() >= LIMIT);
    }

    #[cfg(target_os = "linux")]
    #[actix_web::test]
    async fn a_watched_client_that_does_not_read_keeps_its_connection_while_it_is_watched() {
        const LIMIT: Duration = Duration::from_millis(100);
        let (mut client, mut connection) = pair(LIMIT);
        let watched_until = CancellationToken::new();
        connection.peer().watch(watched_until.clone());
        let answer = vec![b'x'; 32 << 20];
        let size = answer.len();
        let _client = {
            let mut writes = std::pin::pin!(connection.write_all(&answer));
            // Longer than an answer may take, too.
            let patience = Duration::from_secs(4);
            let waiting = tokio::time::timeout(patience, &mut writes).await;
            assert!(waiting.is_err(), "{waiting:?}");
            let reads = move || client.read_exact(&mut vec![0; size]).map(|()| client);
            let reads = std::thread::spawn(reads);
            writes.await.unwrap();
            reads.join().unwrap().unwrap()
        };

        watched_until.cancel();
        let stalls = async {
            loop {
                if let Err(error) = connection.write_all(&answer).await {
                    break error;
                }
            }
        };
        let error = tokio::time::timeout(Duration::from_secs(60), stalls).await;
        let error = error.expect("it is held for ever");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[actix_web::test]
    async fn a_client_that_sends_nothing_more_is_gone() {
        use tokio::io::AsyncReadExt as _;

        let (mut client, mut connection) = pair(WRITE_TIMEOUT);
        let (peer, limit) = (connection.peer().clone(), Duration::from_secs(10));
        std::io::Write::write_all(&mut client, b"x").unwrap();
        assert_eq!(connection.read(&mut [0; 8]).await.unwrap(), 1);
        assert!(!peer.gone.is_cancelled());
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(connection.read(&mut [0; 8]).await.unwrap(), 0);
        let gone = tokio::time::timeout(limit, peer.gone()).await;
        gone.expect("it counts as there");
    }

    #[test]
    fn a_bare_refusal_gets_a_document() {
        let (start, refusal) = replaced(BARE).unwrap();
        assert_eq!(start, 0);
        let (head, body) = refusal.split_once("\r\n\r\n").unwrap();
        let length = format!("content-length: {}", body.len());
        let expected = [
            "HTTP/1.1 400 Bad Request",
            "connection: close",
            length.as_str(),
            "content-type: application/problem+json",
        ];
        assert!(head.split("\r\n").eq(expected), "{head}");
        let document: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(document["status"], 400);
    }

    #[test]
    fn an_answer_before_it_is_left_alone() {
        let before = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
        let (start, refusal) = replaced(&format!("{before}{BARE}")).unwrap();
        assert_eq!(start, before.len());
        assert_eq!(refusal, replaced(BARE).unwrap().1);
    }

    #[test]
    fn other_answers_are_left_alone() {
        for answer in [
            "HTTP/1.1 204 No Content\r\ndate: x\r\n\r\n",
            "HTTP/1.1 404 Not Found\r\ncontent-length: 9\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\n{}",
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            "d\r\n\r\n",
            "\r\n\r\n",
            "",
        ] {
            assert_eq!(replaced(answer), None, "{answer}");
        }
    }
}
