//! A receiver of webhooks over TLS. It verifies what it gets by an implementation that is not ours, keeps
//! it, and misbehaves as a test tells it to.
#![allow(dead_code, reason = "each of the two test programs uses its part")]

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;
use standardwebhooks::Webhook;
use ureq::http::{HeaderMap, HeaderName, HeaderValue};

/// What requests are signed with: two, as while a key is changed.
pub(crate) const SECRETS: &str =
    "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw whsec_c2Vzc2lvbi1zdXBlcnZpc29yLWlzLW5vdy10aGUta2V5";

/// How long a drop of a dripping answer takes.
const DRIP: Duration = Duration::from_millis(20);

/// A request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// Counts the connections.
    pub(crate) connection: usize,
    pub(crate) at: Instant,
    /// Such as `POST /hooks HTTP/1.1`.
    pub(crate) line: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().unwrap())
    }

    /// The events in it, be it one or a batch.
    pub(crate) fn events(&self) -> Vec<&Value> {
        match self.body["events"].as_array() {
            Some(events) => events.iter().collect(),
            None => vec![&self.body],
        }
    }

    pub(crate) fn event_ids(&self) -> Vec<String> {
        let ids = self.events().into_iter().map(|event| &event["event_id"]);
        ids.map(|id| id.as_str().unwrap().to_owned()).collect()
    }
}

/// What is answered.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// A status without a body.
    Status(u16),
    /// An answer, as it is.
    Whole(String),
    /// This, and then the connection is closed.
    Torn(&'static str),
    /// This, and then a byte now and then until the other side goes.
    Drip(&'static str),
    /// Nothing until the other side goes.
    Never,
}

/// Where a receiver is, or will be, and how it proves that it is the right one.
#[derive(Clone)]
pub(crate) struct Address {
    port: u16,
    authority: String,
    tls: Arc<ServerConfig>,
}

impl Address {
    /// A free port at which nobody answers, and a certificate of an authority of its own.
    pub(crate) fn new() -> Self {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &authority).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            );
        Self {
            port: free.local_addr().unwrap().port(),
            authority: authority.pem(),
            tls: Arc::new(tls.unwrap()),
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("https://127.0.0.1:{}/hooks?from=test", self.port)
    }

    /// The certificate of the authority, in PEM form.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// Starts a receiver there that gives these answers.
    pub(crate) fn listen(
        &self,
        answer: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Receiver {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).unwrap();
        let receiver = Receiver {
            address: self.clone(),
            seen: Arc::default(),
            gone: Arc::default(),
        };
        let (seen, gone) = (Arc::clone(&receiver.seen), Arc::clone(&receiver.gone));
        let (tls, answer) = (Arc::clone(&self.tls), Arc::new(answer));
        thread::spawn(move || {
            for (connection, stream) in listener.incoming().enumerate() {
                if gone.load(Ordering::SeqCst) {
                    return;
                }
                let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                let tls = ServerConnection::new(Arc::clone(&tls)).unwrap();
                let stream = BufReader::new(StreamOwned::new(tls, stream.unwrap()));
                thread::spawn(move || serve(connection, stream, &seen, &*answer));
            }
        });
        receiver
    }
}

/// A receiver that listens. Its port is closed when it is dropped; connections end with the other side.
pub(crate) struct Receiver {
    address: Address,
    seen: Arc<Mutex<Seen>>,
    gone: Arc<AtomicBool>,
}

#[derive(Default)]
struct Seen {
    requests: Vec<Request>,
    /// What was answered with 2xx.
    taken: Vec<String>,
    /// What no receiver would accept.
    faults: Vec<String>,
}

