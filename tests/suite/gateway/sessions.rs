//! What the requests on sessions do and answer.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use session_supervisor::EndReason;

use super::client::TestGateway;

#[actix_web::test]
async fn a_new_session_is_answered_whole() {
    let gateway = TestGateway::start().await;
    let body = json!({
        "id": "sess-A", "key": "agent:main:main", "agent_id": "main",
        "store_path": "/data/store.json", "session_file": "/data/sess-A.jsonl",
        "resumed_from": "sess-0", "started_at": "2026-11-22T10:00:00Z",
        "metadata": {"channel": "web", "n": [1, 2.5, null]},
    });
    let response = gateway.post("/v1/sessions", &body);
    assert_eq!(response.status, 201);
    assert_eq!(response.header("location"), Some("/v1/sessions/sess%2DA"));
    assert_eq!(response.header("content-type"), Some("application/json"));

    let session = response.json();
    assert!(session["incarnation"].is_string());
    let expected = json!({
        "id": "sess-A", "incarnation": session["incarnation"], "previous_incarnation": null,
        "key": "agent:main:main", "agent_id": "main", "store_path": "/data/store.json",
        "session_file": "/data/sess-A.jsonl", "resumed_from": "sess-0", "holder": null,
        "started_at": "2026-11-22T10:00:00.000Z",
        "metadata": {"channel": "web", "n": [1, 2.5, null]},
        "state": "active", "reason": null, "detail": null, "resumable": null, "ended_at": null,
    });
    assert_eq!(session, expected);
}

#[actix_web::test]
async fn starting_an_active_id_again_replaces_all_details_but_the_start() {
    let gateway = TestGateway::start().await;
    let first = json!({"id": "a", "key": "k", "started_at": "2026-01-01T00:00:00Z"});
    let first = gateway.post("/v1/sessions", &first).json();
    let again = json!({"id": "a", "agent_id": "b", "started_at": "2026-02-02T00:00:00Z"});
    let again = gateway.post("/v1/sessions", &again);
    assert_eq!(again.status, 200);
    let again = again.json();
    assert_eq!(again["incarnation"], first["incarnation"]);
    assert_eq!(again["started_at"], first["started_at"]);
    assert_eq!(again["agent_id"], "b");
    assert_eq!(again["key"], Value::Null);
}

#[actix_web::test]
async fn starting_an_ended_id_begins_a_new_incarnation() {
    let gateway = TestGateway::start().await;
    let first = gateway.start_session("a");
    gateway.post("/v1/sessions/a/end", &json!({}));
    let second = gateway.start_session("a");
    assert_ne!(second["incarnation"], first["incarnation"]);
    assert_eq!(second["previous_incarnation"], first["incarnation"]);
}

#[actix_web::test]
async fn a_key_that_was_taken_names_the_session_that_lost_it() {
    let gateway = TestGateway::start().await;
    let first = gateway.post("/v1/sessions", &json!({"id": "a", "key": "k"}));
    assert_eq!(first.json().get("replaced"), None);
    let second = gateway.post("/v1/sessions", &json!({"id": "b", "key": "k"}));
    assert_eq!(
        (second.status, &second.json()["replaced"]),
        (201, &json!("a"))
    );
    let replaced = gateway.get("/v1/sessions/a").json();
    assert_eq!(replaced["state"], "ended");
    assert_eq!(replaced["reason"], "replaced");
}

#[actix_web::test]
async fn the_list_shows_active_sessions_in_the_order_of_their_starts() {
    let gateway = TestGateway::start().await;
    for id in ["c", "a", "d", "b"] {
        gateway.start_session(id);
    }
    gateway.post("/v1/sessions/a/end", &json!({}));
    let list = gateway.get("/v1/sessions").json();
    let sessions = list["sessions"].as_array().unwrap();
    let ids: Vec<_> = sessions.iter().map(|session| &session["id"]).collect();
    assert_eq!(ids, ["c", "d", "b"]);
    assert_eq!(list["next_cursor"], Value::Null);
    assert_eq!(sessions[0]["state"], "active");
    assert_eq!(sessions[0].get("plugins"), None);
}

#[actix_web::test]
async fn an_empty_list_is_a_list() {
    let gateway = TestGateway::start().await;
    let list = gateway.get("/v1/sessions?state=active").json();
    assert_eq!(list, json!({"sessions": [], "next_cursor": null}));
}

