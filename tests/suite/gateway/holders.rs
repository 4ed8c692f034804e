//! Holders, as programs that hold sessions see them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use session_supervisor::{Access, NewSession, PluginSpec, SessionSupervisor};

use super::client::{Request, Response, TestGateway};
use super::stream::{Followed, PATIENCE};

/// Longer than any test: what must not happen within it does not.
const LONG_MS: u64 = 600_000;

fn hold(gateway: &TestGateway, holder: &str, run_id: &str, grace_ms: u64) -> Followed {
    let target = format!("/v1/holders/{holder}/hold");
    let body = json!({"run_id": run_id, "grace_ms": grace_ms});
    Followed::open(gateway, Request::new("POST", &target).body(&body))
}

fn put(gateway: &TestGateway, target: &str, body: &Value) -> Response {
    gateway.send(Request::new("PUT", target).body(body))
}

#[track_caller]
fn start(gateway: &TestGateway, id: &str, holder: &str) -> Value {
    let started = gateway.post("/v1/sessions", &json!({"id": id, "holder": holder}));
    assert_eq!(started.status, 201, "{started:?}");
    started.json()
}

fn session(gateway: &TestGateway, id: &str) -> Value {
    gateway.get(&format!("/v1/sessions/{id}")).json()
}

/// What is told of a holder; null if it is none.
fn holder(gateway: &TestGateway, name: &str) -> Value {
    let list = gateway.get("/v1/holders");
    assert_eq!(list.status, 200, "{list:?}");
    let list = list.json();
    let mut holders = list["holders"].as_array().unwrap().iter();
    let found = holders.find(|holder| holder["holder"] == name);
    found.cloned().unwrap_or_default()
}