impl Receiver {
    /// One that listens at a port of its own.
    pub(crate) fn start(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        Address::new().listen(answer)
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// The requests so far, each of which must have been signed.
    #[track_caller]
    pub(crate) fn requests(&self) -> Vec<Request> {
        let seen = self.seen.lock().unwrap();
        assert!(seen.faults.is_empty(), "{:?}", seen.faults);
        seen.requests.clone()
    }

    /// How often each event of those that were answered with 2xx was: an id each time.
    pub(crate) fn taken(&self) -> Vec<String> {
        self.seen.lock().unwrap().taken.clone()
    }

    /// The ids under which events were sent.
    pub(crate) fn event_ids(&self) -> BTreeSet<String> {
        let requests = self.requests();
        requests.iter().flat_map(Request::event_ids).collect()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.gone.store(true, Ordering::SeqCst);
        // Wakes the thread that waits for connections.
        let _ = TcpStream::connect(("127.0.0.1", self.address.port));
    }
}

type Stream = BufReader<StreamOwned<ServerConnection, TcpStream>>;

fn serve(
    connection: usize,
    mut stream: Stream,
    seen: &Mutex<Seen>,
    answer: &dyn Fn(&Request) -> Answer,
) {
    while let Some((request, body)) = read(connection, &mut stream) {
        {
            let mut seen = seen.lock().unwrap();
            seen.faults.extend(fault(&request, &body));
            seen.requests.push(request.clone());
        }
        let answer = answer(&request);
        if is_success(&answer) {
            seen.lock().unwrap().taken.extend(request.event_ids());
        }
        if give(answer, stream.get_mut()).is_none() {
            return;
        }
    }
}

fn is_success(answer: &Answer) -> bool {
    match answer {
        Answer::Status(status) => (200..300).contains(status),
        Answer::Whole(text) => text.starts_with("HTTP/1.1 2"),
        Answer::Torn(text) | Answer::Drip(text) => {
            text.starts_with("HTTP/1.1 2") && text.contains("\r\n\r\n")
        }
        Answer::Never => false,
    }
}

/// Answers none when the connection is over.
fn give(answer: Answer, stream: &mut StreamOwned<ServerConnection, TcpStream>) -> Option<()> {
    match answer {
        Answer::Status(204) => stream.write_all(b"HTTP/1.1 204 \r\n\r\n").ok(),
        Answer::Status(status) => {
            let text = format!("HTTP/1.1 {status} \r\ncontent-length: 0\r\n\r\n");
            stream.write_all(text.as_bytes()).ok()
        }
        Answer::Whole(text) => stream.write_all(text.as_bytes()).ok(),
        Answer::Torn(text) => {
            stream.write_all(text.as_bytes()).ok()?;
            stream.flush().ok()?;
            None
        }
        Answer::Drip(text) => {
            stream.write_all(text.as_bytes()).ok()?;
            while stream.write_all(b"x").is_ok() && stream.flush().is_ok() {
                thread::sleep(DRIP);
            }
            None
        }
        Answer::Never => {
            let _ = stream.read(&mut [0]);
            None
        }
    }
}

/// The next request, and its body as it was.
fn read(connection: usize, stream: &mut Stream) -> Option<(Request, Vec<u8>)> {
    let mut line = String::new();
    stream
        .read_line(&mut line)
        .ok()
        .filter(|length| *length > 0)?;
    let mut headers = HeaderMap::new();
    loop {
        let mut header = String::new();
        stream.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim_end().split_once(": ") else {
            break;
        };
        let name: HeaderName = name.parse().unwrap();
        headers.append(name, HeaderValue::from_str(value).unwrap());
    }
    let length = headers.get("content-length")?.to_str().ok()?.parse().ok()?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    let request = Request {
        connection,
        at: Instant::now(),
        line: line.trim_end().to_owned(),
        headers,
        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
    };
    Some((request, body))
}

/// What is wrong with a request, for a receiver that knows one of the secrets.
fn fault(request: &Request, body: &[u8]) -> Option<String> {
    let unsigned = SECRETS.split(' ').find_map(|secret| {
        let webhook = Webhook::new(secret).unwrap();
        webhook.verify(body, &request.headers).err()
    });
    if let Some(error) = unsigned {
        return Some(format!("{error}: {request:?}"));
    }
    let is_fine = request.header("content-type") == "application/json"
        && request.headers.get_all("webhook-id").iter().count() == 1
        && request.line.starts_with("POST /hooks?from=test ");
    (!is_fine).then(|| format!("{request:?}"))
}
