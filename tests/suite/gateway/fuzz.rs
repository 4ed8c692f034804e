//! What nobody should send, at random: the gateway answers all of it, as it is described.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Map, Value, json};
use session_supervisor::EndReason;

use super::client::{Response, TestGateway};
use super::description::Description;

/// A request, as far as it can be made up without the description: what it is for is picked from
/// there, so that routes which are added are among them.
#[derive(Debug, Clone)]
struct Plan {
    operation: Index,
    method: Option<String>,
    target: Target,
    body: Body,
    content_type: &'static str,
    headers: Vec<(String, String)>,
}

#[derive(Debug, Clone)]
enum Target {
    /// That of the operation, with this in the place of names and these parameters.
    Described {
        name: String,
        query: Vec<(Key, String)>,
    },
    Other(String),
}

#[derive(Debug, Clone)]
enum Body {
    Empty,
    /// Fields of the operation, and others.
    Object(Vec<(Key, Value)>),
    /// The beginning of such a body.
    Cut(Vec<(Key, Value)>, Index),
    Json(Value),
    Garbage(Vec<u8>),
}

/// The name of a field or a parameter.
#[derive(Debug, Clone)]
enum Key {
    Described(Index),
    Other(String),
}

fn plan() -> impl Strategy<Value = Plan> {
    let content_type = prop_oneof![
        12 => Just("application/json"),
        1 => select(vec![
            "", "text/plain", "application/json; charset=latin1", "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x", ";", "application/problem+json", "\u{e4}",
        ]),
    ];
    let method = prop_oneof![
        8 => Just(None),
        1 => select(vec![
            "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW", "get",
        ]).prop_map(|method| Some(method.to_owned())),
        1 => "[A-Z]{1,9}".prop_filter("a tunnel", |it| it != "CONNECT").prop_map(Some),
    ];
    let parts = (
        any::<Index>(),
        method,
        target(),
        body(),
        content_type,
        vec(header(), 0..3),
    );
    parts.prop_map(
        |(operation, method, target, body, content_type, headers)| Plan {
            operation,
            method,
            target,
            body,
            content_type,
            headers,
        },
    )
}

fn target() -> impl Strategy<Value = Target> {
    let query = prop_oneof![
        3 => Just(Vec::new()),
        1 => vec((key(), parameter()), 1..4),
    ];
    prop_oneof![
        12 => (name(), query).prop_map(|(name, query)| Target::Described { name, query }),
        1 => "(/[!-~]{0,12}){1,4}".prop_map(Target::Other),
        1 => "/v1/(sessions|plugins|%73essions|v1%2Fsessions|sessions%2Fa|shutdown|\\.\\./x)?(/[a-c%.;?#&=]{0,5}){0,3}".prop_map(Target::Other),
        1 => "/[!-~]{0,2000}".prop_map(Target::Other),
    ]
}

/// What stands in a path for a name.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => select(vec!["a", "b", "c"]).prop_map(str::to_owned),
        2 => any::<String>().prop_map(|it| percent_encoded(&it)),
        1 => "(%[0-9A-Fa-f]{2}){1,6}",
        1 => select(vec!["%", "%zz", ".", "..", "%2e%2E", "a%2Fb", "%2F", "%00", "a;b", "+", "*", "~"])
            .prop_map(str::to_owned),
        1 => (250_usize..270).prop_map(|length| "x".repeat(length)),
    ]
}

fn parameter() -> impl Strategy<Value = String> {
    prop_oneof![
        select(vec![
            "", "0", "1", "1000", "1001", "-1", "1e3", "active", "ended", "a", "k", "s1", "sff"
        ])
        .prop_map(str::to_owned),
        any::<u64>().prop_map(|number| number.to_string()),
        any::<String>().prop_map(|it| percent_encoded(&it)),
        "[!-~&&[^#]]{0,20}",
    ]
}

fn key() -> impl Strategy<Value = Key> {
    prop_oneof![
        15 => any::<Index>().prop_map(Key::Described),
        1 => "[a-z_]{1,10}".prop_map(Key::Other),
        1 => any::<String>().prop_map(Key::Other),
    ]
}

