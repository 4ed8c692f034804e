//! Receivers that fail, refuse, stall, are absent or are others than they should be.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use session_supervisor::{PluginState, PluginStatus, WebhookBody};

use super::{SESSIONS, policy, settings, start, start_with, wrong_once};
use crate::receiver::{Address, Answer, Receiver, Request};

/// What a receiver can do instead of taking an event.
fn failures() -> Vec<(&'static str, Answer)> {
    vec![
        ("500", Answer::Status(500)),
        ("503", Answer::Status(503)),
        ("408", Answer::Status(408)),
        ("429", Answer::Status(429)),
        ("404", Answer::Status(404)),
        ("422", Answer::Status(422)),
        (
            "redirect",
            Answer::Whole(
                "HTTP/1.1 307 \r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n".into(),
            ),
        ),
        ("closed before the answer", Answer::Torn("")),
        (
            "closed in the headers",
            Answer::Torn("HTTP/1.1 200 OK\r\ncontent-len"),
        ),
        ("no HTTP", Answer::Torn("220 mail.example.org ESMTP\r\n")),
        ("stalled", Answer::Never),
        ("dripping headers", Answer::Drip("HTTP/1.1 200 OK\r\nx-")),
        (
            "failed, dripping body",
            Answer::Drip("HTTP/1.1 500 \r\ncontent-length: 1000000\r\n\r\n"),
        ),
        (
            "failed, closed in the body",
            Answer::Torn("HTTP/1.1 500 \r\ncontent-length: 9\r\n\r\nno"),
        ),
    ]
}

#[tokio::test]
async fn g6_what_a_receiver_did_not_take_is_sent_again_under_the_same_id() {
    for (name, failure) in failures() {
        let receiver = wrong_once(failure);
        let running = start(receiver.address()).await;
        let ids = running.live(SESSIONS).await;
        let status = running.settled().await;
        assert_eq!(status.dead, 0, "{name}");
        let mut taken = receiver.taken();
        taken.sort();
        assert!(taken.iter().eq(&ids), "{name}: {taken:?}");
        let mut sent = BTreeMap::<_, Vec<_>>::new();
        for mut request in receiver.requests() {
            assert_eq!(
                request.header("webhook-id"),
                request.body["event_id"],
                "{name}"
            );
            // All that may differ from one attempt to the next.
            for field in ["attempt", "remaining_ms"] {
                request.body[field].take();
            }
            let id = request.event_ids().remove(0);
            sent.entry(id).or_default().push(request.body);
        }
        assert!(sent.keys().eq(&ids), "{name}: {sent:?}");
        for bodies in sent.values() {
            assert!(bodies.len() > 1, "{name}: {bodies:?}");
            assert!(
                bodies.iter().all(|body| *body == bodies[0]),
                "{name}: {bodies:?}"
            );
        }
        running.stop().await;
    }
}

