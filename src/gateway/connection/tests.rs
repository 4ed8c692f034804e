//! Clients that do not read or that go, and what becomes of bare refusals.

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
