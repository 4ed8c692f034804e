//! The gateway against its own description: each answer that it describes is given, and no other.
//!
//! A new route needs a [`Case`]: without one the description has answers that nobody has seen.

mod cases;
mod limits;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use session_supervisor::{
    Access, Builder, DeliveryPolicy, LiveSettings, PluginSpec, Scope, Secret, SessionSupervisor,
    Shutdown, StateDir, Token,
};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use self::cases::{BUSY, CASES, CROWDED, Case, RECORDED, REFUSED};
use super::client::{Request, Response, TestGateway};
use super::description::{Answer, Description};
use crate::faulty_ledger::{Call, Fault, FaultyLedger};

/// How long a stopped supervisor may go on.
const PATIENCE: Duration = Duration::from_secs(20);

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
        let builder = with_plugin().state_dir(StateDir::open(dir.path()).unwrap());
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
        for (_, path) in self.description.operations() {
            let refused = self.send(&gateway, ("BREW", &path, ""), |it| it);
            assert_eq!(refused.status, 405, "{path}: {refused:?}");
        }
        self.send(&gateway, ("GET", "/v1/nowhere", ""), |it| it);
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
        let events = ("GET", "/v1/events", "");
        let streams: Vec<_> = (0..64).map(|_| gateway.follow()).collect();
        let refused = self.send(&gateway, events, |request| request);
        assert_eq!(refused.status, 429, "{refused:?}");
        drop(streams);
        self.too_many_leases(&gateway);
        let reserved = r#"{"reason": "crash", "all": true}"#;
        self.send(&gateway, ("POST", "/v1/bulk-end", reserved), |it| it);
        let reserved = r#"{"reason": "lost"}"#;
        self.send(&gateway, ("POST", "/v1/sessions/a/end", reserved), |it| it);
        self.send(&gateway, ("POST", "/v1/holders/h/end", reserved), |it| it);
    }

    /// As many streams that are leases are open as may.
    fn too_many_leases(&mut self, gateway: &TestGateway) {
        let mut leases = Vec::new();
        let refused = loop {
            let target = format!("/v1/holders/h{}/hold", leases.len());
            let request = Request::new("POST", &target).body(r#"{"run_id": "r"}"#);
            let (connection, answer) = gateway.open(&request);
            if answer.status != 200 {
                break target;
            }
            leases.push(connection);
        };
        let answer = self.send(gateway, ("POST", &refused, r#"{"run_id": "r"}"#), |it| it);
        assert_eq!(answer.status, 429, "{answer:?}");
        // With fewer files than usual there are fewer places, but streams of events have their own.
        assert!(leases.len() > 64, "{}", leases.len());
        drop(gateway.follow());
    }

    async fn refusals_of_a_ledger_that_fails(&mut self) {
        let ledger = FaultyLedger::durable();
        ledger.breaks(Call::KeepAlive, 0, Fault::Fails);
        let gateway = start(with_plugin().ledger(ledger.clone())).await;
        gateway.start_session("a");
        let deadline = Instant::now() + PATIENCE;
        while gateway.get("/v1/plugins").json()["plugins"][0]["dead"] != 1 {
            assert!(Instant::now() < deadline, "no dead letter");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        while gateway.supervisor.is_ready() {
            assert!(Instant::now() < deadline, "ready with a ledger that fails");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.expect(&gateway, &Case("GET", "/readyz", "", 503));
        let held = gateway.post("/v1/sessions", &json!({"id": "held", "holder": "h"}));
        assert_eq!(held.status, 201, "{held:?}");
        for call in [
            Call::Append,
            Call::KeepHolder,
            Call::LastEnded,
            Call::Ended,
            Call::DeadLetters,
            Call::Attach,
        ] {
            ledger.breaks(call, 0, Fault::Fails);
        }
        for case in RECORDED {
            self.expect(&gateway, case);
        }
    }

    /// As many reloads and changes of dead letters wait as may.
    async fn refusals_of_the_busy(&mut self) {
        let ledger = FaultyLedger::new();
        let (go_on, reading) = mpsc::channel::<()>();
        let (reading, begun) = (Mutex::new(reading), Arc::new(Notify::new()));
        let begins = Arc::clone(&begun);
        let read = move || {
            begins.notify_one();
            let _ = reading.lock().map(|reading| reading.recv());
            Ok(LiveSettings::default())
        };
        let builder = with_plugin().on_reload(read).ledger(ledger.clone());
        let gateway = start(builder).await;
        gateway.start_session("a");
        let deadline = Instant::now() + PATIENCE;
        while gateway.get("/v1/plugins").json()["plugins"][0]["dead"] != 1 {
            assert!(Instant::now() < deadline, "no dead letter");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        ledger.breaks(Call::DeadLetters, 0, Fault::Hangs);
        let supervisor = &gateway.supervisor;
        let letters = (0..70).map(|_| {
            let supervisor = supervisor.clone();
            actix_web::rt::spawn(async move { supervisor.redeliver("p", None).await.is_err() })
        });
        let reload = |_| {
            let supervisor = supervisor.clone();
            actix_web::rt::spawn(async move { supervisor.reload().await.is_err() })
        };
        // One is under way, and the others wait.
        drop(reload(0));
        begun.notified().await;
        let reloads = (0..70).map(reload);
        let (letters, reloads): (Vec<_>, Vec<_>) = (letters.collect(), reloads.collect());
        for waiting in [&letters, &reloads] {
            while !waiting.iter().any(JoinHandle::is_finished) {
                assert!(Instant::now() < deadline, "none is refused");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        for case in BUSY {
            self.expect(&gateway, case);
        }
        ledger.heal();
        drop(go_on);
    }

    async fn refusals_after_a_stop(&mut self) {
        let gateway = start(SessionSupervisor::builder()).await;
        gateway.supervisor.shutdown(Shutdown::now()).await.unwrap();
        for (Case(method, target, body, _), statuses) in self.samples() {
            if !statuses.contains(&503) {
                continue;
            }
            // Its threads end a moment after its report is there.
            let deadline = Instant::now() + PATIENCE;
            while self.send(&gateway, (method, target, body), |it| it).status != 503 {
                assert!(Instant::now() < deadline, "{method} {target} goes on");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

/// A supervisor whose plugin `p` rejects every event for good, and that gets another when it
/// reloads.
fn with_plugin() -> Builder {
    let plugin = |name: &str| {
        let mut policy = DeliveryPolicy::default();
        policy.max_attempts = 1;
        PluginSpec::per_session(name, |_| async { anyhow::bail!("no room") }).with_policy(policy)
    };
    let read = move || {
        let mut settings = LiveSettings::default();
        settings.plugins = vec![plugin("p"), plugin("q")];
        Ok(settings)
    };
    SessionSupervisor::builder()
        .plugin(plugin("p"))
        .on_reload(read)
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
    contract.refusals_of_the_busy().await;
    contract.refusals_after_a_stop().await;
    let described = contract.description.answers();
    let is_crowded = |answer: &&Answer| {
        let of_it = |it: &&(&str, &str)| (answer.method.as_str(), answer.path.as_str()) == **it;
        answer.problem.as_deref() == Some("busy") && CROWDED.iter().any(|it| of_it(&it))
    };
    let unseen = described.difference(&contract.seen);
    let unseen: Vec<_> = unseen.filter(|it| !is_crowded(it)).collect();
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
