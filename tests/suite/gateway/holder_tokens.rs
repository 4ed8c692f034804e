//! Tokens of scope `holder`: what they open, and to whose sessions.

use serde_json::{Value, json};
use session_supervisor::{Access, HolderId, Scope, Secret, SessionSupervisor, Token};

use super::client::{Request, Response, TestGateway};
use super::stream::Followed;

const OPERATOR: &str = "Bearer operator-0123456789";
const OWN: &str = "Bearer holder-h-0123456789";
const OTHER: &str = "Bearer holder-o-0123456789";

/// A gateway with sessions: `mine` of `h`, `yours` of `o`, `nobodys` of no holder.
async fn start() -> TestGateway {
    let token = |name: &str, scope, header: &str| {
        let secret = header.strip_prefix("Bearer ").unwrap();
        Token::new(name, scope, Secret::new(secret).unwrap())
    };
    let of = |holder| Scope::Holder(HolderId::new(holder).unwrap());
    let access = Access::tokens([
        token("ops", Scope::Operator, OPERATOR),
        token("h", of("h"), OWN),
        token("o", of("o"), OTHER),
    ]);
    let gateway = TestGateway::start_with(SessionSupervisor::builder(), access).await;
    for (id, token) in [("mine", OWN), ("yours", OTHER), ("nobodys", OPERATOR)] {
        let started = send(&gateway, "POST", "/v1/sessions", token, &json!({"id": id}));
        assert_eq!(started.status, 201, "{started:?}");
    }
    gateway
}

fn send(gateway: &TestGateway, method: &str, target: &str, token: &str, body: &Value) -> Response {
    let request = Request::new(method, target).header("Authorization", token);
    gateway.send(request.body(body))
}

fn get(gateway: &TestGateway, target: &str, token: &str) -> Response {
    gateway.send(Request::new("GET", target).header("Authorization", token))
}

#[track_caller]
fn assert_forbidden(refusal: &Response) {
    let problem = refusal.problem();
    assert_eq!(problem, (403, "forbidden".to_owned()), "{refusal:?}");
}

fn ids(list: &Response) -> Vec<String> {
    assert_eq!(list.status, 200, "{list:?}");
    let list = list.json();
    let sessions = list["sessions"].as_array().unwrap().iter();
    let ids = sessions.map(|session| session["id"].as_str().unwrap().to_owned());
    ids.collect()
}

#[actix_web::test]
async fn a_start_is_of_the_holder_of_its_token() {
    let gateway = start().await;
    let post = |body: Value| send(&gateway, "POST", "/v1/sessions", OWN, &body);
    assert_eq!(post(json!({"id": "a"})).json()["holder"], "h");
    assert_eq!(
        post(json!({"id": "b", "holder": "h"})).json()["holder"],
        "h"
    );
    assert_eq!(
        post(json!({"id": "c", "run_id": "r"})).json()["run_id"],
        "r"
    );
    assert_forbidden(&post(json!({"id": "d", "holder": "o"})));
    assert_eq!(get(&gateway, "/v1/sessions/d", OPERATOR).status, 404);
    for id in ["yours", "nobodys"] {
        let problem = post(json!({"id": id})).problem();
        assert_eq!(problem, (409, "held-elsewhere".to_owned()), "{id}");
    }
}

#[actix_web::test]
async fn only_its_own_sessions_are_touched_shown_and_ended() {
    let gateway = start().await;
    let post = |target: &str| send(&gateway, "POST", target, OWN, &json!({}));
    for id in ["yours", "nobodys"] {
        assert_forbidden(&get(&gateway, &format!("/v1/sessions/{id}"), OWN));
        for what in ["touch", "end"] {
            let target = format!("/v1/sessions/{id}/{what}");
            assert_forbidden(&post(&target));
            // Whose it is comes before what the body says.
            let cut = Request::new("POST", &target).header("Authorization", OWN);
            assert_forbidden(&gateway.send(cut.body("{")));
        }
        let shown = get(&gateway, &format!("/v1/sessions/{id}"), OPERATOR);
        assert_eq!(shown.json()["state"], "active", "{id}");
    }
    assert_eq!(get(&gateway, "/v1/sessions/mine", OWN).status, 200);
    assert_eq!(post("/v1/sessions/mine/touch").status, 204);
    assert_eq!(post("/v1/sessions/mine/end").json()["state"], "ended");
    assert_eq!(post("/v1/sessions/mine/end").status, 200);

    // What is unknown stays that.
    assert_eq!(get(&gateway, "/v1/sessions/unknown", OWN).status, 404);
    assert_eq!(post("/v1/sessions/unknown/touch").problem().1, "not-active");
    assert_eq!(post("/v1/sessions/unknown/end").problem().1, "not-found");
}

