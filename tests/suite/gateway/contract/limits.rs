//! The limits that the description gives are those that the gateway keeps.

use serde_json::{Value, json};

use crate::gateway::client::TestGateway;
use crate::gateway::description::Description;

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
            "/v1/sessions",
            json!({"id": "held", "holder": "h", "run_id": texts(256)}),
            json!({"id": "held", "holder": "h", "run_id": texts(257)}),
        ),
        (
            "/v1/holders/h/heartbeat",
            json!({"run_id": "r", "ttl_ms": 3_600_000}),
            json!({"run_id": "r", "ttl_ms": 3_600_001}),
        ),
        (
            "/v1/holders/h/heartbeat",
            json!({"run_id": "r", "ttl_ms": 1000}),
            json!({"run_id": "r", "ttl_ms": 999}),
        ),
        (
            "/v1/holders/h/hold",
            json!({"run_id": "r", "grace_ms": 3_600_000}),
            json!({"run_id": "r", "grace_ms": 3_600_001}),
        ),
        (
            "/v1/holders/h/hold",
            json!({"run_id": "r", "grace_ms": 0}),
            json!({"grace_ms": 0}),
        ),
        (
            "/v1/holders/h/end",
            json!({"reason": "closed"}),
            json!({"reason": "idle"}),
        ),
        (
            "/v1/holders/h/end",
            json!({"reason": "completed"}),
            json!({}),
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