/// Waits until a holder's lease is in this state.
fn wait_for_lease(gateway: &TestGateway, name: &str, state: &str) -> Value {
    let until = Instant::now() + PATIENCE;
    loop {
        let found = holder(gateway, name);
        if found["lease"] == state {
            return found;
        }
        assert!(Instant::now() < until, "{found}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until a session has ended, and answers why.
fn wait_for_end(gateway: &TestGateway, id: &str) -> String {
    let until = Instant::now() + PATIENCE;
    loop {
        let session = session(gateway, id);
        if session["state"] == "ended" {
            return session["reason"].as_str().unwrap().to_owned();
        }
        assert!(Instant::now() < until, "{session}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[track_caller]
fn assert_held_elsewhere(refusal: &Response) {
    let problem = refusal.problem();
    assert_eq!(problem, (409, "held-elsewhere".to_owned()), "{refusal:?}");
}

#[actix_web::test]
async fn a_holder_is_awaited_from_its_first_mention_on() {
    let gateway = TestGateway::start().await;
    let started = start(&gateway, "A", "h");
    assert_eq!(started["holder"], "h");
    let mut found = holder(&gateway, "h");
    let left = found["expires_in_ms"].take().as_u64().unwrap();
    assert!((1..=60_000).contains(&left), "{left}");
    let expected = json!({"holder": "h", "run_id": null, "lease": "awaited", "sessions": 1,
        "expires_in_ms": null});
    assert_eq!(found, expected);
    // The first lease has it.
    let _stream = hold(&gateway, "h", "r", LONG_MS);
    let expected = json!({"holder": "h", "run_id": "r", "lease": "connected", "sessions": 1,
        "expires_in_ms": null});
    assert_eq!(holder(&gateway, "h"), expected);
}

#[actix_web::test]
async fn the_sessions_of_a_stream_that_is_dropped_end_when_its_grace_is_over() {
    let gateway = TestGateway::start().await;
    const GRACE: Duration = Duration::from_millis(400);
    let other = hold(&gateway, "other", "r", 0);
    let stream = hold(&gateway, "h", "r", 400);
    for (id, of) in [("A", "h"), ("B", "h"), ("C", "other")] {
        start(&gateway, id, of);
    }
    let dropped = Instant::now();
    drop(stream);
    assert_eq!(wait_for_end(&gateway, "A"), "lost");
    assert!(dropped.elapsed() >= GRACE, "{:?}", dropped.elapsed());
    assert_eq!(wait_for_end(&gateway, "B"), "lost");
    assert_eq!(session(&gateway, "C")["state"], "active");
    assert_eq!(holder(&gateway, "h"), Value::Null);
    drop(other);
    assert_eq!(wait_for_end(&gateway, "C"), "lost");
}

#[actix_web::test]
async fn a_client_that_sends_nothing_more_is_gone() {
    let gateway = TestGateway::start().await;
    let stream = hold(&gateway, "h", "r", 0);
    start(&gateway, "A", "h");
    // Its system does that for a process that is killed; nothing that is written would tell.
    stream.send_no_more();
    assert_eq!(wait_for_end(&gateway, "A"), "lost");
    stream.ends();
}

#[actix_web::test]
async fn a_holder_that_is_back_within_its_grace_keeps_its_sessions() {
    let gateway = TestGateway::start().await;
    let stream = hold(&gateway, "h", "r", LONG_MS);
    let started = start(&gateway, "A", "h");
    drop(stream);
    let left = wait_for_lease(&gateway, "h", "disconnected")["expires_in_ms"].as_u64();
    assert!(left.unwrap() <= LONG_MS, "{left:?}");
    let mut stream = hold(&gateway, "h", "r", LONG_MS);
    assert_eq!(holder(&gateway, "h")["lease"], "connected");
    let kept = session(&gateway, "A");
    assert_eq!(kept["state"], "active");
    assert_eq!(kept["incarnation"], started["incarnation"]);
    gateway.post("/v1/sessions/A/end", &json!({"reason": "completed"}));
    assert_eq!(stream.ended(), ("A".into(), "completed".into()));
}

#[actix_web::test]
async fn a_stream_tells_of_the_ends_of_its_own_sessions() {
    let gateway = TestGateway::start().await;
    for (id, of) in [("A", "h"), ("B", "h"), ("C", "other")] {
        start(&gateway, id, of);
    }
    gateway.start_session("D");
    let mut stream = hold(&gateway, "h", "r", 0);
    stream.comment();
    for id in ["C", "D", "B"] {
        let target = format!("/v1/sessions/{id}/end");
        gateway.post(&target, &json!({"reason": "failed"}));
    }
    let ended = gateway.post("/v1/bulk-end", &json!({"all": true}));
    assert_eq!(ended.json()["ended"], 1);
    assert_eq!(stream.ended(), ("B".into(), "failed".into()));
    assert_eq!(stream.ended(), ("A".into(), "closed".into()));
}

#[actix_web::test]
async fn a_new_run_takes_the_place_of_the_one_before() {
    let gateway = TestGateway::start().await;
    let before = hold(&gateway, "h", "r1", LONG_MS);
    start(&gateway, "A", "h");
    start(&gateway, "B", "other");
    let mut stream = hold(&gateway, "h", "r2", LONG_MS);
    before.ends();
    assert_eq!(stream.ended(), ("A".into(), "crash".into()));
    start(&gateway, "C", "h");

    let run = json!({"run_id": "r1"});
    assert_held_elsewhere(&gateway.post("/v1/holders/h/hold", &run));
    let beat = json!({"run_id": "r1", "ttl_ms": 1000});
    assert_held_elsewhere(&gateway.post("/v1/holders/h/heartbeat", &beat));
    let none = json!({"run_id": "r1", "ids": []});
    assert_held_elsewhere(&put(&gateway, "/v1/holders/h/sessions", &none));
    let late = json!({"id": "D", "holder": "h", "run_id": "r1"});
    assert_held_elsewhere(&gateway.post("/v1/sessions", &late));
    for id in ["B", "C"] {
        assert_eq!(session(&gateway, id)["state"], "active", "{id}");
    }
    assert_eq!(gateway.get("/v1/sessions/D").status, 404);
    assert_eq!(holder(&gateway, "h")["run_id"], "r2");
}

#[actix_web::test]
async fn a_second_stream_of_a_run_replaces_the_first() {
    let gateway = TestGateway::start().await;
    let first = hold(&gateway, "h", "r", 0);
    start(&gateway, "A", "h");
    let second = hold(&gateway, "h", "r", 0);
    first.ends();
    assert_eq!(holder(&gateway, "h")["lease"], "connected");
    assert_eq!(session(&gateway, "A")["state"], "active");
    drop(second);
    assert_eq!(wait_for_end(&gateway, "A"), "lost");
}

#[actix_web::test]
async fn a_heartbeat_is_a_lease_for_its_time() {
    let gateway = TestGateway::start().await;
    let beat = |ttl_ms: u64| {
        let body = json!({"run_id": "r", "ttl_ms": ttl_ms});
        let answer = gateway.post("/v1/holders/h/heartbeat", &body);
        assert_eq!((answer.status, answer.body.as_str()), (204, ""));
    };
    beat(LONG_MS);
    start(&gateway, "A", "h");
    assert_eq!(holder(&gateway, "h")["lease"], "heartbeat");
    // A later one counts alone, also where it is shorter.
    let last = Instant::now();
    beat(1000);
    assert_eq!(wait_for_end(&gateway, "A"), "lost");
    assert!(
        last.elapsed() >= Duration::from_secs(1),
        "{:?}",
        last.elapsed()
    );
    assert_eq!(gateway.post("/v1/sessions/A/touch", &json!({})).status, 404);
    let metrics = gateway.get("/metrics").body;
    let lost = "session_supervisor_holders_lost_total 1\n";
    assert!(metrics.contains(lost), "{metrics}");
}

#[actix_web::test]
async fn what_a_holder_does_not_name_is_lost() {
    let gateway = TestGateway::start().await;
    for (id, of) in [("A", "h"), ("B", "h"), ("C", "h"), ("D", "other")] {
        start(&gateway, id, of);
    }
    let ids = json!({"run_id": "r", "ids": ["B", "D", "unknown"]});
    let answer = put(&gateway, "/v1/holders/h/sessions", &ids);
    assert_eq!(answer.status, 200, "{answer:?}");
    let mut answer = answer.json();
    let not_active = answer["not_active"].as_array_mut().unwrap();
    not_active.sort_by_key(ToString::to_string);
    assert_eq!(answer, json!({"ended": 2, "not_active": ["D", "unknown"]}));
    for (id, state) in [
        ("A", "ended"),
        ("B", "active"),
        ("C", "ended"),
        ("D", "active"),
    ] {
        assert_eq!(session(&gateway, id)["state"], state, "{id}");
    }
    assert_eq!(session(&gateway, "A")["reason"], "lost");
}

#[actix_web::test]
async fn a_holder_that_ends_is_answered_when_the_plugins_know() {
    let told = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&told);
    let slow = PluginSpec::per_session("slow", move |event| {
        let counted = Arc::clone(&counted);
        async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let is_end = event.how_ended().is_some();
            counted.fetch_add(is_end.into(), Ordering::SeqCst);
            Ok(())
        }
    });
    let builder = SessionSupervisor::builder()
        .cap(Duration::from_secs(20))
        .plugin(slow);
    let gateway = TestGateway::start_with(builder, Access::loopback()).await;
    let stream = hold(&gateway, "h", "r", LONG_MS);
    for (id, of) in [("A", "h"), ("B", "h"), ("C", "other")] {
        start(&gateway, id, of);
    }
    let answer = gateway.post("/v1/holders/h/end", &json!({"reason": "shutdown"}));
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.json(), json!({"ended": 2}));
    assert_eq!(told.load(Ordering::SeqCst), 2);
    stream.ends();
    assert_eq!(session(&gateway, "A")["reason"], "shutdown");
    assert_eq!(session(&gateway, "C")["state"], "active");
    assert_eq!(holder(&gateway, "h"), Value::Null);
    let again = gateway.post("/v1/holders/h/end", &json!({"reason": "completed"}));
    assert_eq!(again.json(), json!({"ended": 0}));
}

#[actix_web::test]
async fn a_stream_tells_of_every_end_before_it_closes() {
    const SESSIONS: usize = 500;
    let gateway = TestGateway::start().await;
    let mut stream = hold(&gateway, "h", "r", LONG_MS);
    for n in 0..SESSIONS {
        let mut session = NewSession::new(n.to_string().parse().unwrap());
        session.holder = Some("h".parse().unwrap());
        gateway.supervisor.started(session).await.unwrap();
    }
    let ended = gateway.post("/v1/holders/h/end", &json!({"reason": "shutdown"}));
    assert_eq!(ended.json(), json!({"ended": SESSIONS}));
    let told: BTreeSet<_> = (0..SESSIONS).map(|_| stream.ended()).collect();
    assert!(told.iter().all(|(_, reason)| reason == "shutdown"));
    assert_eq!(told.len(), SESSIONS);
    stream.ends();
}

#[actix_web::test]
async fn a_holder_that_ends_does_not_wait_longer_than_the_cap() {
    const CAP: Duration = Duration::from_millis(300);
    let hangs = PluginSpec::per_session("hangs", |event| async move {
        if event.how_ended().is_some() {
            std::future::pending::<()>().await;
        }
        Ok(())
    });
    let builder = SessionSupervisor::builder().cap(CAP).plugin(hangs);
    let gateway = TestGateway::start_with(builder, Access::loopback()).await;
    start(&gateway, "A", "h");
    let asked = Instant::now();
    let answer = gateway.post("/v1/holders/h/end", &json!({"reason": "completed"}));
    assert_eq!(answer.json(), json!({"ended": 1}));
    // Not before it is over, and not when the delivery is, which may take 5 s.
    let took = asked.elapsed();
    assert!(took >= CAP && took < Duration::from_secs(5), "{took:?}");
    assert_eq!(session(&gateway, "A")["plugins"]["hangs"], "owed");
}

#[actix_web::test]
async fn what_another_holder_has_is_refused() {
    let gateway = TestGateway::start().await;
    start(&gateway, "A", "h");
    let metrics = gateway.get("/metrics").body;
    let holders = "session_supervisor_holders 1\n";
    assert!(metrics.contains(holders), "{metrics}");
    for body in [json!({"id": "A", "holder": "other"}), json!({"id": "A"})] {
        assert_held_elsewhere(&gateway.post("/v1/sessions", &body));
    }
    let again = gateway.post("/v1/sessions", &json!({"id": "A", "holder": "h"}));
    assert_eq!(again.status, 200, "{again:?}");
    let metrics = gateway.get("/metrics").body;
    let refused = "session_supervisor_sessions_refused_total{cause=\"held_elsewhere\"} 2\n";
    assert!(metrics.contains(refused), "{metrics}");
}

#[actix_web::test]
async fn fields_that_break_a_rule_are_named() {
    let gateway = TestGateway::start().await;
    let run = |field: &str, value: Value| json!({"run_id": "r", field: value});
    let posts = [
        ("/v1/holders//hold", json!({"run_id": "r"}), "#/path/holder"),
        (
            "/v1/holders/%0A/hold",
            json!({"run_id": "r"}),
            "#/path/holder",
        ),
        (
            "/v1/holders/%2E%2E/hold",
            json!({"run_id": "r"}),
            "#/path/holder",
        ),
        ("/v1/holders/h/hold", json!({}), "#/run_id"),
        ("/v1/holders/h/hold", json!({"run_id": ""}), "#/run_id"),
        (
            "/v1/holders/h/hold",
            run("grace_ms", json!(3_600_001)),
            "#/grace_ms",
        ),
        (
            "/v1/holders/h/hold",
            run("grace_ms", json!(-1)),
            "#/grace_ms",
        ),
        ("/v1/holders/h/hold", run("ttl_ms", json!(1000)), "#/ttl_ms"),
        (
            "/v1/holders/h/hold?x=1",
            json!({"run_id": "r"}),
            "#/query/x",
        ),
        (
            "/v1/holders/h/heartbeat",
            json!({"ttl_ms": 1000}),
            "#/run_id",
        ),
        (
            "/v1/holders/h/heartbeat",
            json!({"run_id": "r"}),
            "#/ttl_ms",
        ),
        (
            "/v1/holders/h/heartbeat",
            run("ttl_ms", json!(999)),
            "#/ttl_ms",
        ),
        (
            "/v1/holders/h/heartbeat",
            run("ttl_ms", json!(3_600_001)),
            "#/ttl_ms",
        ),
        (
            "/v1/holders//heartbeat",
            run("ttl_ms", json!(1000)),
            "#/path/holder",
        ),
        ("/v1/holders/h/end", json!({}), "#/reason"),
        ("/v1/holders/h/end", json!({"reason": "idle"}), "#/reason"),
        (
            "/v1/holders//end",
            json!({"reason": "closed"}),
            "#/path/holder",
        ),
        ("/v1/sessions", json!({"id": "a", "holder": ""}), "#/holder"),
        (
            "/v1/sessions",
            json!({"id": "a", "run_id": "r"}),
            "#/run_id",
        ),
    ];
    for (target, body, pointer) in posts {
        let refusal = gateway.post(target, &body);
        let problem = refusal.problem();
        assert_eq!(
            problem,
            (422, "invalid-field".to_owned()),
            "{target} {body}"
        );
        assert_eq!(refusal.pointer(), pointer, "{target} {body}");
    }
    for (target, body, pointer) in [
        ("/v1/holders/h/sessions", json!({"ids": []}), "#/run_id"),
        ("/v1/holders/h/sessions", json!({"run_id": "r"}), "#/ids"),
        (
            "/v1/holders/h/sessions",
            run("ids", json!(["a", ""])),
            "#/ids/1",
        ),
        (
            "/v1/holders//sessions",
            run("ids", json!([])),
            "#/path/holder",
        ),
    ] {
        let refusal = put(&gateway, target, &body);
        let problem = refusal.problem();
        assert_eq!(
            problem,
            (422, "invalid-field".to_owned()),
            "{target} {body}"
        );
        assert_eq!(refusal.pointer(), pointer, "{target} {body}");
    }
    for reason in ["crash", "lost"] {
        let refusal = gateway.post("/v1/holders/h/end", &json!({"reason": reason}));
        assert_eq!(refusal.problem(), (422, "reserved-reason".to_owned()));
    }
    assert_eq!(gateway.get("/v1/holders").json(), json!({"holders": []}));
}

#[actix_web::test]
async fn the_streams_of_holders_end_before_the_gateway_stops() {
    let gateway = TestGateway::start().await;
    let names = ["a", "b", "c", "d"];
    let streams = names.map(|name| hold(&gateway, name, "r", LONG_MS));
    gateway.stop().await;
    streams.into_iter().for_each(Followed::ends);
}
