//! A stream of server-sent events, as a client reads it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::client::{Request, TestGateway};

/// How long an event may take to come.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// A stream that is followed.
pub(super) struct Followed(BufReader<TcpStream>);

/// An event of a stream.
#[derive(Debug, PartialEq)]
pub(super) struct Event {
    pub(super) name: String,
    pub(super) id: Option<u64>,
    pub(super) data: Value,
}

impl Followed {
    #[expect(
        clippy::needless_pass_by_value,
        reason = "built in place by all callers"
    )]
    pub(super) fn open(gateway: &TestGateway, request: Request) -> Self {
        let mut connection = gateway.connect();
        connection
            .write_all(request.to_string().as_bytes())
            .unwrap();
        let mut stream = Self(BufReader::new(connection));
        let (status, head) = (stream.line().unwrap(), stream.until_empty().join("\n"));
        assert!(status.contains(" 200 "), "{status}");
        assert!(head.contains("content-type: text/event-stream"), "{head}");
        assert!(head.contains("cache-control: no-store"), "{head}");
        stream
    }

    pub(super) fn all(gateway: &TestGateway) -> Self {
        Self::open(gateway, Request::new("GET", "/v1/events"))
    }

    pub(super) fn after(gateway: &TestGateway, id: &str) -> Self {
        let request = Request::new("GET", "/v1/events");
        Self::open(gateway, request.header("Last-Event-ID", id))
    }

    /// The next line, without its end; none at the end of the connection.
    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.0.read_line(&mut line).expect("the stream goes on");
        (read > 0).then(|| line.trim_end().to_owned())
    }

    fn until_empty(&mut self) -> Vec<String> {
        let lines = std::iter::from_fn(|| self.line());
        lines.take_while(|line| !line.is_empty()).collect()
    }

    /// The next event. Lines that are none of its fields are the sizes of chunks.
    pub(super) fn next(&mut self) -> Event {
        let (mut name, mut id) = (String::new(), None);
        let until = Instant::now() + PATIENCE;
        loop {
            // Comments come for ever.
            assert!(Instant::now() < until, "no event comes");
            let line = self.line().expect("an event");
            match line.split_once(": ") {
                Some(("event", value)) => name = value.to_owned(),
                Some(("id", value)) => id = Some(value.parse().unwrap()),
                Some(("data", value)) => {
                    let data = serde_json::from_str(value).unwrap();
                    return Event { name, id, data };
                }
                _ => {}
            }
        }
    }

    /// The next start or end, as a line.
    pub(super) fn session(&mut self) -> String {
        loop {
            let Event { name, id, data } = self.next();
            if let Some(id) = id {
                assert_eq!(data["type"], name);
                assert_eq!(data["seq"], id);
                return format!("{id} {name} {}", data["session"]["id"].as_str().unwrap());
            }
        }
    }

    /// The next session that has ended under a holder's stream, and why.
    pub(super) fn ended(&mut self) -> (String, String) {
        let Event { name, id, data } = self.next();
        assert_eq!((name.as_str(), id), ("ended", None), "{data}");
        assert_eq!(data["type"], "session_end");
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        (text(&data["session"]["id"]), text(&data["reason"]))
    }

    /// Waits for a comment.
    pub(super) fn comment(&mut self) {
        while !self.line().expect("a comment").starts_with(": ") {}
    }

    /// Reads to the end, which must be a proper one.
    pub(super) fn ends(mut self) {
        let mut rest = String::new();
        self.0.read_to_string(&mut rest).expect("a whole stream");
        assert!(rest.ends_with("0\r\n\r\n"), "cut off: {rest:?}");
    }

    /// Sends nothing more, as a process that has died, but goes on reading.
    pub(super) fn send_no_more(&self) {
        self.0.get_ref().shutdown(Shutdown::Write).unwrap();
    }

    pub(super) fn into_connection(self) -> TcpStream {
        self.0.into_inner()
    }
}
