//! What is refused, how, and in which order.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::json;
use session_supervisor::{Access, SessionSupervisor};

use super::client::{Request, TestGateway};

/// A body one byte over the limit.
fn too_large() -> String {
    "x".repeat(64 * 1024 + 1)
}

#[actix_web::test]
async fn refusals_are_decided_in_the_documented_order() {
    let gateway = TestGateway::start().await;
    // Each request has all the faults of those after it.
    let worst = || {
        Request::new("PUT", "/nowhere")
            .header("Host", "example.org")
            .header("Origin", "http://example.com")
            .header("Content-Type", "text/plain")
            .body(&too_large())
    };
    let refusal = gateway.send(worst());
    assert_eq!(refusal.problem(), (403, "forbidden".to_owned()));
    assert!(refusal.body.contains("Host"), "{refusal:?}");

    let known_host = worst().header("Host", "localhost");
    let refusal = gateway.send(known_host);
    assert_eq!(refusal.problem(), (403, "forbidden".to_owned()));
    assert!(refusal.body.contains("origin"), "{refusal:?}");

    let no_origin = worst().header("Host", "localhost").header("Origin", "");
    assert_eq!(
        gateway.send(no_origin).problem(),
        (404, "not-found".to_owned())
    );

    let at = |method, target| {
        Request::new(method, target)
            .header("Content-Type", "text/plain")
            .body(&too_large())
    };
    let wrong_method = at("PUT", "/v1/sessions/%FF/end");
    let problem = gateway.send(wrong_method).problem();
    assert_eq!(problem, (405, "method-not-allowed".to_owned()));

    let wrong_type = at("POST", "/v1/sessions/%FF/end");
    let problem = gateway.send(wrong_type).problem();
    assert_eq!(problem, (415, "unsupported-media-type".to_owned()));

    let post = |body: &str| Request::new("POST", "/v1/sessions/%FF/end").body(body);
    let problem = gateway.send(post(&too_large())).problem();
    assert_eq!(problem, (413, "body-too-large".to_owned()));

    let problem = gateway.send(post("{\"reason\": 1")).problem();
    assert_eq!(problem, (400, "malformed-json".to_owned()));

    let refusal = gateway.send(post("{\"reason\": 1}"));
    assert_eq!(refusal.problem(), (422, "invalid-field".to_owned()));
    assert_eq!(refusal.pointer(), "#/reason");

    let refusal = gateway.send(post("{}"));
    assert_eq!(refusal.problem(), (422, "invalid-field".to_owned()));
    assert_eq!(refusal.pointer(), "#/path/id");
}

#[actix_web::test]
async fn an_unknown_path_is_not_found_with_any_method() {
    let gateway = TestGateway::start().await;
    for target in [
        "/",
        "/v1",
        "/v1/sessions/",
        "/v1/sessions//end",
        "/v1/sessions/a/b/end",
        "/v1/sessions/a/start",
        "/V1/sessions",
        "//v1/sessions",
        "/healthz/",
        "/%FF",
        "/%",
    ] {
        for method in ["GET", "POST", "DELETE", "OPTIONS", "BREW"] {
            let refusal = gateway.send(Request::new(method, target));
            let expected = (404, "not-found".to_owned());
            assert_eq!(refusal.problem(), expected, "{method} {target}");
        }
    }
}

#[actix_web::test]
async fn a_wrong_method_is_told_the_right_ones() {
    let gateway = TestGateway::start().await;
    for (target, methods, allow) in [
        (
            "/v1/sessions",
            ["PUT", "DELETE", "OPTIONS"],
            "GET, HEAD, POST",
        ),
        ("/v1/sessions/a", ["POST", "PATCH", "DELETE"], "GET, HEAD"),
        ("/v1/sessions/a/touch", ["GET", "PUT", "TRACE"], "POST"),
        ("/v1/sessions/a/end", ["GET", "DELETE", "BREW"], "POST"),
        ("/healthz", ["POST", "PUT", "DELETE"], "GET, HEAD"),
        ("/readyz", ["POST", "PUT", "DELETE"], "GET, HEAD"),
    ] {
        for method in methods {
            let refusal = gateway.send(Request::new(method, target));
            let expected = (405, "method-not-allowed".to_owned());
            assert_eq!(refusal.problem(), expected, "{method} {target}");
            assert_eq!(refusal.header("allow"), Some(allow), "{method} {target}");
        }
    }
}

#[actix_web::test]
async fn a_refused_head_has_no_body() {
    let gateway = TestGateway::start().await;
    let refusal = gateway.send(Request::new("HEAD", "/v1/sessions/a/end"));
    assert_eq!((refusal.status, refusal.body.as_str()), (405, ""));
}