#[actix_web::test]
async fn lists_have_its_own_alone() {
    let gateway = start().await;
    let list = |target: &str| get(&gateway, target, OWN);
    assert_eq!(ids(&list("/v1/sessions")), ["mine"]);
    assert_eq!(ids(&list("/v1/sessions?holder=h")), ["mine"]);
    assert_forbidden(&list("/v1/sessions?holder=o"));
    let all = get(&gateway, "/v1/sessions", OPERATOR);
    assert_eq!(ids(&all), ["mine", "yours", "nobodys"]);
    let names = |token| {
        let list = get(&gateway, "/v1/holders", token).json();
        let holders = list["holders"].as_array().unwrap().iter();
        let names = holders.map(|it| it["holder"].as_str().unwrap().to_owned());
        names.collect::<Vec<_>>()
    };
    assert_eq!(names(OWN), ["h"]);
    assert_eq!(names(OPERATOR), ["h", "o"]);
}

#[actix_web::test]
async fn it_ends_many_of_its_own_alone() {
    let gateway = start().await;
    let end = |body: Value| send(&gateway, "POST", "/v1/bulk-end", OWN, &body);
    assert_forbidden(&end(json!({"holder": "o"})));
    assert_eq!(end(json!({})).problem().0, 422);
    let dry = end(json!({"all": true, "dry_run": true})).json();
    assert_eq!(dry, json!({"matched": 1, "ended": 0}));
    assert_eq!(end(json!({"idle_for_ms": 0})).json()["ended"], 1);
    let all = get(&gateway, "/v1/sessions", OPERATOR);
    assert_eq!(ids(&all), ["yours", "nobodys"]);
}

#[actix_web::test]
async fn it_follows_starts_and_ends_of_its_own_alone() {
    let gateway = start().await;
    for types in ["delivery", "drain", "delivery,drain"] {
        assert_forbidden(&get(&gateway, &format!("/v1/events?types={types}"), OWN));
    }
    let request = Request::new("GET", "/v1/events").header("Authorization", OWN);
    let mut stream = Followed::open(&gateway, request.header("Last-Event-ID", "0"));
    assert_eq!(stream.session(), "1 session_start mine");
    send(&gateway, "POST", "/v1/sessions", OTHER, &json!({"id": "b"}));
    send(&gateway, "POST", "/v1/sessions", OWN, &json!({"id": "a"}));
    assert_eq!(stream.session(), "5 session_start a");
}

#[actix_web::test]
async fn it_speaks_for_its_own_holder_alone() {
    let gateway = start().await;
    let requests = |holder: &str| {
        [
            ("POST", "hold", json!({"run_id": "r"})),
            (
                "POST",
                "heartbeat",
                json!({"run_id": "r", "ttl_ms": 60_000}),
            ),
            ("PUT", "sessions", json!({"run_id": "r", "ids": []})),
            ("POST", "end", json!({"reason": "completed"})),
        ]
        .map(|(method, what, body)| (method, format!("/v1/holders/{holder}/{what}"), body))
    };
    for holder in ["o", "%0A", ""] {
        for (method, target, body) in requests(holder) {
            assert_forbidden(&send(&gateway, method, &target, OWN, &body));
            // Comes before what the body says.
            let cut = Request::new(method, &target).header("Authorization", OWN);
            assert_forbidden(&gateway.send(cut.body("{")));
        }
    }
    let list = get(&gateway, "/v1/holders", OPERATOR).json();
    assert_eq!(list["holders"][1]["run_id"], Value::Null);
    let [(method, target, body), others @ ..] = requests("h");
    let request = Request::new(method, &target).header("Authorization", OWN);
    let _stream = Followed::open(&gateway, request.body(&body));
    for ((method, target, body), status) in others.into_iter().zip([204, 200, 200]) {
        let answer = send(&gateway, method, &target, OWN, &body);
        assert_eq!(answer.status, status, "{target}: {answer:?}");
    }
}

#[actix_web::test]
async fn everything_else_is_closed_to_it_in_the_documented_order() {
    let gateway = start().await;
    for target in [
        "/v1/plugins",
        "/v1/plugins/p/dead-letters",
        "/v1/reports/last",
        "/metrics",
        "/openapi.json",
        "/metrics?x=1",
    ] {
        assert_forbidden(&get(&gateway, target, OWN));
        let head = Request::new("HEAD", target).header("Authorization", OWN);
        assert_eq!(gateway.send(head).status, 403, "{target}");
    }
    let post = |target: &str, body: &str| {
        let request = Request::new("POST", target).header("Authorization", OWN);
        request.body(body)
    };
    for target in [
        "/v1/shutdown",
        "/v1/plugins/reload",
        "/v1/plugins/p/test",
        "/v1/plugins/p/resume",
        "/v1/plugins/p/redeliver",
    ] {
        assert_forbidden(&gateway.send(post(target, "{}")));
    }
    let too_large = "x".repeat(64 * 1024 + 1);
    for (request, status) in [
        (post("/v1/nowhere", &too_large), 404),
        (post("/metrics", &too_large), 405),
        (
            post("/v1/shutdown", &too_large).header("Content-Type", "text/plain"),
            415,
        ),
        (post("/v1/shutdown", &too_large), 413),
        (post("/v1/shutdown", "{"), 403),
        (post("/v1/sessions", "{"), 400),
    ] {
        assert_eq!(gateway.send(request).problem().0, status);
    }
    assert_eq!(gateway.get("/healthz").status, 200);
    assert!(!gateway.supervisor.is_stopping());
}
