//! The stream of events, as a client follows it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::Shutdown as Close;
use std::time::{Duration, Instant};

use serde_json::json;
use session_supervisor::{
    Access, EndReason, Ended, PluginSpec, Scope, Secret, SessionId, SessionSupervisor, Shutdown,
    Token,
};

use super::client::{Request, TestGateway};
use super::stream::{Followed, PATIENCE};

/// How many streams may be open.
const MAX_STREAMS: usize = 64;

/// A gateway with a plugin that rejects every end.
async fn with_a_plugin_that_rejects_ends() -> TestGateway {
    let picky = PluginSpec::per_session("picky", |event| async move {
        anyhow::ensure!(event.how_ended().is_none(), "no such customer");
        Ok(())
    });
    let builder = SessionSupervisor::builder().plugin(picky);
    TestGateway::start_with(builder, Access::loopback()).await
}

#[actix_web::test]
async fn starts_ends_and_outcomes_are_streamed() {
    let gateway = with_a_plugin_that_rejects_ends().await;
    let mut stream = Followed::all(&gateway);
    let started = gateway.start_session("A");
    let mut seen = [stream.next(), stream.next()];
    seen.sort_by_key(|event| event.id.is_none());
    let [start, told] = seen;
    assert_eq!((start.name.as_str(), start.id), ("session_start", Some(1)));
    assert_eq!(start.data["session"]["incarnation"], started["incarnation"]);
    assert_eq!(start.data["schema"], 1);
    assert_eq!((told.name.as_str(), told.id), ("delivery", None));
    assert!(told.data["duration_ms"].is_u64(), "{told:?}");
    let mut expected = json!({"plugin": "picky", "types": ["session_start"], "events": 1,
        "attempt": 1, "outcome": "ok", "error": null, "sessions": []});
    expected["duration_ms"] = told.data["duration_ms"].clone();
    assert_eq!(told.data, expected);

    gateway.post("/v1/sessions/A/end", &json!({"reason": "completed"}));
    let mut seen = [stream.next(), stream.next()];
    seen.sort_by_key(|event| event.id.is_none());
    let [end, told] = seen;
    assert_eq!((end.name.as_str(), end.id), ("session_end", Some(2)));
    assert_eq!(end.data["reason"], "completed");
    assert_eq!(told.data["outcome"], "error");
    assert_eq!(told.data["error"], "no such customer");
    assert_eq!(told.data["sessions"], json!(["A"]));
}

#[actix_web::test]
async fn a_stream_goes_on_after_the_last_event_that_the_client_has() {
    let gateway = TestGateway::start().await;
    for id in ["A", "B", "C"] {
        gateway.start_session(id);
    }
    let mut stream = Followed::after(&gateway, "1");
    assert_eq!(stream.session(), "2 session_start B");
    assert_eq!(stream.session(), "3 session_start C");
    gateway.start_session("D");
    assert_eq!(stream.session(), "4 session_start D");
    assert_eq!(
        Followed::after(&gateway, "0").session(),
        "1 session_start A"
    );
}

#[actix_web::test]
async fn a_place_that_is_unknown_is_a_gap() {
    let gateway = TestGateway::start().await;
    gateway.start_session("A");
    // As that of a gateway before, whose ledger went with it.
    let mut stream = Followed::after(&gateway, "4711");
    let gap = stream.next();
    assert_eq!((gap.name.as_str(), gap.id), ("gap", None));
    assert_eq!(gap.data, json!({"after": 4711, "next": 1}));
    assert_eq!(stream.session(), "1 session_start A");
}

#[actix_web::test]
async fn an_id_that_is_none_and_an_unknown_type_are_refused() {
    let gateway = TestGateway::start().await;
    for id in ["x", "-1", "+1", "1.5", "1, 2", "99999999999999999999"] {
        let request = Request::new("GET", "/v1/events").header("Last-Event-ID", id);
        let refused = gateway.send(request);
        assert_eq!(refused.problem(), (422, "invalid-field".to_owned()), "{id}");
        assert_eq!(refused.pointer(), "#/headers/Last-Event-ID", "{id}");
    }
    for (query, pointer) in [
        ("types=", "#/query/types"),
        ("types=drain,gateway_start", "#/query/types"),
        ("types=drain&types=drain", "#/query/types"),
        ("after=1", "#/query/after"),
    ] {
        let refused = gateway.get(&format!("/v1/events?{query}"));
        assert_eq!(
            refused.problem(),
            (422, "invalid-field".to_owned()),
            "{query}"
        );
        assert_eq!(refused.pointer(), pointer, "{query}");
    }
}

#[actix_web::test]
async fn a_stream_has_only_the_types_that_are_asked_for() {
    let gateway = with_a_plugin_that_rejects_ends().await;
    let ends = Request::new("GET", "/v1/events?types=session_end");
    let mut ends = Followed::open(&gateway, ends);
    let told = Request::new("GET", "/v1/events?types=delivery,drain");
    let mut told = Followed::open(&gateway, told);
    gateway.start_session("A");
    assert_eq!(told.next().data["types"], json!(["session_start"]));
    gateway.post("/v1/sessions/A/end", &json!({}));
    assert_eq!(told.next().data["types"], json!(["session_end"]));
    assert_eq!(ends.next().name, "session_end");
}

