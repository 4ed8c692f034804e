//! A server that answers as a gateway would, for what a real one does not show: what it was sent.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::Value;

/// A request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// Such as `GET /healthz`.
    pub(crate) line: String,
    pub(crate) authorization: Option<String>,
    pub(crate) body: Value,
}

/// The server. Its port is closed when it is dropped, or when an answer says so.
pub(crate) struct Fake {
    pub(crate) url: String,
    requests: Arc<Mutex<Vec<Request>>>,
    gone: Arc<AtomicBool>,
}

/// What stands for the port to be closed.
#[derive(Clone)]
pub(crate) struct Door {
    address: String,
    gone: Arc<AtomicBool>,
}

impl Door {
    pub(crate) fn close(&self) {
        self.gone.store(true, Ordering::SeqCst);
        // Wakes the thread that waits for connections.
        let _ = TcpStream::connect(&self.address);
    }
}

impl Fake {
    /// Starts a server that has `answer` write the whole answer to each request.
    pub(crate) fn start(
        answer: impl Fn(&Request, TcpStream, Door) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (requests, gone) = (
            Arc::<Mutex<Vec<_>>>::default(),
            Arc::<AtomicBool>::default(),
        );
        let fake = Self {
            url: format!("http://{address}"),
            requests: Arc::clone(&requests),
            gone: Arc::clone(&gone),
        };
        let answer = Arc::new(answer);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if gone.load(Ordering::SeqCst) {
                    return;
                }
                let (requests, answer) = (Arc::clone(&requests), Arc::clone(&answer));
                let door = Door {
                    address: address.clone(),
                    gone: Arc::clone(&gone),
                };
                thread::spawn(move || {
                    let stream = stream.unwrap();
                    if let Some(request) = read(&stream) {
                        requests.lock().unwrap().push(request.clone());
                        answer(&request, stream, door);
                    }
                });
            }
        });
        fake
    }

    /// Starts a server that gives one answer to everything.
    pub(crate) fn answering(status: &'static str, body: &'static str) -> Self {
        Self::start(move |_, stream, _| reply(stream, status, body))
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let address = self.url.trim_start_matches("http://").to_owned();
        let gone = Arc::clone(&self.gone);
        Door { address, gone }.close();
    }
}

/// Writes an answer of JSON.
pub(crate) fn reply(mut stream: TcpStream, status: &str, body: &str) {
    let length = body.len();
    let _ = write!(
        stream,
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\n\
         content-length: {length}\r\n\r\n{body}"
    );
}

/// Reads the only request of a connection; none if it breaks off.
pub(crate) fn read(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let line = line.rsplit_once(' ')?.0.to_owned();
    let (mut authorization, mut length) = (None, 0);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim_end().split_once(": ") else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "authorization" => authorization = Some(value.to_owned()),
            "content-length" => length = value.parse().ok()?,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request {
        line,
        authorization,
        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
    })
}
