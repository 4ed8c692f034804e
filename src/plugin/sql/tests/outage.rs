//! Databases that can't be used at present, and deliveries that are over.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::time::Instant;

use super::*;

#[tokio::test]
async fn a_locked_database_is_down_until_it_is_free() {
    let app = App::new(TABLE);
    let plugin = app.plugin(START, END);
    let events = [sample::start("a")];
    let other = app.connect();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();

    // Twice: with the first connection, and with one that was open before.
    for _ in 0..2 {
        let began = Instant::now();
        let late = Deliver::new(&events[..], Deadline::after(Duration::from_millis(200)));
        let problem = assert_down(plugin.deliver(&late).await);
        assert!(problem.contains("database is locked"), "{problem}");
        let took = began.elapsed();
        assert!(took < Duration::from_secs(2), "{took:?}");
        // Where the bus is the first to find that the time is over.
        let remark = late.acks.last_remark();
        assert_eq!(
            remark.as_deref(),
            Some("the database is locked by another connection")
        );
        assert!(late.acks.close().is_empty());
    }

    other.execute_batch("COMMIT").unwrap();
    plugin.deliver(&delivery(&events)).await.unwrap();
    assert_eq!(app.ids(), ["a"]);
}

#[tokio::test]
async fn a_lock_that_goes_away_in_time_is_waited_for() {
    let app = App::new(TABLE);
    let other = app.connect();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let release = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        other.execute_batch("COMMIT").unwrap();
    });
    let plugin = app.plugin(START, END);
    plugin
        .deliver(&delivery(&[sample::start("a")]))
        .await
        .unwrap();
    release.join().unwrap();
    assert_eq!(app.ids(), ["a"]);
}

#[tokio::test]
async fn a_missing_file_is_down_and_never_made() {
    let app = App::new("");
    fs::remove_file(app.path()).ok();
    let plugin = app.plugin(START, END);
    let delivery = delivery(&[sample::start("a")]);
    let problem = assert_down(plugin.deliver(&delivery).await);
    assert!(problem.contains("app.db`: No such file"), "{problem}");
    assert!(!app.path().exists());

    app.create(TABLE);
    plugin.deliver(&delivery).await.unwrap();
    assert_eq!(app.ids(), ["a"]);
}

#[tokio::test]
async fn a_database_without_the_tables_is_down_and_blames_no_event() {
    let app = App::new("CREATE TABLE other (a)");
    let plugin = app.plugin(START, END);
    let events = [sample::start("a")];
    let early = delivery(&events);
    let problem = assert_down(plugin.deliver(&early).await);
    assert!(problem.contains("no such table: sessions"), "{problem}");
    assert!(early.acks.close().is_empty());

    app.create(TABLE);
    plugin.deliver(&delivery(&events)).await.unwrap();

    // The same when the table goes away under a statement that was prepared before.
    app.create("ALTER TABLE sessions RENAME TO old");
    let late = delivery(&[sample::start("b")]);
    let problem = assert_down(plugin.deliver(&late).await);
    assert!(problem.contains("no such table: sessions"), "{problem}");
    assert!(late.acks.close().is_empty());
}

#[tokio::test]
async fn a_read_only_or_broken_database_is_down() {
    let app = App::new(TABLE);
    let plugin = app.plugin(START, END);
    // A write version that SQLite does not know yet makes the file read-only, for root too.
    let file = fs::File::options().write(true).open(app.path()).unwrap();
    file.write_all_at(&[3], 18).unwrap();
    let delivery = delivery(&[sample::start("a")]);
    let problem = assert_down(plugin.deliver(&delivery).await);
    assert!(problem.contains("readonly"), "{problem}");

    fs::write(
        app.path(),
        "no database, but longer than nothing".repeat(100),
    )
    .unwrap();
    let problem = assert_down(plugin.deliver(&delivery).await);
    assert!(problem.contains("not a database"), "{problem}");
    assert!(delivery.acks.close().is_empty());
}

#[tokio::test]
async fn a_replaced_file_is_opened_anew() {
    let app = App::new(TABLE);
    let plugin = app.plugin(START, END);
    plugin
        .deliver(&delivery(&[sample::start("a")]))
        .await
        .unwrap();
    fs::rename(app.path(), app.dir.path().join("old.db")).unwrap();
    app.create(TABLE);
    plugin
        .deliver(&delivery(&[sample::start("b")]))
        .await
        .unwrap();
    assert_eq!(app.ids(), ["b"]);
}

#[tokio::test]
async fn a_running_statement_stops_at_the_deadline() {
    let app = App::new(TABLE);
    let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) \
         UPDATE sessions SET reason = (SELECT count(*) FROM n) WHERE id = :session_id";
    let plugin = app.plugin(START, endless);
    let a = sample::start("a");
    let began = Instant::now();
    let events = [a.clone(), sample::end_of(&a)];
    let delivery = Deliver::new(&events[..], Deadline::after(Duration::from_millis(200)));
    assert_out_of_time(plugin.deliver(&delivery).await);
    let took = began.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(delivery.acks.close().is_empty());
    assert!(app.ids().is_empty());
}

#[tokio::test]
async fn nothing_is_committed_once_the_delivery_is_over() {
    let app = App::new(TABLE);
    let plugin = app.plugin(START, END);
    let late = delivery(&[sample::start("a")]);
    late.deadline.cancel();
    // Too short for SQLite's progress handler: what stops it is the look before the commit.
    assert_out_of_time(plugin.deliver(&late).await);
    assert!(late.acks.close().is_empty());
    assert!(app.ids().is_empty());
}
