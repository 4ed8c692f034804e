//! The gateway against its own description: each answer that it describes is given, and no other.
//!
//! A new route needs a [`Case`] here: without one the description has answers that nobody has seen.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use session_supervisor::{Access, Builder, Scope, Secret, SessionSupervisor, Shutdown, Token};

use super::client::{Request, Response, TestGateway};
use super::description::{Answer, Description};
use crate::faulty_ledger::{Call, Fault, FaultyLedger};

/// A request that the description allows, and the status of its answer.
struct Case(&'static str, &'static str, &'static str, u16);

/// One after the other on a new gateway: what each request is for, in all its forms.
const CASES: &[Case] = &[
    Case("GET", "/healthz", "", 200),
    Case("GET", "/readyz", "", 200),
    Case("GET", "/openapi.json", "", 200),
    Case("POST", "/v1/sessions", r#"{"id": "a"}"#, 201),
    Case("POST", "/v1/sessions", WHOLE_START, 200),
    Case(
        "POST",
        "/v1/sessions",
        r#"{"id": "b/\u00e4", "key": "k"}"#,
        201,
    ),
    Case("GET", "/v1/sessions", "", 200),
    Case(
        "GET",
        "/v1/sessions?state=active&key=k&key_prefix=k&limit=1",
        "",
        200,
    ),
    Case(
        "GET",
        "/v1/sessions?agent_id=main&holder=h&idle_for_ms=0&older_than_ms=0",
        "",
        200,
    ),
    Case("GET", "/v1/sessions?limit=1000&cursor=s1", "", 200),
    Case("GET", "/v1/sessions/b%2F%C3%A4", "", 200),
    Case("POST", "/v1/sessions/b%2F%C3%A4/touch", "", 204),
    Case("POST", "/v1/sessions/b%2F%C3%A4/end", WHOLE_END, 200),
    Case("POST", "/v1/sessions/a/end", "", 200),
    Case("GET", "/v1/sessions/a", "", 200),
    Case("GET", "/v1/sessions?state=ended", "", 200),
    Case(
        "POST",
        "/v1/bulk-end",
        r#"{"all": true, "reason": "closed", "dry_run": true}"#,
        200,
    ),
    Case("POST", "/v1/bulk-end", WHOLE_FILTER, 200),
    Case("GET", "/v1/plugins", "", 200),
    Case(
        "POST",
        "/v1/shutdown",
        r#"{"reason": "restart", "dry_run": true}"#,
        200,
    ),
    Case("POST", "/v1/shutdown", r#"{"restart_expected_ms": 0}"#, 202),
    Case("GET", "/v1/reports/last", "", 200),
];

const WHOLE_START: &str = r#"{
    "id": "a", "key": "k", "agent_id": "main", "store_path": "/s", "session_file": "/f",
    "resumed_from": "z", "started_at": "2026-11-22T10:00:00Z", "metadata": {"channel": [1]}
}"#;

const WHOLE_END: &str = r#"{
    "reason": "completed", "detail": "done", "next_session_id": "c", "next_key": "k",
    "message_count": 3, "transcript_archived": true
}"#;

const WHOLE_FILTER: &str = r#"{
    "key": "k", "key_prefix": "k", "agent_id": "main", "holder": "h", "idle_for_ms": 0,
    "older_than_ms": 0, "all": false, "reason": "closed", "dry_run": false
}"#;

/// Refusals of what a request means.
const REFUSED: &[Case] = &[
    Case("GET", "/v1/sessions/unknown", "", 404),
    Case("POST", "/v1/sessions/unknown/touch", "", 404),
    Case("POST", "/v1/sessions/unknown/end", "", 404),
    Case("GET", "/v1/reports/last", "", 404),
];

