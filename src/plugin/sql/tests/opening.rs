//! The statement for `gateway_start`: what was there before is put in order.

use super::*;
use crate::event::{Deliver, InstanceId, Lifecycle};
use crate::session::SessionId;

/// As someone writes it who has ghosts from before.
const GHOSTS: &str = "UPDATE sessions SET status = 'ended', reason = 'crash', \
     ended_at = :timestamp WHERE status = 'active' AND id NOT IN (SELECT id FROM active)";

fn plugin(app: &App, statement: &str) -> SqlPlugin {
    let settings = SqlSettings::new(app.path());
    SqlPlugin::new(
        settings
            .with_statement(Hook::GatewayStart, statement)
            .unwrap(),
    )
}

/// The opening, with these sessions active.
fn opening(active: &[&str]) -> Deliver {
    let lifecycle = Lifecycle {
        hook: Hook::GatewayStart,
        reason: None,
        restart_expected_ms: None,
        active_sessions: active.len() as u64,
    };
    let event = Event::of_lifecycle(
        lifecycle,
        jiff::Timestamp::UNIX_EPOCH,
        InstanceId::generate(),
    );
    let ids = active.iter().map(|id| SessionId::new(*id).unwrap());
    Deliver::new([event], Deadline::after(Duration::from_secs(5))).with_active(ids.collect())
}

fn with_rows(ids: &[&str]) -> App {
    let app = App::new(TABLE);
    let connection = app.connect();
    for id in ids {
        let insert = "INSERT INTO sessions(id, incarnation, status) VALUES (?1, 'old', 'active')";
        connection.execute(insert, [id]).unwrap();
    }
    app
}

fn statuses(app: &App) -> Vec<(String, String)> {
    let sessions = app.sessions().into_iter();
    sessions.map(|(id, status, _)| (id, status)).collect()
}

fn row(id: &str, status: &str) -> (String, String) {
    (id.into(), status.into())
}

#[tokio::test]
async fn ghosts_from_before_are_ended_and_active_sessions_are_left_alone() {
    let app = with_rows(&["a", "b", "c"]);
    plugin(&app, GHOSTS)
        .deliver(&opening(&["b"]))
        .await
        .unwrap();
    let expected = [row("a", "ended"), row("b", "active"), row("c", "ended")];
    assert_eq!(statuses(&app), expected);
}

#[tokio::test]
async fn it_can_run_again_over_the_same_connection() {
    let app = with_rows(&["a", "b"]);
    let plugin = plugin(&app, GHOSTS);
    plugin.deliver(&opening(&["a", "b"])).await.unwrap();
    plugin.deliver(&opening(&["a"])).await.unwrap();
    assert_eq!(statuses(&app), [row("a", "active"), row("b", "ended")]);
}

#[tokio::test]
async fn a_table_of_the_same_name_is_neither_used_nor_changed() {
    let app = with_rows(&["a", "b"]);
    app.create("CREATE TABLE active (id TEXT); INSERT INTO active VALUES ('a')");
    plugin(&app, GHOSTS)
        .deliver(&opening(&["b"]))
        .await
        .unwrap();
    assert_eq!(statuses(&app), [row("a", "ended"), row("b", "active")]);
    let count = "SELECT count(*) FROM active";
    let count: i64 = app
        .connect()
        .query_row(count, [], |row| row.get(0))
        .unwrap();
    assert_eq!(count, 1);
}

#[tokio::test]
async fn one_that_fails_changes_nothing_and_can_be_tried_again() {
    let app = with_rows(&["a"]);
    let wrong = plugin(
        &app,
        "UPDATE sessions SET status = 'no' WHERE status = 'active'",
    );
    let delivery = opening(&[]);
    wrong.deliver(&delivery).await.unwrap();
    let verdicts = delivery.acks.close();
    assert!(
        matches!(verdicts[..], [Verdict::Rejected(_)]),
        "{verdicts:?}"
    );
    assert_eq!(statuses(&app), [row("a", "active")]);

    let missing = plugin(&app, "UPDATE nowhere SET status = 'ended'");
    let error = missing.deliver(&opening(&[])).await.unwrap_err();
    assert!(error.is::<Down>(), "{error:#}");
}
