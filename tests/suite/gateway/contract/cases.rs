//! What is asked to see each answer that the description has.

/// A request that the description allows, and the status of its answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case(
    pub(super) &'static str,
    pub(super) &'static str,
    pub(super) &'static str,
    pub(super) u16,
);

/// One after the other on a new gateway: what each request is for, in all its forms.
pub(super) const CASES: &[Case] = &[
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
    Case("GET", "/v1/holders", "", 200),
    Case("POST", "/v1/holders/h/heartbeat", BEAT, 204),
    Case("PUT", "/v1/holders/h/sessions", WHOLE_LIST, 200),
    Case("POST", "/v1/holders/h/hold", WHOLE_HOLD, 200),
    Case(
        "POST",
        "/v1/holders/b%2F%C3%A4/hold",
        r#"{"run_id": "r"}"#,
        200,
    ),
    Case("GET", "/v1/holders", "", 200),
    Case("POST", "/v1/holders/h/end", HOLDER_END, 200),
    Case(
        "POST",
        "/v1/bulk-end",
        r#"{"all": true, "reason": "closed", "dry_run": true}"#,
        200,
    ),
    Case("POST", "/v1/bulk-end", WHOLE_FILTER, 200),
    Case("GET", "/v1/plugins", "", 200),
    Case("POST", "/v1/plugins/p/test", "", 200),
    Case("POST", "/v1/plugins/p/resume", "{}", 200),
    Case("GET", "/v1/plugins/p/dead-letters?limit=1", "", 200),
    Case("GET", "/v1/plugins/p/dead-letters?cursor=s1", "", 200),
    Case("POST", "/v1/plugins/p/redeliver", ONE_EVENT, 200),
    Case("POST", "/v1/plugins/p/redeliver", "", 200),
    Case("DELETE", DELETE_ONE, "", 200),
    Case("DELETE", "/v1/plugins/p/dead-letters", "", 200),
    Case("POST", "/v1/plugins/reload", "", 200),
    Case("GET", "/v1/events", "", 200),
    Case("GET", "/v1/events?types=session_end,drain", "", 200),
    Case("GET", "/metrics", "", 200),
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
    "resumed_from": "z", "holder": "h", "run_id": "r", "started_at": "2026-11-22T10:00:00Z", "metadata": {"channel": [1]}
}"#;

const BEAT: &str = r#"{"run_id": "r", "ttl_ms": 60000}"#;

const LATER_BEAT: &str = r#"{"run_id": "r2", "ttl_ms": 60000}"#;

const WHOLE_LIST: &str = r#"{"run_id": "r", "ids": ["a", "unknown"]}"#;

const WHOLE_HOLD: &str = r#"{"run_id": "r", "grace_ms": 60000}"#;

const HOLDER_END: &str = r#"{"run_id": "r", "reason": "restart"}"#;

const WHOLE_END: &str = r#"{
    "reason": "completed", "detail": "done", "next_session_id": "c", "next_key": "k",
    "message_count": 3, "transcript_archived": true
}"#;

const ONE_EVENT: &str = r#"{"event_id": "01a204900045717497ca18a91bfdcc7e-session_end"}"#;

const DELETE_ONE: &str = "/v1/plugins/p/dead-letters?\
                          event_id=01a204900045717497ca18a91bfdcc7e-session_end";

const WHOLE_FILTER: &str = r#"{
    "key": "k", "key_prefix": "k", "agent_id": "main", "holder": "h", "idle_for_ms": 0,
    "older_than_ms": 0, "all": false, "reason": "closed", "dry_run": false
}"#;

/// Refusals of what a request means.
pub(super) const REFUSED: &[Case] = &[
    Case("GET", "/v1/sessions/unknown", "", 404),
    Case("POST", "/v1/sessions/unknown/touch", "", 404),
    Case("POST", "/v1/sessions/unknown/end", "", 404),
    Case("GET", "/v1/reports/last", "", 404),
    Case("POST", "/v1/holders/h/heartbeat", BEAT, 204),
    Case("POST", "/v1/holders/h/heartbeat", LATER_BEAT, 204),
    Case("POST", "/v1/holders/h/heartbeat", BEAT, 409),
    Case("POST", "/v1/holders/h/hold", WHOLE_HOLD, 409),
    Case("PUT", "/v1/holders/h/sessions", WHOLE_LIST, 409),
    Case("POST", "/v1/holders/h/end", HOLDER_END, 409),
    Case("POST", "/v1/sessions", WHOLE_START, 409),
    Case("POST", "/v1/plugins/unknown/test", "", 404),
    Case("POST", "/v1/plugins/unknown/resume", "", 404),
    Case("GET", "/v1/plugins/unknown/dead-letters", "", 404),
    Case("DELETE", "/v1/plugins/unknown/dead-letters", "", 404),
    Case("POST", "/v1/plugins/unknown/redeliver", "", 404),
];

/// Requests that need a ledger which works, while `a` is active, `h` holds a session and `p` has a dead
/// letter.
pub(super) const RECORDED: &[Case] = &[
    Case("POST", "/v1/sessions", r#"{"id": "b"}"#, 503),
    Case("GET", "/v1/sessions?state=ended", "", 503),
    Case("GET", "/v1/sessions/b", "", 503),
    Case("POST", "/v1/sessions/a/end", "{}", 503),
    Case("POST", "/v1/bulk-end", r#"{"all": true}"#, 503),
    Case("POST", "/v1/holders/beats/heartbeat", BEAT, 503),
    Case("POST", "/v1/holders/holds/hold", WHOLE_HOLD, 503),
    Case("PUT", "/v1/holders/lists/sessions", WHOLE_LIST, 503),
    Case("POST", "/v1/holders/h/end", r#"{"reason": "closed"}"#, 503),
    Case("GET", "/v1/plugins/p/dead-letters", "", 503),
    Case("DELETE", "/v1/plugins/p/dead-letters", "", 503),
    Case("POST", "/v1/plugins/p/redeliver", "", 503),
    Case("POST", "/v1/plugins/reload", "", 503),
];

/// What is `busy` where 65,536 holders are known. Not seen here, since so many take minutes to make; that
/// they are refused is tested where they are counted.
pub(super) const CROWDED: &[(&str, &str)] = &[
    ("POST", "/v1/sessions"),
    ("POST", "/v1/holders/{holder}/hold"),
    ("POST", "/v1/holders/{holder}/heartbeat"),
    ("PUT", "/v1/holders/{holder}/sessions"),
];

/// What is refused where too many wait for the same.
pub(super) const BUSY: &[Case] = &[
    Case("DELETE", "/v1/plugins/p/dead-letters", "", 503),
    Case("POST", "/v1/plugins/p/redeliver", "", 503),
    Case("POST", "/v1/plugins/reload", "", 503),
];