#[tokio::test]
async fn the_status_decides_whatever_becomes_of_the_body() {
    for (name, answer) in [
        (
            "long",
            Answer::Whole(format!(
                "HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n{}",
                "x".repeat(100_000)
            )),
        ),
        (
            "endless",
            Answer::Drip("HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n"),
        ),
        (
            "torn",
            Answer::Torn("HTTP/1.1 202 Accepted\r\ncontent-length: 100\r\n\r\nhal"),
        ),
        (
            "without a length",
            Answer::Torn("HTTP/1.1 201 Created\r\n\r\nfine"),
        ),
        (
            "chunked and torn",
            Answer::Torn("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nff\r\nx"),
        ),
    ] {
        let receiver = Receiver::start(move |_| answer.clone());
        let running = start(receiver.address()).await;
        let ids = running.live(SESSIONS).await;
        running.settled().await;
        assert_eq!(receiver.requests().len(), ids.len(), "{name}");
        assert_eq!(receiver.event_ids(), ids, "{name}");
        running.stop().await;
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let redirect =
        "HTTP/1.1 307 Temporary Redirect\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n";
    let receiver = Receiver::start(move |_| Answer::Whole(redirect.into()));
    let running = start(receiver.address()).await;
    running.live(1).await;
    let status = running.until(|status| status.dead == 2).await;
    let error = status.last_error.unwrap();
    let expected = "307 Temporary Redirect, which is not followed";
    assert!(error.ends_with(expected), "{error}");
    let requests = receiver.requests();
    assert!(requests.iter().all(|it| !it.line.contains("elsewhere")));
}

#[tokio::test]
async fn an_event_that_is_rejected_costs_no_other_session_anything() {
    let receiver = Receiver::start(|request| match request.body["session"]["id"] == "s1" {
        true => Answer::Whole(
            "HTTP/1.1 422 Unprocessable Entity\r\ncontent-length: 12\r\n\r\nno customer\n".into(),
        ),
        false => Answer::Status(204),
    });
    let running = start(receiver.address()).await;
    let ids = running.live(SESSIONS).await;
    let status = running
        .until(|status| status.owed == 0 && status.dead == 2)
        .await;
    assert_eq!(status.state, PluginState::Healthy);
    let letters = running.supervisor.dead_letters("crm", 0, 10).await.unwrap();
    let error = format!("{:?}", letters[0].error);
    assert!(
        error.contains("422 Unprocessable Entity: no customer"),
        "{error}"
    );
    assert!(
        error.contains("https://127.0.0.1:") && !error.contains("hooks"),
        "{error}"
    );
    // Its end waits for its start, and dies with it.
    let sent = receiver.requests();
    let about_it: Vec<_> = sent
        .iter()
        .filter(|it| it.body["session"]["id"] == "s1")
        .collect();
    assert_eq!(about_it.len(), 3);
    assert!(about_it.iter().all(|it| it.body["type"] == "session_start"));
    assert_eq!(receiver.taken().len(), ids.len() - 2);
}

#[tokio::test]
async fn of_a_rejected_batch_only_what_is_rejected_alone_is_lost_to_the_receiver() {
    let is_about_s1 = |request: &Request| {
        request
            .events()
            .iter()
            .any(|event| event["session"]["id"] == "s1")
    };
    let receiver = Receiver::start(move |request| match is_about_s1(request) {
        true => Answer::Status(400),
        false => Answer::Status(204),
    });
    let mut policy = policy();
    policy.max_batch = 100;
    let settings = settings(receiver.address()).with_body(WebhookBody::Batch);
    let running = start_with(settings, policy).await;
    let ids = running.live(20).await;
    running
        .until(|status| status.owed == 0 && status.dead == 2)
        .await;
    assert_eq!(BTreeSet::from_iter(receiver.taken()).len(), ids.len() - 2);
    assert!(
        receiver
            .requests()
            .iter()
            .all(|it| it.body["type"] == "session_batch")
    );
}

#[tokio::test]
async fn a_receiver_is_left_alone_as_long_as_it_asks() {
    let busy = "HTTP/1.1 429 \r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n";
    let first = Mutex::new(true);
    let receiver = Receiver::start(move |_| match std::mem::take(&mut *first.lock().unwrap()) {
        true => Answer::Whole(busy.into()),
        false => Answer::Status(204),
    });
    let mut policy = policy();
    policy.max_in_flight = 1;
    let running = start_with(settings(receiver.address()), policy).await;
    let ids = running.live(SESSIONS).await;
    running.settled().await;
    let requests = receiver.requests();
    assert_eq!(requests.len(), ids.len() + 1);
    let waited = requests[1].at - requests[0].at;
    assert!(waited >= Duration::from_secs(1), "{waited:?}");
}

#[tokio::test]
async fn a_receiver_that_is_gone_gets_nothing_until_it_is_resumed() {
    let gone = Mutex::new(true);
    let receiver = Receiver::start(move |_| match std::mem::take(&mut *gone.lock().unwrap()) {
        true => Answer::Status(410),
        false => Answer::Status(204),
    });
    let mut policy = policy();
    policy.max_in_flight = 1;
    let running = start_with(settings(receiver.address()), policy).await;
    let ids = running.live(SESSIONS).await;
    let is_disabled = |status: &PluginStatus| status.state == PluginState::Disabled;
    let status = running.until(is_disabled).await;
    assert_eq!(status.owed, ids.len() as u64);
    let error = status.last_error.unwrap();
    assert!(error.contains("the receiver answered 410 Gone"), "{error}");
    assert_eq!(receiver.requests().len(), 1);

    running.supervisor.resume_plugin("crm").await.unwrap();
    running.settled().await;
    assert!(BTreeSet::from_iter(receiver.taken()) == ids);
}

#[tokio::test]
async fn a_receiver_that_is_absent_is_waited_for() {
    let address = Address::new();
    let running = start(&address).await;
    let ids = running.live(SESSIONS).await;
    let status = running.until(|status| status.last_error.is_some()).await;
    let error = status.last_error.unwrap();
    assert!(
        error.contains("no connection: Connection refused"),
        "{error}"
    );
    let receiver = address.listen(|_| Answer::Status(204));
    running.settled().await;
    assert_eq!(receiver.taken().len(), ids.len());
    assert_eq!(receiver.event_ids(), ids);
}

#[tokio::test]
async fn a_receiver_that_proves_to_be_another_is_told_nothing() {
    let receiver = Receiver::start(|_| Answer::Status(204));
    let other = Address::new();
    let settings = settings(receiver.address());
    let wrong = settings
        .clone()
        .with_authorities(other.authority().as_bytes());
    let running = start_with(wrong.unwrap(), policy()).await;
    running.live(1).await;
    let status = running.until(|status| status.last_error.is_some()).await;
    let error = status.last_error.unwrap();
    assert!(
        error.contains("no connection: invalid peer certificate"),
        "{error}"
    );
    assert_eq!((status.owed, status.dead), (2, 0));
    assert_eq!(receiver.requests().len(), 0);
}

#[tokio::test]
async fn what_a_receiver_repeats_of_the_headers_is_not_shown() {
    let receiver = Receiver::start(|request| {
        let heard = format!("who is {}?", request.header("authorization"));
        let length = heard.len();
        Answer::Whole(format!(
            "HTTP/1.1 401 Unauthorized\r\ncontent-length: {length}\r\n\r\n{heard}"
        ))
    });
    let settings = settings(receiver.address());
    let settings = settings
        .with_headers("Authorization: Bearer s3cret-0123")
        .unwrap();
    let running = start_with(settings, policy()).await;
    running.live(1).await;
    let status = running.until(|status| status.last_error.is_some()).await;
    let error = status.last_error.unwrap();
    assert!(
        error.ends_with("401 Unauthorized: who is Bearer …?"),
        "{error}"
    );
}