#[actix_web::test]
async fn a_post_without_a_json_content_type_changes_nothing() {
    let gateway = TestGateway::start().await;
    gateway.start_session("a");
    for content_type in ["", "text/plain", "application/x-www-form-urlencoded"] {
        for request in [
            Request::new("POST", "/v1/sessions").body("{\"id\": \"b\"}"),
            Request::new("POST", "/v1/sessions/a/touch"),
            Request::new("POST", "/v1/sessions/a/end"),
        ] {
            let refusal = gateway.send(request.header("Content-Type", content_type));
            let expected = (415, "unsupported-media-type".to_owned());
            assert_eq!(refusal.problem(), expected);
        }
    }
    let active = gateway.supervisor.snapshot().await.unwrap();
    let ids: Vec<_> = active.iter().map(|it| it.id.as_str()).collect();
    assert_eq!(ids, ["a"]);
}

#[actix_web::test]
async fn a_page_whose_name_was_rebound_to_loopback_is_refused() {
    let gateway = TestGateway::start().await;
    let request = Request::new("GET", "/v1/sessions").header("Host", "rebound.example:7467");
    assert_eq!(gateway.send(request).problem().0, 403);
}

#[actix_web::test]
async fn health_checks_answer_any_host() {
    let gateway = TestGateway::start().await;
    for target in ["/healthz", "/readyz"] {
        let request = Request::new("GET", target).header("Host", "10.0.0.7:7467");
        assert_eq!(gateway.send(request).status, 200, "{target}");
    }
}

#[actix_web::test]
async fn a_body_of_64_kib_is_read_and_a_larger_one_refused() {
    let gateway = TestGateway::start().await;
    let json = "{\"id\":\"a\"}";
    let largest = json.to_owned() + &" ".repeat(64 * 1024 - json.len());
    let over = largest.clone() + " ";
    let post = || Request::new("POST", "/v1/sessions");

    assert_eq!(gateway.send(post().body(&largest)).status, 201);
    assert_eq!(gateway.send(post().chunked_body(&largest)).status, 200);
    let expected = (413, "body-too-large".to_owned());
    assert_eq!(gateway.send(post().body(&over)).problem(), expected);
    assert_eq!(gateway.send(post().chunked_body(&over)).problem(), expected);
}

#[actix_web::test]
async fn a_declared_length_over_the_limit_is_refused_before_the_body_comes() {
    let gateway = TestGateway::start().await;
    let request = Request::new("POST", "/v1/sessions").header("Content-Length", "99999999");
    assert_eq!(gateway.send(request).problem().0, 413);
}

#[actix_web::test]
async fn a_body_that_breaks_off_changes_nothing() {
    let gateway = TestGateway::start().await;
    let request = Request::new("POST", "/v1/sessions")
        .body("{\"id\": \"a\"}")
        .header("Content-Length", "100");
    let mut connection = gateway.connect();
    connection
        .write_all(request.to_string().as_bytes())
        .unwrap();
    connection.shutdown(std::net::Shutdown::Write).unwrap();
    connection.read_to_end(&mut Vec::new()).unwrap();
    assert!(gateway.supervisor.snapshot().await.unwrap().is_empty());
}

#[actix_web::test]
async fn a_refused_request_leaves_its_connection_usable() {
    let gateway = TestGateway::start().await;
    let refused = Request::new("POST", "/v1/sessions").body("{");
    let refused = refused.header("Connection", "").to_string();
    let good = Request::new("GET", "/healthz").to_string();
    let mut connection = gateway.connect();
    connection.write_all((refused + &good).as_bytes()).unwrap();
    let mut answers = String::new();
    connection.read_to_string(&mut answers).unwrap();
    assert!(answers.starts_with("HTTP/1.1 400"), "{answers}");
    assert!(answers.contains("HTTP/1.1 200"), "{answers}");
}

#[actix_web::test]
async fn what_is_no_http_is_refused_with_a_document_too() {
    let gateway = TestGateway::start().await;
    for garbage in [
        &b"GARBAGE\r\n\r\n"[..],
        b"GET /healthz HTTP/1.1\r\nno header\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
        b"GET /v1/sessions/\xc3\xa4 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /v1/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
          Transfer-Encoding: chunked\r\n\r\nnot a length\r\n",
    ] {
        let refusal = gateway.send_raw(garbage);
        let expected = (400, "malformed-json".to_owned());
        let garbage = String::from_utf8_lossy(garbage);
        assert_eq!(refusal.problem(), expected, "{garbage}");
    }
}

