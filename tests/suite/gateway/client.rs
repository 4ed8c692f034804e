//! A gateway to ask, and an HTTP client that also sends what no client should.

use std::fmt::{self, Write as _};
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use serde_json::Value;
use session_supervisor::{Access, Builder, Gateway, SessionSupervisor};

/// What no answer should ever take.
const TIMEOUT: Duration = Duration::from_secs(20);

/// An answer.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: String,
}

impl Response {
    pub(super) fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").expect("no end of the head");
        let status = head.split(' ').nth(1).expect("no status");
        Self {
            status: status.parse().unwrap(),
            head: head.to_owned(),
            body: body.to_owned(),
        }
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.head.lines().filter_map(|line| line.split_once(": "));
        let found = headers.find(|(found, _)| found.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value)
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("the body is not JSON")
    }

    /// The status and the end of the problem's type.
    #[track_caller]
    pub(super) fn problem(&self) -> (u16, String) {
        let content_type = self.header("content-type");
        assert_eq!(content_type, Some("application/problem+json"), "{self:?}");
        let document = self.json();
        assert_eq!(document["status"], self.status, "{self:?}");
        for member in ["title", "detail"] {
            assert!(document[member].is_string(), "{self:?}");
        }
        let name = document["type"].as_str().unwrap();
        let name = name.strip_prefix("urn:session-supervisor:problem:");
        (self.status, name.expect("a foreign type").to_owned())
    }

    /// Where the one field at fault is.
    pub(super) fn pointer(&self) -> String {
        let errors = &self.json()["errors"];
        assert_eq!(errors.as_array().map(Vec::len), Some(1), "{self:?}");
        assert!(errors[0]["detail"].is_string(), "{self:?}");
        errors[0]["pointer"].as_str().unwrap().to_owned()
    }
}

/// Reads until the gateway closes the connection, or begins a stream of events, which has no end.
pub(super) fn read_answer(connection: &mut TcpStream, answer: &mut Vec<u8>) -> io::Result<()> {
    const STREAM: &[u8] = b"content-type: text/event-stream\r\n";
    let mut buffer = [0; 16 * 1024];
    loop {
        let read = connection.read(&mut buffer)?;
        answer.extend_from_slice(&buffer[..read]);
        let has = |bytes: &[u8]| answer.windows(bytes.len()).any(|it| it == bytes);
        if read == 0 || has(STREAM) && has(b"retry: ") {
            return Ok(());
        }
    }
}

fn connect_to(gateway: SocketAddr) -> TcpStream {
    let connection = TcpStream::connect(gateway).unwrap();
    connection.set_read_timeout(Some(TIMEOUT)).unwrap();
    connection.set_write_timeout(Some(TIMEOUT)).unwrap();
    connection
}

/// Sends `bytes` and reads until the gateway closes the connection.
pub(super) fn send_to(gateway: SocketAddr, bytes: &[u8]) -> Response {
    let mut connection = connect_to(gateway);
    connection.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    read_answer(&mut connection, &mut answer).unwrap();
    Response::parse(&String::from_utf8(answer).unwrap())
}

/// A request to be built up.
pub(super) struct Request {
    line: String,
    headers: Vec<(String, String)>,
    body: String,
}

impl Request {
    /// A request as a well-behaved client sends it.
    pub(super) fn new(method: &str, target: &str) -> Self {
        let request = Self {
            line: format!("{method} {target} HTTP/1.1"),
            headers: Vec::new(),
            body: String::new(),
        };
        let request = request
            .header("Host", "localhost")
            .header("Connection", "close");
        match method {
            "GET" | "HEAD" => request,
            _ => request.header("Content-Type", "application/json"),
        }
    }

    /// Sets a header, or leaves it out if `value` is empty.
    pub(super) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(old, _)| old != name);
        if !value.is_empty() {
            self.headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    pub(super) fn body(mut self, body: &(impl ToString + ?Sized)) -> Self {
        self.body = body.to_string();
        let length = self.body.len().to_string();
        self.header("Content-Length", &length)
    }

    pub(super) fn chunked_body(mut self, body: &str) -> Self {
        self.body.clear();
        for chunk in body.as_bytes().chunks(8192) {
            let chunk = std::str::from_utf8(chunk).unwrap();
            write!(self.body, "{:x}\r\n{chunk}\r\n", chunk.len()).unwrap();
        }
        self.body.push_str("0\r\n\r\n");
        self.header("Transfer-Encoding", "chunked")
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\r\n", self.line)?;
        for (name, value) in &self.headers {
            write!(f, "{name}: {value}\r\n")?;
        }
        write!(f, "\r\n{}", self.body)
    }
}

/// A gateway of its own, over a supervisor of its own.
pub(super) struct TestGateway {
    gateway: Gateway,
    pub(super) supervisor: SessionSupervisor,
}

impl TestGateway {
    pub(super) async fn start() -> Self {
        Self::start_with(SessionSupervisor::builder(), Access::loopback()).await
    }

    pub(super) async fn start_with(builder: Builder, access: Access) -> Self {
        let supervisor = builder.start().await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let gateway = Gateway::start(vec![listener], supervisor.clone(), access).unwrap();
        Self {
            gateway,
            supervisor,
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.gateway.addresses()[0]
    }

    pub(super) fn connect(&self) -> TcpStream {
        connect_to(self.address())
    }

    /// Opens a stream of events.
    pub(super) fn follow(&self) -> TcpStream {
        self.open(&Request::new("GET", "/v1/events")).0
    }

    /// Sends a request for a stream. Its connection, and what comes first.
    pub(super) fn open(&self, request: &Request) -> (TcpStream, Response) {
        let (mut connection, mut answer) = (self.connect(), Vec::new());
        let request = request.to_string();
        connection.write_all(request.as_bytes()).unwrap();
        read_answer(&mut connection, &mut answer).unwrap();
        let answer = Response::parse(&String::from_utf8(answer).unwrap());
        (connection, answer)
    }

    /// Sends `bytes` and reads until the gateway closes the connection.
    pub(super) fn send_raw(&self, bytes: &[u8]) -> Response {
        send_to(self.address(), bytes)
    }

    #[expect(
        clippy::needless_pass_by_value,
        reason = "built in place by all callers"
    )]
    pub(super) fn send(&self, request: Request) -> Response {
        self.send_raw(request.to_string().as_bytes())
    }

    pub(super) fn get(&self, target: &str) -> Response {
        self.send(Request::new("GET", target))
    }

    pub(super) fn post(&self, target: &str, body: &Value) -> Response {
        self.send(Request::new("POST", target).body(body))
    }

    /// Starts a session that has only an id.
    #[track_caller]
    pub(super) fn start_session(&self, id: &str) -> Value {
        let started = self.post("/v1/sessions", &serde_json::json!({"id": id}));
        assert_eq!(started.status, 201, "{started:?}");
        started.json()
    }

    /// Stops it, which begins with the call.
    pub(super) fn stop(&self) -> impl Future<Output = ()> + use<> {
        self.gateway.stop()
    }
}
