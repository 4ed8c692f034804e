//! What operators see of holders, and do to them; and tokens that open one holder's things alone.

use serde_json::{Value, json};

use super::{start, wait_for_ends};
use crate::gateway::{AUDITED, Gateway, agent};

#[test]
fn holders_are_listed_with_their_leases_and_ended() {
    let gateway = start();
    let empty = gateway.run(&["holders", "list"]).done();
    assert_eq!(empty, "no other program holds sessions\n");
    let beat = json!({"run_id": "run-1", "ttl_ms": 60_000});
    let (status, answer) = gateway.post("/v1/holders/worker/heartbeat", &beat);
    assert_eq!(status, 204, "{answer}");
    for id in ["A", "B"] {
        let start = ["sessions", "start", id, "--holder", "worker"];
        gateway.run(&start).done();
    }
    let other = ["--holder", "other", "--run-id", "run-2"];
    gateway
        .run(&[&["sessions", "start", "C"][..], &other].concat())
        .done();

    let list = gateway.run(&["holders", "list", "--format", "json"]).json();
    let found = list["holders"].as_array().unwrap().iter();
    let found: Vec<_> = found
        .map(|it| (&it["holder"], &it["run_id"], &it["lease"], &it["sessions"]))
        .map(|(holder, run, lease, sessions)| json!([holder, run, lease, sessions]))
        .collect();
    let expected = [
        json!(["other", "run-2", "awaited", 1]),
        json!(["worker", "run-1", "heartbeat", 2]),
    ];
    assert_eq!(found, expected);
    let table = gateway.run(&["holders", "list"]).done();
    assert!(table.starts_with("HOLDER  RUN    LEASE"), "{table}");
    let shown = gateway.run(&["sessions", "show", "A"]).done();
    for line in ["\nholder ", "\nrun id "] {
        assert!(shown.contains(line), "{shown}");
    }
    let listed = ["sessions", "list", "--holder", "worker", "--format", "json"];
    let listed = gateway.run(&listed).json();
    assert_eq!(listed["sessions"].as_array().map(Vec::len), Some(2));

    let ended = gateway.run(&["holders", "end", "worker"]).done();
    assert_eq!(ended, "2 sessions of worker ended: closed\n");
    wait_for_ends(&gateway, &["A", "B"], "closed");
    let restart = ["holders", "end", "other", "--reason", "restart"];
    let ended = gateway.run(&[&restart[..], &["--format", "json"]].concat());
    assert_eq!(ended.json(), json!({"ended": 1}));
    wait_for_ends(&gateway, &["C"], "restart");
    let lost = gateway.run(&["holders", "end", "other", "--reason", "lost"]);
    lost.failed(
        2,
        &["possible values: completed, shutdown, restart, closed"],
    );
    assert_eq!(gateway.get("/v1/holders").1, json!({"holders": []}));
}

#[test]
fn a_token_of_a_holder_opens_nothing_but_what_that_holds() {
    let tokens = "[[auth.token]]\nname = \"ops\"\ntoken_env = \"OPS\"\nscope = \"operator\"\n\
        [[auth.token]]\nname = \"worker\"\ntoken_env = \"WORKER\"\nscope = \"holder\"\n\
        holder = \"worker\"\n";
    let (ops, worker) = ("operator-0123456789", "worker-0123456789");
    let env = [("OPS", ops), ("WORKER", worker)];
    let config = format!("{AUDITED}{tokens}");
    let gateway = Gateway::start_with_env(tempfile::tempdir().unwrap(), &config, &env);
    let ask = |token: &str, path: &str, body: Value| {
        let request = agent().post(format!("{}{path}", gateway.url()));
        let request = request.header("Authorization", format!("Bearer {token}"));
        let mut answer = request.send_json(body).unwrap();
        let status = answer.status().as_u16();
        let body = answer.body_mut().read_to_string().unwrap();
        (status, serde_json::from_str(&body).unwrap_or(Value::Null))
    };
    // Whatever it starts is its own.
    let (status, session) = ask(worker, "/v1/sessions", json!({"id": "A"}));
    assert_eq!((status, &session["holder"]), (201, &json!("worker")));
    let others = json!({"id": "B", "holder": "other"});
    assert_eq!(ask(worker, "/v1/sessions", others.clone()).0, 403);
    assert_eq!(ask(ops, "/v1/sessions", others).0, 201);
    assert_eq!(ask(worker, "/v1/sessions/B/end", json!({})).0, 403);
    let beat = json!({"run_id": "1", "ttl_ms": 60_000});
    let heartbeat = |holder| format!("/v1/holders/{holder}/heartbeat");
    assert_eq!(ask(worker, &heartbeat("other"), beat.clone()).0, 403);
    assert_eq!(ask(worker, &heartbeat("worker"), beat).0, 204);
    let stop = ask(
        worker,
        "/v1/holders/worker/end",
        json!({"reason": "shutdown"}),
    );
    assert_eq!(stop, (200, json!({"ended": 1})));
}
