//! What the operator's requests do and answer.

use std::io::Write as _;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use session_supervisor::{
    Access, Durability, NewSession, SessionId, SessionSupervisor, SqliteLedger,
};
use tokio::time::sleep;

use super::client::{self, Request, Response, TestGateway};

/// A gateway with four sessions: two under keys of one agent, one of another, one with no key.
async fn with_four_sessions() -> TestGateway {
    let gateway = TestGateway::start().await;
    for body in [
        json!({"id": "a", "key": "agent:main:1", "agent_id": "main"}),
        json!({"id": "b", "key": "agent:main:2", "agent_id": "main"}),
        json!({"id": "c", "key": "agent:side:1", "agent_id": "side",
               "started_at": "2020-01-01T00:00:00Z"}),
        json!({"id": "d"}),
    ] {
        assert_eq!(gateway.post("/v1/sessions", &body).status, 201);
    }
    gateway
}

fn ids(gateway: &TestGateway, query: &str) -> Vec<String> {
    let list = gateway.get(&format!("/v1/sessions{query}")).json();
    let sessions = list["sessions"].as_array().unwrap().iter();
    let ids = sessions.map(|session| session["id"].as_str().unwrap().to_owned());
    ids.collect()
}

#[actix_web::test]
async fn the_list_is_narrowed_by_every_filter() {
    let gateway = with_four_sessions().await;
    assert_eq!(ids(&gateway, ""), ["a", "b", "c", "d"]);
    assert_eq!(ids(&gateway, "?key=agent%3Amain%3A2"), ["b"]);
    assert_eq!(ids(&gateway, "?key_prefix=agent%3Amain"), ["a", "b"]);
    assert_eq!(ids(&gateway, "?agent_id=side"), ["c"]);
    assert_eq!(ids(&gateway, "?holder=run"), Vec::<String>::new());
    assert_eq!(ids(&gateway, "?older_than_ms=3600000"), ["c"]);
    assert_eq!(ids(&gateway, "?idle_for_ms=3600000"), Vec::<String>::new());
    assert_eq!(ids(&gateway, "?idle_for_ms=0&agent_id=main"), ["a", "b"]);
}

#[actix_web::test]
async fn ended_sessions_are_listed_by_their_start_a_page_at_a_time() {
    let gateway = with_four_sessions().await;
    for id in ["d", "a", "c"] {
        gateway.post(&format!("/v1/sessions/{id}/end"), &json!({}));
    }
    assert_eq!(ids(&gateway, ""), ["b"]);
    assert_eq!(ids(&gateway, "?state=ended"), ["a", "c", "d"]);
    let first = gateway.get("/v1/sessions?state=ended&limit=2").json();
    assert_eq!(first["sessions"][0]["state"], "ended");
    assert_eq!(first["sessions"][0]["reason"], "unknown");
    let cursor = first["next_cursor"].as_str().unwrap();
    let target = format!("/v1/sessions?state=ended&limit=2&cursor={cursor}");
    let last = gateway.get(&target).json();
    assert_eq!(last["sessions"][0]["id"], "d");
    assert_eq!(last["next_cursor"], Value::Null);
}

#[actix_web::test]
async fn bulk_end_ends_what_matches_and_nothing_else() {
    let gateway = with_four_sessions().await;
    let filter = json!({"key_prefix": "agent:main:", "dry_run": true});
    let dry = gateway.post("/v1/bulk-end", &filter);
    assert_eq!(
        (dry.status, dry.json()),
        (200, json!({"matched": 2, "ended": 0}))
    );
    assert_eq!(ids(&gateway, "").len(), 4);

    let filter = json!({"key_prefix": "agent:main:"});
    let ended = gateway.post("/v1/bulk-end", &filter).json();
    assert_eq!(ended, json!({"matched": 2, "ended": 2}));
    assert_eq!(ids(&gateway, ""), ["c", "d"]);
    assert_eq!(gateway.get("/v1/sessions/a").json()["reason"], "closed");

    let all = json!({"all": true, "reason": "deleted"});
    let ended = gateway.post("/v1/bulk-end", &all).json();
    assert_eq!(ended, json!({"matched": 2, "ended": 2}));
    assert_eq!(gateway.get("/v1/sessions/d").json()["reason"], "deleted");
}

#[actix_web::test]
async fn bulk_end_without_a_filter_needs_all_said_and_reasons_stay_reserved() {
    let gateway = with_four_sessions().await;
    for (body, problem, pointer) in [
        (json!({}), "invalid-field", "#"),
        (json!({"all": false}), "invalid-field", "#"),
        (json!({"all": true, "key": "k"}), "invalid-field", "#/all"),
        (
            json!({"all": true, "reason": "crash"}),
            "reserved-reason",
            "#/reason",
        ),
        (
            json!({"all": true, "reason": "bored"}),
            "invalid-field",
            "#/reason",
        ),
        (json!({"idle_for_ms": -1}), "invalid-field", "#/idle_for_ms"),
    ] {
        let refused = gateway.post("/v1/bulk-end", &body);
        assert_eq!(refused.problem(), (422, problem.to_owned()), "{body}");
        assert_eq!(refused.pointer(), pointer, "{body}");
    }
    let unknown = gateway.post("/v1/bulk-end", &json!({"all": true, "reason": "bored"}));
    for (reason, may_be_given) in [("closed", true), ("crash", false), ("lost", false)] {
        assert_eq!(unknown.body.contains(reason), may_be_given, "{unknown:?}");
    }
    assert_eq!(ids(&gateway, "").len(), 4);
}