fn body() -> impl Strategy<Value = Body> {
    let fields = || vec((key(), value()), 0..5);
    prop_oneof![
        2 => Just(Body::Empty),
        10 => fields().prop_map(Body::Object),
        1 => (fields(), any::<Index>()).prop_map(|(fields, end)| Body::Cut(fields, end)),
        1 => value().prop_map(Body::Json),
        1 => vec(any::<u8>(), 0..200).prop_map(Body::Garbage),
        1 => (1_usize..400).prop_map(|depth| Body::Garbage("[{\"a\":".repeat(depth).into_bytes())),
        1 => (65_000_usize..66_000).prop_map(|length| Body::Garbage(vec![b' '; length])),
    ]
}

/// A value: often one that some field takes.
fn value() -> impl Strategy<Value = Value> {
    let reasons = EndReason::ALL.iter().map(|reason| json!(reason));
    let leaf = prop_oneof![
        6 => select(vec![json!("a"), json!("b"), json!("c"), json!("k"), json!("main")]),
        3 => select(reasons.collect::<Vec<_>>()),
        3 => any::<bool>().prop_map(Value::from),
        2 => select(vec![
            json!(null), json!(0), json!(1), json!(-1), json!(1.5), json!(u64::MAX), json!(i64::MAX),
            json!("2026-11-22T10:00:00.000Z"), json!("0197c0de-0000-7000-8000-000000000000"),
        ]),
        1 => any::<u64>().prop_map(Value::from),
        1 => any::<f64>().prop_map(Value::from),
        1 => any::<String>().prop_map(Value::from),
        1 => (1_usize..5000).prop_map(|length| json!("x".repeat(length))),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((".{0,4}", inner), 0..4)
                .prop_map(|members| Value::from(members.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// A header beside those that frame a request.
fn header() -> impl Strategy<Value = (String, String)> {
    let name = select(vec![
        "Host",
        "Origin",
        "Authorization",
        "Expect",
        "Upgrade",
        "Accept",
        "Accept-Encoding",
        "Content-Encoding",
        "Range",
        "If-None-Match",
        "Sec-Fetch-Site",
        "X-HTTP-Method-Override",
        "Cookie",
        "Forwarded",
        "Last-Event-ID",
        "Content-Type",
    ]);
    let value = prop_oneof![
        select(vec![
            "localhost",
            "127.0.0.1:1",
            "example.org",
            "http://localhost",
            "null",
            "Bearer x",
            "100-continue",
            "websocket",
            "h2c",
            "gzip",
            "DELETE",
            "cross-site",
            "*/*",
            "bytes=0-",
            "application/json",
        ])
        .prop_map(str::to_owned),
        "[ -~]{0,40}",
    ];
    let other = ("X-[A-Za-z0-9-]{1,20}", "\\PC{0,40}");
    prop_oneof![(name.prop_map(str::to_owned), value), other]
}

fn percent_encoded(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

/// A request as it is sent.
struct Fuzzed {
    method: String,
    target: String,
    body: String,
    bytes: Vec<u8>,
}

impl Plan {
    fn request(self, description: &Description) -> Fuzzed {
        let operations = description.operations();
        let (method, path) = self.operation.get(&operations);
        let operation = &description.root()["paths"][path][method.to_lowercase()];
        let target = match self.target {
            Target::Other(target) => target,
            Target::Described { name, query } => {
                let parameters = operation["parameters"].as_array();
                let names = parameters
                    .into_iter()
                    .flatten()
                    .filter(|it| it["in"] == "query");
                let names: Vec<_> = names.filter_map(|it| it["name"].as_str()).collect();
                let query = query
                    .into_iter()
                    .map(|(key, value)| format!("{}={value}", percent_encoded(&key.name(&names))));
                let query = query.collect::<Vec<_>>().join("&");
                let mark = if query.is_empty() { "" } else { "?" };
                let is_name = |part: &&str| part.starts_with('{');
                let segments = path
                    .split('/')
                    .map(|part| if is_name(&part) { &name } else { part });
                format!("{}{mark}{query}", segments.collect::<Vec<_>>().join("/"))
            }
        };
        let reference = &operation["requestBody"]["content"]["application/json"]["schema"]["$ref"];
        let place = reference
            .as_str()
            .unwrap_or("#/none")
            .trim_start_matches('#');
        let schema = description.root().pointer(place);
        let fields = schema.and_then(|schema| schema["properties"].as_object());
        let fields: Vec<_> = fields
            .into_iter()
            .flatten()
            .map(|(name, _)| name.as_str())
            .collect();
        let body = self.body.bytes(&fields);

        let method = self.method.unwrap_or_else(|| method.clone());
        let has = |name: &str| {
            self.headers
                .iter()
                .any(|it| it.0.eq_ignore_ascii_case(name))
        };
        let mut head = format!("{method} {target} HTTP/1.1\r\nConnection: close\r\n");
        if !has("host") {
            head += "Host: localhost\r\n";
        }
        if !self.content_type.is_empty() {
            head += &format!("Content-Type: {}\r\n", self.content_type);
        }
        if !body.is_empty() {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        let bytes = [head.as_bytes(), b"\r\n", &body].concat();
        // What comes with a GET means nothing.
        let is_read = matches!(method.as_str(), "GET" | "HEAD");
        let body = if is_read { &[][..] } else { &body };
        Fuzzed {
            body: String::from_utf8_lossy(body).into_owned(),
            method,
            target,
            bytes,
        }
    }
}

impl Key {
    fn name(&self, described: &[&str]) -> String {
        match self {
            Self::Described(index) if !described.is_empty() => (*index.get(described)).to_owned(),
            Self::Described(_) => "none".to_owned(),
            Self::Other(name) => name.clone(),
        }
    }
}

impl Body {
    fn bytes(self, fields: &[&str]) -> Vec<u8> {
        let object = |members: Vec<(Key, Value)>| {
            let members = members.iter();
            let members = members.map(|(key, value)| (key.name(fields), value.clone()));
            Value::from(members.collect::<Map<_, _>>())
                .to_string()
                .into_bytes()
        };
        match self {
            Self::Empty => Vec::new(),
            Self::Object(members) => object(members),
            Self::Cut(members, end) => {
                let mut body = object(members);
                body.truncate(end.index(body.len()));
                body
            }
            Self::Json(value) => value.to_string().into_bytes(),
            Self::Garbage(bytes) => bytes,
        }
    }
}

/// Sends `bytes` and reads what comes, which must end within the patience of the client.
fn exchange(gateway: &TestGateway, bytes: &[u8], is_all: bool) -> String {
    let mut connection = gateway.connect();
    // A refusal may come, and the connection be closed, before all is sent.
    let _ = connection.write_all(bytes);
    if is_all {
        let _ = connection.shutdown(Shutdown::Write);
    }
    let mut answer = Vec::new();
    let end = connection.read_to_end(&mut answer);
    let is_hang = |error: &std::io::Error| {
        use std::io::ErrorKind::{TimedOut, WouldBlock};
        matches!(error.kind(), TimedOut | WouldBlock)
    };
    assert!(
        !end.is_err_and(|error| is_hang(&error)),
        "no end of the answer"
    );
    String::from_utf8(answer).expect("an answer in UTF-8")
}

/// All sessions that the gateway tells of.
fn sessions(gateway: &TestGateway) -> [Value; 2] {
    ["active", "ended"].map(|state| {
        let list = gateway.get(&format!("/v1/sessions?state={state}&limit=1000"));
        assert_eq!(list.status, 200, "{list:?}");
        list.json()
    })
}

fn with_gateway(test: impl AsyncFnOnce(&TestGateway)) {
    actix_web::rt::System::new().block_on(async {
        let gateway = TestGateway::start().await;
        test(&gateway).await;
        gateway.stop().await;
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_asked_is_answered_as_described(plans in vec(plan(), 1..24)) {
        with_gateway(async |gateway| {
            let description = Description::of(gateway);
            gateway.start_session("a");
            let mut before = sessions(gateway);
            for plan in plans {
                let sent = plan.request(&description);
                let shown = String::from_utf8_lossy(&sent.bytes).into_owned();
                let answer = exchange(gateway, &sent.bytes, false);
                let answer = answer.trim_start_matches("HTTP/1.1 100 Continue\r\n\r\n");
                let answer = Response::parse(answer);
                let found = description.check_answer(&sent.method, &sent.target, &answer);
                assert!(found.is_ok(), "{found:?}\n{answer:?}\n{shown}");
                assert!(answer.status < 500, "{answer:?}\n{shown}");
                if answer.status == 202 {
                    // It stops, as it was told.
                    return;
                }
                let after = sessions(gateway);
                if answer.status >= 400 {
                    assert_eq!(before, after, "{answer:?}\n{shown}");
                } else {
                    let allowed = description.check_request(&sent.method, &sent.target, &sent.body);
                    assert_eq!(allowed, Ok(()), "{answer:?}\n{shown}");
                }
                before = after;
            }
        });
    }
}
