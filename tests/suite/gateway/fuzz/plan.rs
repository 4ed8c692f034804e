//! Requests at random: often nearly right, sometimes nothing of the kind.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Map, Value, json};
use session_supervisor::EndReason;

use crate::gateway::description::Description;

/// A request, as far as it can be made up without the description: what it is for is picked from
/// there, so that routes which are added are among them.
#[derive(Debug, Clone)]
pub(super) struct Plan {
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
    Object(Vec<Field>),
    /// The beginning of such a body.
    Cut(Vec<Field>, Index),
    Json(Value),
    Garbage(Vec<u8>),
}

/// The name of a field or a parameter.
#[derive(Debug, Clone)]
enum Key {
    Described(Index),
    Other(String),
}

#[derive(Debug, Clone)]
struct Field {
    key: Key,
    value: FieldValue,
}

#[derive(Debug, Clone)]
enum FieldValue {
    /// One of those that the field may have.
    Fitting(Index),
    Any(Value),
}

pub(super) fn plan() -> impl Strategy<Value = Plan> {
    let content_type = prop_oneof![
        20 => Just("application/json"),
        1 => select(vec![
            "", ";", "text/plain", "application/json; charset=latin1", "application/problem+json",
            "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "\u{e4}",
        ]),
    ];
    let method = prop_oneof![
        20 => Just(None),
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
        prop_oneof![3 => Just(Vec::new()), 1 => vec(header(), 1..3)],
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
    let near = "/v1/(sessions|%73essions|sessions%2Fa|v1%2Fsessions|holders|plugins|shutdown|\\.\\./x)?\
                (/[a-c%.;?#&=]{0,5}){0,3}";
    prop_oneof![
        12 => (name(), query).prop_map(|(name, query)| Target::Described { name, query }),
        1 => "(/[!-~]{0,12}){1,4}".prop_map(Target::Other),
        1 => near.prop_map(Target::Other),
        1 => "/[!-~]{0,2000}".prop_map(Target::Other),
    ]
}

/// What stands in a path for a name.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => select(vec!["a", "b", "c"]).prop_map(str::to_owned),
        2 => any::<String>().prop_map(|it| percent_encoded(&it)),
        1 => "(%[0-9A-Fa-f]{2}){1,6}",
        1 => select(vec![
            "%", "%zz", ".", "..", "%2e%2E", "a%2Fb", "%2F", "%00", "a;b", "+", "*", "~",
        ]).prop_map(str::to_owned),
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
    prop_oneof![
        2 => Just(Body::Empty),
        10 => fields().prop_map(Body::Object),
        1 => (fields(), any::<Index>()).prop_map(|(fields, end)| Body::Cut(fields, end)),
        1 => any_value().prop_map(Body::Json),
        1 => vec(any::<u8>(), 0..200).prop_map(Body::Garbage),
        1 => (1_usize..400).prop_map(|depth| Body::Garbage("[{\"a\":".repeat(depth).into_bytes())),
        1 => (65_000_usize..66_000).prop_map(|length| Body::Garbage(vec![b' '; length])),
    ]
}

fn fields() -> impl Strategy<Value = Vec<Field>> {
    let value = prop_oneof![
        4 => any::<Index>().prop_map(FieldValue::Fitting),
        1 => any_value().prop_map(FieldValue::Any),
    ];
    vec(
        (key(), value).prop_map(|(key, value)| Field { key, value }),
        0..4,
    )
}

/// Values of which each field may have one.
fn fitting() -> Vec<Value> {
    let reasons = EndReason::ALL.iter().map(|reason| json!(reason));
    let others = [
        json!("a"),
        json!("b"),
        json!("c"),
        json!(1),
        json!(false),
        json!(true),
        json!("2026-11-22T10:00:00.000Z"),
        json!("0197c0de-0000-7000-8000-000000000000"),
        json!({"channel": "x"}),
        // A lease that lasts longer than the test.
        json!(60_000),
        json!(["a"]),
    ];
    reasons.chain(others).collect()
}

/// A value: often one that some field takes.
fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        6 => select(fitting()),
        2 => select(vec![
            json!(null), json!(0), json!(-1), json!(1.5), json!(u64::MAX), json!(i64::MAX),
            json!(""), json!(".."), json!("\u{0}"),
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
pub(super) struct Fuzzed {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) body: String,
    pub(super) bytes: Vec<u8>,
}

impl Plan {
    pub(super) fn request(self, description: &Description) -> Fuzzed {
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
        let schema = description.body_of(operation);
        let body = self.body.bytes(description, schema);

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
    fn bytes(self, description: &Description, schema: &Value) -> Vec<u8> {
        let object = |fields: Vec<Field>| {
            let members = fields.into_iter();
            let members = members.map(|field| field.member(description, schema));
            let mut object: Map<_, _> = members.collect();
            for name in schema["required"].as_array().into_iter().flatten() {
                let name = name.as_str().expect("a name");
                let mut fitting = fitting().into_iter();
                let first = fitting.rfind(|it| description.allows(&schema["properties"][name], it));
                object.entry(name).or_insert(first.unwrap_or(json!("b")));
            }
            Value::from(object).to_string().into_bytes()
        };
        match self {
            Self::Empty => Vec::new(),
            Self::Object(fields) => object(fields),
            Self::Cut(fields, end) => {
                let mut body = object(fields);
                body.truncate(end.index(body.len()));
                body
            }
            Self::Json(value) => value.to_string().into_bytes(),
            Self::Garbage(bytes) => bytes,
        }
    }
}

impl Field {
    fn member(self, description: &Description, schema: &Value) -> (String, Value) {
        let fields = schema["properties"].as_object();
        let names: Vec<_> = fields
            .into_iter()
            .flatten()
            .map(|(name, _)| name.as_str())
            .collect();
        let name = self.key.name(&names);
        let value = match self.value {
            FieldValue::Any(value) => value,
            FieldValue::Fitting(index) => {
                let mut values = fitting();
                values.retain(|value| description.allows(&schema["properties"][&name], value));
                values.push(json!(null));
                index.get(&values).clone()
            }
        };
        (name, value)
    }
}