#[actix_web::test]
async fn a_change_while_paging_neither_repeats_nor_skips_an_unchanged_session() {
    let gateway = TestGateway::start().await;
    for n in 0..10 {
        gateway.start_session(&format!("s{n}"));
    }
    let mut seen = Vec::new();
    let mut target = "/v1/sessions?limit=3".to_owned();
    loop {
        let page = gateway.get(&target).json();
        let sessions = page["sessions"].as_array().unwrap();
        assert!(sessions.len() <= 3);
        let ids = sessions
            .iter()
            .map(|session| session["id"].as_str().unwrap());
        seen.extend(ids.map(str::to_owned));
        // One that was shown ends, and another starts.
        gateway.post("/v1/sessions/s0/end", &json!({}));
        gateway.post("/v1/sessions", &json!({"id": "late"}));
        let Some(cursor) = page["next_cursor"].as_str() else {
            break;
        };
        let is_safe = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
        assert!(cursor.bytes().all(is_safe), "{cursor}");
        target = format!("/v1/sessions?limit=3&cursor={cursor}");
    }
    let unchanged = seen.iter().filter(|id| *id != "late");
    let expected: Vec<_> = (0..10).map(|n| format!("s{n}")).collect();
    assert!(unchanged.eq(expected.iter()), "{seen:?}");
    assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), seen.len());
}

#[actix_web::test]
async fn one_session_is_shown_with_its_plugins() {
    let gateway = TestGateway::start().await;
    let started = gateway.start_session("a");
    let shown = gateway.get("/v1/sessions/a");
    assert_eq!(shown.status, 200);
    let shown = shown.json();
    assert_eq!(shown["incarnation"], started["incarnation"]);
    assert_eq!(shown["state"], "active");
    assert_eq!(shown["plugins"], json!({}));
}

#[actix_web::test]
async fn ids_with_any_characters_are_reached_by_their_encoding() {
    let gateway = TestGateway::start().await;
    for (id, encoded) in [
        ("a/b/end", "a%2Fb%2Fend"),
        ("\u{e4} \u{1f980}", "%C3%A4%20%F0%9F%A6%80"),
        ("100%", "100%25"),
        ("%2F", "%252F"),
        ("a?b#c", "a%3Fb%23c"),
        ("a+b&c=d;e", "a+b&c=d;e"),
        ("...", "..."),
    ] {
        gateway.start_session(id);
        let shown = gateway.get(&format!("/v1/sessions/{encoded}")).json();
        assert_eq!(shown["id"], id);
        let ended = gateway.post(&format!("/v1/sessions/{encoded}/end"), &json!({}));
        assert_eq!((ended.status, &ended.json()["id"]), (200, &json!(id)));
    }
}

#[actix_web::test]
async fn the_location_of_a_new_session_leads_to_it() {
    let gateway = TestGateway::start().await;
    let id = "a/b %\u{e4}";
    let started = gateway.post("/v1/sessions", &json!({"id": id}));
    let location = started.header("location").unwrap();
    assert_eq!(gateway.get(location).json()["id"], id);
}

#[actix_web::test]
async fn an_unknown_session_is_not_found() {
    let gateway = TestGateway::start().await;
    let shown = gateway.get("/v1/sessions/a");
    assert_eq!(shown.problem(), (404, "not-found".to_owned()));
    let ended = gateway.post("/v1/sessions/a/end", &json!({}));
    assert_eq!(ended.problem(), (404, "not-found".to_owned()));
    let touched = gateway.post("/v1/sessions/a/touch", &json!({}));
    assert_eq!(touched.problem(), (404, "not-active".to_owned()));
}

#[actix_web::test]
async fn an_active_session_can_be_touched_with_or_without_its_incarnation() {
    let gateway = TestGateway::start().await;
    let incarnation = gateway.start_session("a")["incarnation"].clone();
    for body in [json!({}), json!({"incarnation": incarnation})] {
        let touched = gateway.post("/v1/sessions/a/touch", &body);
        assert_eq!((touched.status, touched.body.as_str()), (204, ""));
    }
    let empty = super::client::Request::new("POST", "/v1/sessions/a/touch");
    assert_eq!(gateway.send(empty).status, 204);
}

#[actix_web::test]
async fn an_ended_session_or_another_incarnation_is_not_active() {
    let gateway = TestGateway::start().await;
    let old = gateway.start_session("a")["incarnation"].clone();
    gateway.post("/v1/sessions/a/end", &json!({}));
    let touched = gateway.post("/v1/sessions/a/touch", &json!({}));
    assert_eq!(touched.problem(), (404, "not-active".to_owned()));
    gateway.start_session("a");
    let touched = gateway.post("/v1/sessions/a/touch", &json!({"incarnation": old}));
    assert_eq!(touched.problem(), (404, "not-active".to_owned()));
}