#[actix_web::test]
async fn it_is_read_with_get_alone_and_head_opens_no_stream() {
    let gateway = TestGateway::start().await;
    for method in ["POST", "PUT", "DELETE"] {
        let refused = gateway.send(Request::new(method, "/v1/events"));
        assert_eq!(refused.problem(), (405, "method-not-allowed".to_owned()));
        assert_eq!(refused.header("allow"), Some("GET, HEAD"));
    }
    let head = gateway.send(Request::new("HEAD", "/v1/events"));
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert_eq!(head.header("content-type"), Some("text/event-stream"));
}

#[actix_web::test]
async fn a_token_that_may_read_may_watch() {
    let secret = |text| Secret::new(text).unwrap();
    let token = Token::new("dashboard", Scope::Read, secret("dashboard-0123456789"));
    let access = Access::tokens([token]);
    let gateway = TestGateway::start_with(SessionSupervisor::builder(), access).await;
    for path in ["/v1/events", "/metrics"] {
        let refused = gateway.get(path);
        assert_eq!(
            refused.problem(),
            (401, "unauthorized".to_owned()),
            "{path}"
        );
    }
    let authorization = ("Authorization", "Bearer dashboard-0123456789");
    let with_token = |path| Request::new("GET", path).header(authorization.0, authorization.1);
    Followed::open(&gateway, with_token("/v1/events"));
    assert_eq!(gateway.send(with_token("/metrics")).status, 200);
}

#[actix_web::test]
async fn a_page_of_another_origin_may_not_watch() {
    let gateway = TestGateway::start().await;
    for path in ["/v1/events", "/metrics"] {
        let request = Request::new("GET", path).header("Origin", "http://example.org");
        let refused = gateway.send(request);
        assert_eq!(refused.problem(), (403, "forbidden".to_owned()), "{path}");
    }
}

#[actix_web::test]
async fn streams_end_before_the_gateway_stops() {
    let gateway = TestGateway::start().await;
    let streams: Vec<_> = (0..8).map(|_| Followed::all(&gateway)).collect();
    // One that nobody reads must not hold up the others' end.
    let unread = Followed::all(&gateway);
    gateway.stop().await;
    streams.into_iter().for_each(Followed::ends);
    drop(unread);
}

#[actix_web::test]
async fn a_client_that_reads_nothing_holds_up_neither_sessions_nor_the_stop() {
    let gateway = TestGateway::start().await;
    let _unread = Followed::all(&gateway);
    let detail = "x".repeat(1000);
    // Far more than connection, watcher and ledger keep for it.
    for n in 0..12_000 {
        let id = SessionId::new(n.to_string()).unwrap();
        let session = session_supervisor::NewSession::new(id.clone());
        gateway.supervisor.started(session).await.unwrap();
        let mut ended = Ended::new(id, EndReason::Completed);
        ended.details.detail = Some(detail.as_str().into());
        gateway.supervisor.ended(ended).await.unwrap();
    }
    assert_eq!(gateway.get("/healthz").status, 200);
    let began = Instant::now();
    gateway.stop().await;
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
}

#[actix_web::test]
async fn one_stream_too_many_is_refused_until_another_is_closed() {
    let gateway = TestGateway::start().await;
    let mut streams: Vec<_> = (0..MAX_STREAMS).map(|_| Followed::all(&gateway)).collect();
    let refused = gateway.get("/v1/events");
    assert_eq!(refused.problem(), (429, "too-many-streams".to_owned()));
    let closed = streams.pop().unwrap().into_connection();
    closed.shutdown(Close::Both).unwrap();
    drop(closed);
    // What is written next finds out that the client has gone.
    let until = Instant::now() + PATIENCE;
    for n in 0.. {
        gateway.start_session(&n.to_string());
        let mut connection = gateway.connect();
        let request = Request::new("GET", "/v1/events").to_string();
        connection.write_all(request.as_bytes()).unwrap();
        let mut status = String::new();
        BufReader::new(connection).read_line(&mut status).unwrap();
        if status.contains(" 200 ") {
            return;
        }
        assert!(Instant::now() < until, "its place is never free");
    }
}

#[actix_web::test]
async fn a_drain_is_streamed_while_it_lasts() {
    let gateway = with_a_plugin_that_rejects_ends().await;
    for id in ["A", "B"] {
        gateway.start_session(id);
    }
    let mut stream = Followed::all(&gateway);
    let report = gateway.supervisor.shutdown(Shutdown::now()).await.unwrap();
    assert_eq!(report.drain.failed, 2);
    let mut names = Vec::new();
    let last = loop {
        let event = stream.next();
        names.push(event.name.clone());
        if event.name == "drain" && event.data["plugins"][0]["done"] == true {
            break event.data;
        }
    };
    assert!(names.iter().any(|name| name == "session_end"), "{names:?}");
    let lane = json!({"name": "picky", "delivered": 0, "total": 2, "done": true});
    assert_eq!(last, json!({"sessions": 2, "plugins": [lane]}));
    gateway.stop().await;
    stream.ends();
}
