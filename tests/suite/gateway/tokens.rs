//! A gateway with tokens: who may do what, and in which order the rest is refused.

use serde_json::json;
use session_supervisor::{Access, Scope, Secret, SessionSupervisor, Token};

use super::client::{Request, Response, TestGateway};

const OPERATOR: &str = "Bearer operator-0123456789";
const READER: &str = "Bearer reader-0123456789";
const STRANGER: &str = "Bearer stranger-0123456789";

async fn start() -> TestGateway {
    let token = |name: &str, scope, header: &str| {
        let secret = header.strip_prefix("Bearer ").unwrap();
        Token::new(name, scope, Secret::new(secret).unwrap())
    };
    let access = Access::tokens([
        token("ops", Scope::Operator, OPERATOR),
        token("dashboard", Scope::Read, READER),
    ]);
    TestGateway::start_with(SessionSupervisor::builder(), access).await
}

fn request(method: &str, target: &str, token: &str) -> Request {
    Request::new(method, target).header("Authorization", token)
}

#[track_caller]
fn assert_unauthorized(refusal: &Response) {
    assert_eq!(refusal.problem(), (401, "unauthorized".to_owned()));
    assert_eq!(refusal.header("www-authenticate"), Some("Bearer"));
}

#[actix_web::test]
async fn every_request_but_health_checks_needs_a_token() {
    let gateway = start().await;
    for token in ["", STRANGER, "Basic b3BzOm9wcw=="] {
        for (method, target) in [
            ("GET", "/v1/sessions"),
            ("GET", "/v1/sessions/a"),
            ("POST", "/v1/sessions"),
            ("POST", "/v1/sessions/a/touch"),
            ("POST", "/v1/sessions/a/end"),
            ("DELETE", "/v1/sessions/a"),
            ("GET", "/metrics"),
            ("GET", "/openapi.json"),
            ("GET", "/nowhere"),
            ("OPTIONS", "/v1/sessions"),
            ("GET", "/healthz/"),
        ] {
            assert_unauthorized(&gateway.send(request(method, target, token)));
        }
        for target in ["/healthz", "/readyz"] {
            let any_host = request("GET", target, token).header("Host", "10.0.0.7");
            assert_eq!(gateway.send(any_host).status, 200, "{target}");
        }
    }
}

#[actix_web::test]
async fn a_token_in_the_query_is_none() {
    let gateway = start().await;
    let secret = OPERATOR.strip_prefix("Bearer ").unwrap();
    assert_unauthorized(&gateway.get(&format!("/v1/sessions?access_token={secret}")));
}

#[actix_web::test]
async fn an_operator_may_do_everything_under_any_host() {
    let gateway = start().await;
    let send = |method, target, body| {
        let request = request(method, target, OPERATOR).body(&body);
        gateway.send(request.header("Host", "gateway.example.org"))
    };
    let started = send("POST", "/v1/sessions", json!({"id": "a"}));
    assert_eq!(started.status, 201, "{started:?}");
    let touched = send("POST", "/v1/sessions/a/touch", json!({}));
    assert_eq!(touched.status, 204, "{touched:?}");
    let ended = send("POST", "/v1/sessions/a/end", json!({}));
    assert_eq!(ended.status, 200, "{ended:?}");
    let shown = send("GET", "/v1/sessions/a", json!({}));
    assert_eq!(shown.json()["state"], "ended");
}

#[actix_web::test]
async fn a_reader_may_read_everything_and_change_nothing() {
    let gateway = start().await;
    let start = |id: &str| request("POST", "/v1/sessions", OPERATOR).body(&json!({"id": id}));
    assert_eq!(gateway.send(start("a")).status, 201);

    for method in ["GET", "HEAD"] {
        for target in ["/v1/sessions", "/v1/sessions/a", "/healthz"] {
            let answer = gateway.send(request(method, target, READER));
            assert_eq!(answer.status, 200, "{method} {target}");
        }
    }
    for (target, body) in [
        ("/v1/sessions", json!({"id": "b"})),
        ("/v1/sessions", json!({"id": "a", "agent_id": "other"})),
        ("/v1/sessions/a/touch", json!({})),
        ("/v1/sessions/a/end", json!({})),
        ("/v1/sessions/unknown/end", json!({})),
    ] {
        let refusal = gateway.send(request("POST", target, READER).body(&body));
        assert_eq!(refusal.problem(), (403, "forbidden".to_owned()), "{target}");
        assert!(refusal.body.contains("`dashboard`"), "{refusal:?}");
    }
    let active = gateway.supervisor.active().await.unwrap();
    let active: Vec<_> = active
        .iter()
        .map(|it| (it.session.id.as_str(), it.session.agent_id.as_deref()))
        .collect();
    assert_eq!(active, [("a", None)]);
}

#[actix_web::test]
async fn refusals_with_tokens_are_decided_in_the_documented_order() {
    let gateway = start().await;
    let too_large = "x".repeat(64 * 1024 + 1);
    // Each request has all the faults of those after it; the scope is too small for any change.
    let at = |method, target| {
        request(method, target, READER)
            .header("Host", "gateway.example.org")
            .header("Content-Type", "text/plain")
            .body(&too_large)
    };
    let post = |token, body: &str| request("POST", "/v1/sessions/%FF/end", token).body(body);

    let chunked = request("POST", "/v1/sessions/%FF/end", READER).chunked_body(&too_large);

    let foreign = at("PUT", "/nowhere").header("Origin", "http://example.com");
    let refusal = gateway.send(foreign.header("Authorization", STRANGER));
    assert_eq!(refusal.problem(), (403, "forbidden".to_owned()));
    assert!(refusal.body.contains("origin"), "{refusal:?}");

    let unknown = at("PUT", "/nowhere").header("Authorization", STRANGER);
    assert_unauthorized(&gateway.send(unknown));

    for (request, status, problem) in [
        (at("PUT", "/nowhere"), 404, "not-found"),
        (at("PUT", "/v1/sessions/%FF/end"), 405, "method-not-allowed"),
        (
            at("POST", "/v1/sessions/%FF/end"),
            415,
            "unsupported-media-type",
        ),
        (post(READER, &too_large), 413, "body-too-large"),
        (chunked, 413, "body-too-large"),
        (post(READER, "{\"reason\": 1"), 403, "forbidden"),
        (post(OPERATOR, "{\"reason\": 1"), 400, "malformed-json"),
        (post(OPERATOR, "{\"reason\": 1}"), 422, "invalid-field"),
        (post(OPERATOR, "{}"), 422, "invalid-field"),
    ] {
        let refusal = gateway.send(request);
        assert_eq!(refusal.problem(), (status, problem.to_owned()));
    }
}