/// Requests that need a ledger which works, while `a` is active.
const RECORDED: &[Case] = &[
    Case("POST", "/v1/sessions", r#"{"id": "b"}"#, 503),
    Case("GET", "/v1/sessions?state=ended", "", 503),
    Case("GET", "/v1/sessions/b", "", 503),
    Case("POST", "/v1/sessions/a/end", "{}", 503),
    Case("POST", "/v1/bulk-end", r#"{"all": true}"#, 503),
];

const OPERATOR: &str = "Bearer operator-0123456789";
const READER: &str = "Bearer reader-0123456789";

/// Sends requests, and remembers which of the described answers came.
struct Contract {
    description: Description,
    seen: BTreeSet<Answer>,
}

impl Contract {
    /// Sends a request, to which `change` does what the description can't say.
    #[track_caller]
    fn send(
        &mut self,
        gateway: &TestGateway,
        (method, target, body): (&str, &str, &str),
        change: impl FnOnce(Request) -> Request,
    ) -> Response {
        let request = Request::new(method, target);
        let request = match body {
            "" => request,
            body => request.body(body),
        };
        let answer = gateway.send(change(request));
        match self.description.check_answer(method, target, &answer) {
            Ok(found) => self.seen.extend(found),
            Err(problem) => panic!("{method} {target}: {problem}: {answer:?}"),
        }
        answer
    }

    /// Sends what the description allows, and expects a status.
    #[track_caller]
    fn expect(&mut self, gateway: &TestGateway, case: &Case) -> Response {
        let &Case(method, target, body, status) = case;
        let allowed = self.description.check_request(method, target, body);
        assert_eq!(allowed, Ok(()), "{method} {target} {body}");
        let answer = self.send(gateway, (method, target, body), |request| request);
        assert_eq!(answer.status, status, "{method} {target}: {answer:?}");
        answer
    }

    /// The described requests, each in a form that is allowed, with the statuses described.
    fn samples(&self) -> Vec<(Case, BTreeSet<u16>)> {
        let answers = self.description.answers();
        let sample = |(method, path): (String, String)| {
            let is_it = |case: &&Case| {
                case.0 == method && self.description.path_of(case.1) == Some(path.as_str())
            };
            let case = CASES.iter().find(is_it);
            let &Case(method, target, body, status) =
                case.unwrap_or_else(|| panic!("there is no case for {method} {path}"));
            let of_it = answers
                .iter()
                .filter(|it| it.method == method && it.path == path);
            let statuses = of_it.map(|answer| answer.status).collect();
            (Case(method, target, body, status), statuses)
        };
        self.description
            .operations()
            .into_iter()
            .map(sample)
            .collect()
    }

    async fn what_requests_are_for(&mut self) {
        let dir = tempfile::tempdir().unwrap();
        let builder = SessionSupervisor::builder().state_dir(dir.path());
        let gateway = start(builder).await;
        for case in CASES {
            if case.1 == "/v1/reports/last" {
                gateway.supervisor.stopped().await.unwrap();
            }
            self.expect(&gateway, case);
        }
    }

    /// Refusals that have nothing to do with what a request is for.
    async fn common_refusals(&mut self) {
        let gateway = start(SessionSupervisor::builder()).await;
        for (Case(method, target, body, _), statuses) in self.samples() {
            let sample = (method, target, body);
            let parameter = if target.contains('?') {
                "&no=1"
            } else {
                "?no=1"
            };
            let unknown = format!("{target}{parameter}");
            for status in statuses {
                let answer = match status {
                    400 => self.send(&gateway, sample, |it| it.header("No Header", "x")),
                    403 => self.send(&gateway, sample, |it| it.header("Origin", "http://x.org")),
                    413 => self.send(&gateway, sample, |it| it.body(&"x".repeat(65_537))),
                    415 => self.send(&gateway, sample, |it| {
                        it.header("Content-Type", "text/plain")
                    }),
                    422 => self.send(&gateway, (method, &unknown, body), |it| it),
                    _ => continue,
                };
                assert_eq!(answer.status, status, "{method} {target}: {answer:?}");
            }
        }
        assert!(gateway.supervisor.is_ready());
        assert!(gateway.supervisor.snapshot().await.unwrap().is_empty());
    }

    async fn refusals_without_a_token(&mut self) {
        let token = |name: &str, scope, header: &str| {
            let secret = header.strip_prefix("Bearer ").unwrap();
            Token::new(name, scope, Secret::new(secret).unwrap())
        };
        let tokens = [
            token("ops", Scope::Operator, OPERATOR),
            token("dashboard", Scope::Read, READER),
        ];
        let access = Access::tokens(tokens);
        let gateway = TestGateway::start_with(SessionSupervisor::builder(), access).await;
        for (Case(method, target, body, _), statuses) in self.samples() {
            let sample = (method, target, body);
            let without = self.send(&gateway, sample, |request| request);
            let needs_token = statuses.contains(&401);
            assert_eq!(without.status == 401, needs_token, "{method} {target}");
            let reader = self.send(&gateway, sample, |it| it.header("Authorization", READER));
            let may_not = needs_token && method != "GET";
            assert_eq!(reader.status == 403, may_not, "{method} {target}");
        }
    }

    async fn refusals_of_what_is_meant(&mut self) {
        let gateway = start(SessionSupervisor::builder().max_active(1)).await;
        for case in REFUSED {
            self.expect(&gateway, case);
        }
        gateway.start_session("a");
        self.expect(
            &gateway,
            &Case("POST", "/v1/sessions", r#"{"id": "b"}"#, 429),
        );
        let reserved = r#"{"reason": "crash", "all": true}"#;
        self.send(&gateway, ("POST", "/v1/bulk-end", reserved), |it| it);
        let reserved = r#"{"reason": "lost"}"#;
        self.send(&gateway, ("POST", "/v1/sessions/a/end", reserved), |it| it);
    }

    async fn refusals_of_a_ledger_that_fails(&mut self) {
        let ledger = FaultyLedger::new();
        let gateway = start(SessionSupervisor::builder().ledger(ledger.clone())).await;
        gateway.start_session("a");
        for call in [Call::Append, Call::LastEnded, Call::Ended] {
            ledger.breaks(call, 0, Fault::Fails);
        }
        for case in RECORDED {
            self.expect(&gateway, case);
        }
    }

    async fn refusals_after_a_stop(&mut self) {
        let gateway = start(SessionSupervisor::builder()).await;
        gateway.supervisor.shutdown(Shutdown::now()).await.unwrap();
        for (Case(method, target, body, _), statuses) in self.samples() {
            // Its threads end a moment after its report is there.
            while statuses.contains(&503) {
                let answer = self.send(&gateway, (method, target, body), |it| it);
                if answer.status == 503 {
                    break;
                }
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        }
    }
}

async fn start(builder: Builder) -> TestGateway {
    TestGateway::start_with(builder, Access::loopback()).await
}

#[actix_web::test]
async fn every_described_answer_is_given_and_no_other() {
    let gateway = TestGateway::start().await;
    let mut contract = Contract {
        description: Description::of(&gateway),
        seen: BTreeSet::new(),
    };
    contract.what_requests_are_for().await;
    contract.common_refusals().await;
    contract.refusals_without_a_token().await;
    contract.refusals_of_what_is_meant().await;
    contract.refusals_of_a_ledger_that_fails().await;
    contract.refusals_after_a_stop().await;
    let described = contract.description.answers();
    let unseen: Vec<_> = described.difference(&contract.seen).collect();
    assert!(unseen.is_empty(), "never seen: {unseen:#?}");
}

#[actix_web::test]
async fn the_description_is_sound() {
    let gateway = TestGateway::start().await;
    let description = Description::of(&gateway);
    let root = description.root();
    assert_eq!(root["openapi"], "3.1.0");
    assert_eq!(root["info"]["version"], env!("CARGO_PKG_VERSION"));

    let mut ids = BTreeSet::new();
    for (path, item) in root["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap();
            assert!(ids.insert(id), "{method} {path}: {id} is given twice");
            assert!(operation["summary"].is_string(), "{method} {path}");
            let parameters = operation["parameters"].as_array();
            let in_path = parameters
                .into_iter()
                .flatten()
                .filter(|it| it["in"] == "path");
            let names = in_path.map(|it| format!("{{{}}}", it["name"].as_str().unwrap()));
            let expected = path.split('/').filter(|part| part.starts_with('{'));
            assert!(names.eq(expected), "{method} {path}: its names differ");
        }
    }
    assert_refers_to_something(root, root);
}

/// Every reference in `value` leads somewhere, and every field is explained.
fn assert_refers_to_something(root: &Value, value: &Value) {
    match value {
        Value::Array(several) => several
            .iter()
            .for_each(|it| assert_refers_to_something(root, it)),
        Value::Object(members) => {
            if let Some(reference) = members.get("$ref") {
                let place = reference.as_str().unwrap().strip_prefix('#').unwrap();
                assert!(root.pointer(place).is_some(), "{place} is nothing");
            }
            members
                .values()
                .for_each(|it| assert_refers_to_something(root, it));
        }
        _ => {}
    }
}

#[actix_web::test]
async fn described_limits_are_those_that_are_kept() {
    let gateway = TestGateway::start().await;
    let description = Description::of(&gateway);
    let texts = |length| "x".repeat(length);
    let start = |field: &str, value: Value| json!({"id": "a", field: value});
    for (target, within, beyond) in [
        (
            "/v1/sessions",
            json!({"id": texts(256)}),
            json!({"id": texts(257)}),
        ),
        ("/v1/sessions", json!({"id": "..."}), json!({"id": ".."})),
        (
            "/v1/sessions",
            json!({"id": "\u{a0}"}),
            json!({"id": "\u{9f}"}),
        ),
        ("/v1/sessions", json!({"id": "a"}), json!({"id": ""})),
        ("/v1/sessions", json!({"id": "a"}), json!({"id": null})),
        ("/v1/sessions", json!({"id": "a"}), json!({})),
        (
            "/v1/sessions",
            start("key", json!(null)),
            start("key", json!("a\nb")),
        ),
        (
            "/v1/sessions",
            start("agent_id", json!(texts(4096))),
            start("agent_id", json!(texts(4097))),
        ),
        (
            "/v1/sessions",
            start("store_path", json!(texts(4096))),
            start("store_path", json!(texts(4097))),
        ),
        (
            "/v1/sessions",
            start("session_file", json!(texts(4096))),
            start("session_file", json!(texts(4097))),
        ),
        (
            "/v1/sessions",
            start("metadata", json!({})),
            start("metadata", json!(null)),
        ),
        (
            "/v1/sessions",
            start("started_at", json!("2026-11-22T10:00:00+01:00")),
            start("started_at", json!("today")),
        ),
        (
            "/v1/sessions",
            start("key", json!("k")),
            start("kye", json!("k")),
        ),
        (
            "/v1/sessions/a/touch",
            json!({}),
            json!({"incarnation": "a"}),
        ),
        ("/v1/sessions/a/touch", json!({}), json!({"now": true})),
        (
            "/v1/sessions/a/end",
            json!({"detail": texts(1024)}),
            json!({"detail": texts(1025)}),
        ),
        (
            "/v1/sessions/a/end",
            json!({"message_count": i64::MAX}),
            json!({"message_count": i64::MAX as u64 + 1}),
        ),
        (
            "/v1/sessions/a/end",
            json!({"message_count": 0}),
            json!({"message_count": -1}),
        ),
        (
            "/v1/sessions/a/end",
            json!({"reason": "idle"}),
            json!({"reason": "lost"}),
        ),
        (
            "/v1/sessions/a/end",
            json!({"reason": null}),
            json!({"reason": "bored"}),
        ),
        (
            "/v1/bulk-end",
            json!({"key": "no"}),
            json!({"key": "no", "reason": "crash"}),
        ),
        (
            "/v1/bulk-end",
            json!({"idle_for_ms": u64::MAX}),
            json!({"idle_for_ms": 0.5}),
        ),
        (
            "/v1/bulk-end",
            json!({"key": "no"}),
            json!({"key": "no", "al": true}),
        ),
        (
            "/v1/shutdown",
            json!({"dry_run": true, "restart_expected_ms": 31_536_000_000_u64}),
            json!({"dry_run": true, "restart_expected_ms": 31_536_000_001_u64}),
        ),
        (
            "/v1/shutdown",
            json!({"dry_run": true, "reason": "restart"}),
            json!({"dry_run": true, "reason": "closed"}),
        ),
        (
            "/v1/shutdown",
            json!({"dry_run": true}),
            json!({"dry_run": 1}),
        ),
    ] {
        let allowed = |body: &Value| description.check_request("POST", target, &body.to_string());
        assert_eq!(allowed(&within), Ok(()), "{target} {within}");
        assert!(
            allowed(&beyond).is_err(),
            "{target} {beyond} is described as allowed"
        );
        let status = gateway.post(target, &within).status;
        assert!(matches!(status, 200..=204), "{status}: {target} {within}");
        assert_eq!(
            gateway.post(target, &beyond).status,
            422,
            "{target} {beyond}"
        );
    }
    for (within, beyond) in [
        ("limit=1", "limit=0"),
        ("limit=1000", "limit=1001"),
        ("state=ended", "state=gone"),
        ("key=k", "key="),
        ("idle_for_ms=0", "idle_for_ms=-1"),
        ("older_than_ms=1", "older_than_ms=1s"),
        ("cursor=s1", "curser=s1"),
    ] {
        let target = |query| format!("/v1/sessions?{query}");
        let allowed = |query| description.check_request("GET", &target(query), "");
        assert_eq!(allowed(within), Ok(()), "{within}");
        assert!(allowed(beyond).is_err(), "{beyond} is described as allowed");
        assert_eq!(gateway.get(&target(within)).status, 200, "{within}");
        assert_eq!(gateway.get(&target(beyond)).status, 422, "{beyond}");
    }
}