#[actix_web::test]
async fn an_end_answers_how_it_ended() {
    let gateway = TestGateway::start().await;
    let started = gateway.start_session("a");
    let body = json!({
        "reason": "disconnected", "detail": "socket closed", "incarnation": started["incarnation"],
        "next_session_id": "b", "next_key": "k", "message_count": 7, "transcript_archived": true,
    });
    let ended = gateway.post("/v1/sessions/a/end", &body);
    assert_eq!(ended.status, 200);
    let ended = ended.json();
    assert_eq!(ended["state"], "ended");
    assert_eq!(ended["reason"], "disconnected");
    assert_eq!(ended["detail"], "socket closed");
    assert_eq!(ended["resumable"], true);
    let ended_at = ended["ended_at"].as_str().unwrap();
    assert!(
        ended_at.ends_with('Z') && ended_at.len() == 24,
        "{ended_at}"
    );

    let shown = gateway.get("/v1/sessions/a").json();
    for member in ["state", "reason", "detail", "resumable", "ended_at"] {
        assert_eq!(shown[member], ended[member]);
    }
    let record = gateway
        .supervisor
        .find(&"a".parse().unwrap())
        .await
        .unwrap();
    let (end, _) = record.unwrap().end.unwrap();
    assert_eq!(end.details.next_session_id, Some("b".parse().unwrap()));
    assert_eq!(end.details.next_key, Some("k".parse().unwrap()));
    assert_eq!(end.details.message_count, Some(7));
    assert_eq!(end.details.transcript_archived, Some(true));
}

#[actix_web::test]
async fn a_repeated_end_answers_the_reason_it_really_ended_with() {
    let gateway = TestGateway::start().await;
    gateway.start_session("a");
    let first = gateway.post("/v1/sessions/a/end", &json!({"reason": "completed"}));
    let second = gateway.post("/v1/sessions/a/end", &json!({"reason": "failed"}));
    assert_eq!(second.status, 200);
    assert_eq!(second.json(), first.json());
}

#[actix_web::test]
async fn an_end_of_another_incarnation_ends_nothing() {
    let gateway = TestGateway::start().await;
    let old = gateway.start_session("a")["incarnation"].clone();
    gateway.post("/v1/sessions/a/end", &json!({}));
    gateway.start_session("a");
    let ended = gateway.post("/v1/sessions/a/end", &json!({"incarnation": old}));
    assert_eq!(ended.status, 200);
    assert_eq!(gateway.get("/v1/sessions/a").json()["state"], "active");
}

#[actix_web::test]
async fn an_end_without_a_reason_is_unknown() {
    let gateway = TestGateway::start().await;
    gateway.start_session("a");
    let ended = gateway.post("/v1/sessions/a/end", &json!({})).json();
    assert_eq!(
        (&ended["reason"], &ended["resumable"]),
        (&json!("unknown"), &json!(false))
    );
}

#[actix_web::test]
async fn every_reason_is_accepted_but_those_that_only_the_supervisor_finds() {
    let gateway = TestGateway::start().await;
    for &reason in EndReason::ALL {
        gateway.start_session("a");
        let ended = gateway.post("/v1/sessions/a/end", &json!({"reason": reason}));
        if matches!(reason, EndReason::Crash | EndReason::Lost) {
            assert_eq!(ended.problem(), (422, "reserved-reason".to_owned()));
            assert_eq!(ended.pointer(), "#/reason");
            assert_eq!(gateway.get("/v1/sessions/a").json()["state"], "active");
            gateway.post("/v1/sessions/a/end", &json!({}));
        } else {
            assert_eq!(ended.json()["reason"], reason.as_str());
        }
    }
}

#[actix_web::test]
async fn an_end_that_breaks_the_rules_is_refused_and_ends_nothing() {
    let gateway = TestGateway::start().await;
    gateway.start_session("a");
    for (body, pointer) in [
        (json!({"reason": "crashed"}), "#/reason"),
        (json!({"reason": ""}), "#/reason"),
        (json!({"detail": "x".repeat(1025)}), "#/detail"),
        (json!({"incarnation": "a"}), "#/incarnation"),
        (json!({"next_session_id": ""}), "#/next_session_id"),
        (json!({"next_key": ".."}), "#/next_key"),
        (json!({"message_count": -1}), "#/message_count"),
        (
            json!({"transcript_archived": "yes"}),
            "#/transcript_archived",
        ),
        (json!({"id": "a"}), "#/id"),
    ] {
        let refusal = gateway.post("/v1/sessions/a/end", &body);
        assert_eq!(
            refusal.problem(),
            (422, "invalid-field".to_owned()),
            "{body}"
        );
        assert_eq!(refusal.pointer(), pointer, "{body}");
    }
    assert_eq!(gateway.get("/v1/sessions/a").json()["state"], "active");
}

#[actix_web::test]
async fn head_is_answered_like_get_without_a_body() {
    let gateway = TestGateway::start().await;
    for target in ["/healthz", "/v1/sessions"] {
        let head = gateway.send(super::client::Request::new("HEAD", target));
        assert_eq!((head.status, head.body.as_str()), (200, ""), "{target}");
        let length = gateway.get(target).body.len().to_string();
        assert_eq!(head.header("content-length"), Some(length.as_str()));
    }
}
