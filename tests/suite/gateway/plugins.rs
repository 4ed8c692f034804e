//! What operators do with plugins, over HTTP.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use session_supervisor::{Access, DeliveryPolicy, LiveSettings, PluginSpec, SessionSupervisor};

use super::client::{Request, Response, TestGateway};

/// A gateway whose plugin `p` rejects every event until the switch is thrown.
async fn rejecting() -> (TestGateway, Arc<AtomicBool>) {
    let repaired = Arc::new(AtomicBool::new(false));
    let works = Arc::clone(&repaired);
    let mut policy = DeliveryPolicy::default();
    policy.max_attempts = 1;
    let plugin = PluginSpec::per_session("p", move |event| {
        let takes = works.load(Ordering::SeqCst) || event.is_synthetic();
        async move {
            takes
                .then_some(())
                .ok_or_else(|| anyhow::anyhow!("no room"))
        }
    });
    let plugin = plugin.with_policy(policy);
    let builder = SessionSupervisor::builder().plugin(plugin);
    (
        TestGateway::start_with(builder, Access::loopback()).await,
        repaired,
    )
}

fn delete(gateway: &TestGateway, target: &str) -> Response {
    gateway.send(Request::new("DELETE", target))
}

/// Waits until `p` has this many dead letters.
#[track_caller]
fn wait_for_dead(gateway: &TestGateway, dead: u64) {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let plugins = gateway.get("/v1/plugins").json();
        if plugins["plugins"][0]["dead"] == dead {
            return;
        }
        assert!(Instant::now() < until, "{plugins}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[actix_web::test]
async fn dead_letters_are_paged_redelivered_and_deleted() {
    let (gateway, repaired) = rejecting().await;
    for id in ["a", "b", "c"] {
        gateway.post("/v1/sessions", &json!({"id": id}));
    }
    gateway.post("/v1/sessions/a/end", &json!({"reason": "completed"}));
    wait_for_dead(&gateway, 4);
    let path = "/v1/plugins/p/dead-letters";
    let first = gateway.get(&format!("{path}?limit=3")).json();
    let letters = first["dead_letters"].as_array().unwrap();
    let of = |letter: &Value| format!("{} {}", letter["type"], letter["session_id"]);
    let listed: Vec<_> = letters.iter().map(of).collect();
    assert_eq!(
        listed,
        ["a", "b", "c"].map(|id| format!("\"session_start\" \"{id}\""))
    );
    assert_eq!(letters[0]["attempts"], 1);
    assert_eq!(
        (&letters[0]["error"], &letters[0]["reason"]),
        (&json!("no room"), &Value::Null)
    );
    let cursor = first["next_cursor"].as_str().unwrap();
    let last = gateway
        .get(&format!("{path}?limit=3&cursor={cursor}"))
        .json();
    assert_eq!(last["next_cursor"], Value::Null);
    assert_eq!(last["dead_letters"][0]["reason"], "completed");

    let one = letters[1]["event_id"].as_str().unwrap();
    let deleted = delete(&gateway, &format!("{path}?event_id={one}"));
    assert_eq!(
        (deleted.status, deleted.json()),
        (200, json!({"deleted": 1}))
    );
    repaired.store(true, Ordering::SeqCst);
    let one = letters[0]["event_id"].as_str().unwrap();
    let back = gateway.post("/v1/plugins/p/redeliver", &json!({"event_id": one}));
    assert_eq!(back.json(), json!({"redelivered": 2, "left": 1}));
    let deleted = delete(&gateway, path);
    assert_eq!(deleted.json(), json!({"deleted": 1}));
    let back = gateway.post("/v1/plugins/p/redeliver", &json!({}));
    assert_eq!(back.json(), json!({"redelivered": 0, "left": 0}));
    assert_eq!(
        gateway.get(path).json(),
        json!({"dead_letters": [], "next_cursor": null})
    );
}

#[actix_web::test]
async fn a_plugin_is_tested_and_resumed() {
    let (gateway, _) = rejecting().await;
    let test = gateway.post("/v1/plugins/p/test", &json!({}));
    assert_eq!(test.status, 200);
    let test = test.json();
    assert_eq!(
        (&test["outcome"], &test["error"]),
        (&json!("ok"), &Value::Null)
    );
    assert!(test["duration_ms"].is_u64());
    let resumed = gateway.post("/v1/plugins/p/resume", &json!({}));
    assert_eq!(resumed.json()["state"], "healthy");
}

#[actix_web::test]
async fn a_plugin_that_is_unknown_is_not_found() {
    let (gateway, _) = rejecting().await;
    for what in ["test", "resume", "redeliver"] {
        let refused = gateway.post(&format!("/v1/plugins/q/{what}"), &json!({}));
        assert_eq!(refused.problem(), (404, "not-found".into()));
    }
    let path = "/v1/plugins/q/dead-letters";
    assert_eq!(gateway.get(path).problem(), (404, "not-found".into()));
    assert_eq!(delete(&gateway, path).problem(), (404, "not-found".into()));
}

#[actix_web::test]
async fn what_means_nothing_is_refused_by_name() {
    let (gateway, _) = rejecting().await;
    for (query, pointer) in [
        ("limit=0", "#/query/limit"),
        ("cursor=x", "#/query/cursor"),
        ("state=active", "#/query/state"),
    ] {
        let refused = gateway.get(&format!("/v1/plugins/p/dead-letters?{query}"));
        assert_eq!((refused.status, refused.pointer()), (422, pointer.into()));
    }
    let refused = delete(&gateway, "/v1/plugins/p/dead-letters?event_id=x");
    assert_eq!(refused.pointer(), "#/query/event_id");
    let refused = gateway.post("/v1/plugins/p/redeliver", &json!({"event_id": "x"}));
    assert_eq!(refused.pointer(), "#/event_id");
    let refused = gateway.post("/v1/plugins/p/test", &json!({"event": "session_end"}));
    assert_eq!(refused.status, 422);
    let refused = gateway.post("/v1/plugins/%ff/test", &json!({}));
    assert_eq!(refused.pointer(), "#/path/name");
}

#[actix_web::test]
async fn a_reload_answers_what_it_changed_or_why_not() {
    let plugin = |name| PluginSpec::per_session(name, |_| async { Ok(()) }).with_configuration(1);
    let wrong = Arc::new(AtomicBool::new(false));
    let is_wrong = Arc::clone(&wrong);
    let builder = SessionSupervisor::builder()
        .plugin(plugin("p"))
        .on_reload(move || {
            anyhow::ensure!(
                !is_wrong.load(Ordering::SeqCst),
                "config.toml:3: `cap` is \"soon\""
            );
            let mut settings = LiveSettings::default();
            settings.plugins = vec![plugin("q"), plugin("p")];
            settings.warnings = vec!["`listen` stays".into()];
            Ok(settings)
        });
    let gateway = TestGateway::start_with(builder, Access::loopback()).await;
    let reloaded = gateway.post("/v1/plugins/reload", &json!({}));
    let expected = json!({"added": ["q"], "removed": [], "changed": [], "unchanged": ["p"],
        "warnings": ["`listen` stays"]});
    assert_eq!((reloaded.status, reloaded.json()), (200, expected));
    wrong.store(true, Ordering::SeqCst);
    let refused = gateway.post("/v1/plugins/reload", &json!({}));
    assert_eq!(refused.problem(), (422, "invalid-field".into()));
    assert_eq!(refused.json()["detail"], "config.toml:3: `cap` is \"soon\"");
    let plugins = gateway.get("/v1/plugins").json();
    assert_eq!(plugins["plugins"].as_array().unwrap().len(), 2);
}