#[actix_web::test]
async fn garbage_after_a_request_does_not_spoil_its_answer() {
    let gateway = TestGateway::start().await;
    let bytes = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGARBAGE\r\n\r\n";
    let answer = gateway.send_raw(bytes);
    assert_eq!(answer.status, 200);
    let (first, second) = answer.body.split_once("HTTP/1.1 400 Bad Request").unwrap();
    assert_eq!(first, "{\"status\":\"alive\"}");
    assert!(second.contains("application/problem+json"), "{second}");
}

#[actix_web::test]
async fn a_request_whose_head_does_not_come_is_refused() {
    let gateway = TestGateway::start().await;
    let refusal = gateway.send_raw(b"GET /healthz HT");
    assert_eq!(refusal.problem(), (400, "malformed-json".to_owned()));
    assert!(
        refusal.body.contains("did not arrive within"),
        "{refusal:?}"
    );
}

#[actix_web::test]
async fn a_stopped_gateway_has_closed_its_listener() {
    let gateway = TestGateway::start().await;
    let mut idle = gateway.connect();
    let address = idle.peer_addr().unwrap();
    gateway.stop().await;
    assert!(TcpStream::connect(address).is_err());
    // A connection that was open is not waited for.
    let _ = idle.read(&mut [0]);
    gateway.stop().await;
}

#[actix_web::test]
async fn fields_that_break_the_rules_are_named_and_change_nothing() {
    let gateway = TestGateway::start().await;
    let long = "x".repeat(5000);
    for (body, pointer) in [
        (json!({}), "#/id"),
        (json!({"id": null}), "#/id"),
        (json!({"id": ""}), "#/id"),
        (json!({"id": ".."}), "#/id"),
        (json!({"id": "a\nb"}), "#/id"),
        (json!({"id": "x".repeat(257)}), "#/id"),
        (json!({"id": 1}), "#/id"),
        (json!({"id": "a", "key": ""}), "#/key"),
        (json!({"id": "a", "agent_id": long}), "#/agent_id"),
        (json!({"id": "a", "store_path": long}), "#/store_path"),
        (json!({"id": "a", "session_file": []}), "#/session_file"),
        (json!({"id": "a", "resumed_from": "."}), "#/resumed_from"),
        (
            json!({"id": "a", "started_at": "yesterday"}),
            "#/started_at",
        ),
        (json!({"id": "a", "started_at": 0}), "#/started_at"),
        (json!({"id": "a", "metadata": []}), "#/metadata"),
        (json!({"id": "a", "metadata": null}), "#/metadata"),
        (
            json!({"id": "a", "metadata": {"m": "x".repeat(16 * 1024)}}),
            "#/metadata",
        ),
        (json!({"id": "a", "ID": "a"}), "#/ID"),
        (json!({"id": "a", "holder": ".."}), "#/holder"),
        (json!({"id": "a", "run_id": "r"}), "#/run_id"),
        (json!([]), "#"),
        (json!("a"), "#"),
    ] {
        let refusal = gateway.post("/v1/sessions", &body);
        assert_eq!(
            refusal.problem(),
            (422, "invalid-field".to_owned()),
            "{body}"
        );
        assert_eq!(refusal.pointer(), pointer, "{body}");
    }
    assert!(gateway.supervisor.snapshot().await.unwrap().is_empty());
}

#[actix_web::test]
async fn a_start_past_the_limit_is_refused_and_an_active_session_is_not() {
    let builder = SessionSupervisor::builder().max_active(1);
    let gateway = TestGateway::start_with(builder, Access::loopback()).await;
    gateway.start_session("a");
    let refusal = gateway.post("/v1/sessions", &json!({"id": "b"}));
    assert_eq!(refusal.problem(), (429, "too-many-sessions".to_owned()));
    let again = gateway.post("/v1/sessions", &json!({"id": "a"}));
    assert_eq!(again.status, 200);
    gateway.post("/v1/sessions/a/end", &json!({}));
    gateway.start_session("b");
}

#[actix_web::test]
async fn a_query_that_means_nothing_is_refused_and_changes_nothing() {
    let gateway = TestGateway::start().await;
    gateway.start_session("a");
    let refusal = gateway.post("/v1/sessions/a/end?dry_run=true", &json!({}));
    assert_eq!(refusal.problem(), (422, "invalid-field".to_owned()));
    assert_eq!(refusal.pointer(), "#/query/dry_run");
    assert_eq!(gateway.get("/v1/sessions/a").json()["state"], "active");
}
