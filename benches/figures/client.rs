//! An HTTP client that costs little beside the server that it asks, since both share the machine.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::future::{join_all, try_join_all};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

use crate::common::drain::id;

/// Connections for work that only has to be done.
pub(crate) const CLIENTS: usize = 256;

/// Room for any answer of those that are measured.
const ANSWER_BYTES: usize = 2048;

fn request(method: &str, path: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    let text = format!(
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    );
    text.into_bytes()
}

/// The request that starts session `n`.
pub(crate) fn start(n: usize) -> Vec<u8> {
    let body = format!(
        "{{\"id\":\"{}\",\"agent_id\":\"main\",\"metadata\":{{\"channel\":\"web\"}}}}",
        id(n)
    );
    request("POST", "/v1/sessions", &body)
}

/// The request that says that session `n` is in use.
pub(crate) fn touch(n: usize) -> Vec<u8> {
    request("POST", &format!("/v1/sessions/{}/touch", id(n)), "{}")
}

/// The request that asks for session `n`.
pub(crate) fn show(n: usize) -> Vec<u8> {
    let path = format!("/v1/sessions/{}", id(n));
    format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").into_bytes()
}

/// The request that ends session `n`.
pub(crate) fn end(n: usize) -> Vec<u8> {
    let path = format!("/v1/sessions/{}/end", id(n));
    request("POST", &path, "{\"reason\":\"closed\"}")
}

/// Sends requests `0..count` over so many connections that stay open, on each the next once the one
/// before is answered. How long that takes.
///
/// # Panics
///
/// When an answer has another status than `expected`.
pub(crate) fn load(
    address: SocketAddr,
    connections: usize,
    count: usize,
    expected: u16,
    request: fn(usize) -> Vec<u8>,
) -> Duration {
    let runtime = Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let mut streams = Vec::new();
        // A few at a time: those that wait to be accepted have an end.
        for first in (0..connections).step_by(64) {
            let some = (first..connections.min(first + 64)).map(|_| connect(address));
            streams.extend(try_join_all(some).await.expect("it listens"));
        }
        let began = Instant::now();
        let tasks = streams.into_iter().enumerate().map(|(first, stream)| {
            let numbers = (first..count).step_by(connections);
            tokio::spawn(ask_all(stream, numbers.map(request), expected))
        });
        for asked in join_all(tasks).await {
            asked.expect("no panic").expect("an answer");
        }
        began.elapsed()
    })
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn ask_all(
    mut stream: TcpStream,
    requests: impl Iterator<Item = Vec<u8>>,
    expected: u16,
) -> io::Result<()> {
    let mut answer = Vec::with_capacity(ANSWER_BYTES);
    for request in requests {
        stream.write_all(&request).await?;
        let (status, _) = read(&mut stream, &mut answer).await?;
        assert_eq!(status, expected, "{}", String::from_utf8_lossy(&answer));
    }
    Ok(())
}

/// Reads one answer. Its status, and where its body begins.
async fn read(stream: &mut TcpStream, answer: &mut Vec<u8>) -> io::Result<(u16, usize)> {
    answer.clear();
    loop {
        if let Some(whole) = whole(answer) {
            return Ok(whole);
        }
        if stream.read_buf(answer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// The status of an answer and where its body begins, if all of it is there.
fn whole(answer: &[u8]) -> Option<(u16, usize)> {
    let end = answer.windows(4).position(|it| it == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_length = name.eq_ignore_ascii_case("content-length");
        is_length.then(|| value.trim().parse::<usize>().ok())?
    });
    let (status, body) = (head.get(9..12)?.parse().ok()?, end + 4);
    (answer.len() >= body + length.unwrap_or(0)).then_some((status, body))
}

/// The status and the body that a GET is answered with.
pub(crate) fn get(address: SocketAddr, path: &str) -> (u16, Vec<u8>) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().expect("a runtime");
    let asked = runtime.block_on(async {
        let mut stream = connect(address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        let (status, body) = read(&mut stream, &mut answer).await?;
        io::Result::Ok((status, answer.split_off(body)))
    });
    asked.expect("an answer")
}