#[actix_web::test]
async fn a_shutdown_is_previewed_and_begun() {
    let gateway = with_four_sessions().await;
    let dry = json!({"dry_run": true, "restart_expected_ms": 0});
    let dry = gateway.post("/v1/shutdown", &dry);
    assert_eq!(dry.status, 200);
    let expected = json!({"reason": "restart", "sessions": 4, "plugins": []});
    assert_eq!(dry.json(), expected);
    assert_eq!(ids(&gateway, "").len(), 4);

    let begun = gateway.post("/v1/shutdown", &json!({"restart_expected_ms": 1234}));
    assert_eq!(begun.status, 202);
    let begun = begun.json();
    assert_eq!(begun["reason"], "restart");
    assert!(begun["deadline_at"].is_string());
    assert_eq!(begun["pid"], json!(std::process::id()));
    assert_eq!(begun["state_dir"], json!(null), "the test has none");
    let report = gateway.supervisor.stopped().await.unwrap();
    assert_eq!(begun["instance"], json!(report.instance));
    assert_eq!(report.restart_expected_ms, Some(1234));
    assert_eq!((report.trigger.as_str(), report.drain.sessions), ("api", 4));
}

#[actix_web::test]
async fn a_shutdown_for_another_reason_or_with_a_downtime_that_is_none_is_refused() {
    let gateway = TestGateway::start().await;
    for (body, pointer) in [
        (json!({"reason": "closed"}), "#/reason"),
        (json!({"reason": "crash"}), "#/reason"),
        (
            json!({"reason": "shutdown", "restart_expected_ms": 0}),
            "#/restart_expected_ms",
        ),
        (json!({"restart_expected_ms": -1}), "#/restart_expected_ms"),
        (json!({"restart_expected_ms": 1.5}), "#/restart_expected_ms"),
        (
            json!({"restart_expected_ms": u64::MAX}),
            "#/restart_expected_ms",
        ),
        (json!({"now": true}), "#/now"),
    ] {
        let refused = gateway.post("/v1/shutdown", &body);
        assert_eq!(
            refused.problem(),
            (422, "invalid-field".to_owned()),
            "{body}"
        );
        assert_eq!(refused.pointer(), pointer, "{body}");
    }
    assert!(gateway.supervisor.is_ready());
}

#[actix_web::test]
async fn without_a_stop_before_there_is_no_report() {
    let gateway = TestGateway::start().await;
    let missing = gateway.get("/v1/reports/last");
    assert_eq!(missing.problem(), (404, "not-found".to_owned()));
}

#[actix_web::test]
async fn plugins_are_listed() {
    let gateway = TestGateway::start().await;
    assert_eq!(gateway.get("/v1/plugins").json(), json!({"plugins": []}));
}

#[actix_web::test]
async fn a_gateway_that_stops_answers_the_requests_that_it_has_begun_with() {
    let gateway = TestGateway::start().await;
    let start = Request::new("POST", "/v1/sessions").body(&json!({"id": "last"}));
    let start = start.to_string();
    let (begun, rest) = start.split_at(start.len() - 2);
    let mut connection = gateway.connect();
    connection.write_all(begun.as_bytes()).unwrap();
    sleep(Duration::from_millis(100)).await;
    let stopped = gateway.stop();
    sleep(Duration::from_millis(20)).await;
    connection.write_all(rest.as_bytes()).unwrap();
    let mut answer = Vec::new();
    client::read_answer(&mut connection, &mut answer).unwrap();
    let answer = Response::parse(&String::from_utf8(answer).unwrap());
    assert_eq!(answer.status, 201, "{answer:?}");
    stopped.await;
}

#[actix_web::test]
async fn one_request_ends_tens_of_thousands_of_sessions_while_others_start() {
    const SESSIONS: usize = 50_000;
    let dir = tempfile::tempdir().unwrap();
    let ledger = SqliteLedger::open(dir.path().join("ledger.db"), Durability::Process).unwrap();
    let mut builder = SessionSupervisor::builder().ledger(ledger);
    builder = builder.max_active(4 * SESSIONS);
    let gateway = TestGateway::start_with(builder, Access::loopback()).await;
    let supervisor = &gateway.supervisor;
    let start = async |name: String| {
        let new = NewSession::new(SessionId::new(name).unwrap());
        supervisor.started(new).await
    };
    let starts = stream::iter(0..SESSIONS).map(|n| start(format!("old-{n}")));
    let starts: Vec<_> = starts.buffer_unordered(1024).collect().await;
    assert!(starts.iter().all(Result::is_ok));

    let address = gateway.address();
    let bulk = std::thread::spawn(move || {
        let all = Request::new("POST", "/v1/bulk-end").body(&json!({"all": true}));
        client::send_to(address, all.to_string().as_bytes())
    });
    let mut others = 0;
    while !bulk.is_finished() {
        start(format!("new-{others}")).await.unwrap();
        others += 1;
        assert!(supervisor.is_ready());
    }
    let answer = bulk.join().unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    // Those that started before the request came were ended too.
    let (answer, left) = (answer.json(), supervisor.active_sessions().await.unwrap());
    assert_eq!(answer["ended"], json!(SESSIONS + others - left));
    assert_eq!(answer["matched"], answer["ended"]);
    assert!(left > 0, "no other session started meanwhile");
}
