//! What nobody should send, at random: the gateway answers all of it, as it is described.

mod damage;
mod plan;

use std::io::Write as _;
use std::net;

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};
use session_supervisor::Shutdown;

use self::damage::{Damage, damage};
use self::plan::{Plan, plan};
use super::client::{Response, TestGateway, read_answer};
use super::description::Description;

/// Sends `bytes` and reads what comes, which must end within the patience of the client.
fn exchange(gateway: &TestGateway, bytes: &[u8], is_all: bool) -> String {
    let mut connection = gateway.connect();
    // A refusal may come, and the connection be closed, before all is sent.
    let _ = connection.write_all(bytes);
    if is_all {
        let _ = connection.shutdown(net::Shutdown::Write);
    }
    let mut answer = Vec::new();
    let end = read_answer(&mut connection, &mut answer);
    let is_hang = |error: &std::io::Error| {
        use std::io::ErrorKind::{TimedOut, WouldBlock};
        matches!(error.kind(), TimedOut | WouldBlock)
    };
    assert!(!end.as_ref().is_err_and(is_hang), "no end of the answer");
    String::from_utf8(answer).expect("an answer in UTF-8")
}

/// All sessions that the gateway tells of, but those of holders: they end when a lease does.
fn sessions(gateway: &TestGateway) -> [Value; 2] {
    ["active", "ended"].map(|state| {
        let list = gateway.get(&format!("/v1/sessions?state={state}&limit=1000"));
        assert_eq!(list.status, 200, "{list:?}");
        let mut list = list.json();
        let sessions = list["sessions"].as_array_mut().expect("a list");
        sessions.retain(|session| session["holder"].is_null());
        list
    })
}

fn with_gateway(test: impl FnOnce(&TestGateway)) {
    actix_web::rt::System::new().block_on(async {
        let gateway = TestGateway::start().await;
        test(&gateway);
        gateway.stop().await;
        // Nothing of it is left to the next of many.
        let stopped = gateway.supervisor.shutdown(Shutdown::now()).await;
        stopped.expect("a report");
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_asked_is_answered_as_described(plans in vec(plan(), 1..24)) {
        with_gateway(|gateway| ask_all(gateway, plans));
    }
}

fn ask_all(gateway: &TestGateway, plans: Vec<Plan>) {
    let description = Description::of(gateway);
    gateway.start_session("a");
    let mut before = sessions(gateway);
    for plan in plans {
        let sent = plan.request(&description);
        let shown = String::from_utf8_lossy(&sent.bytes).into_owned();
        let answer = exchange(gateway, &sent.bytes, false);
        let answer = answer.trim_start_matches("HTTP/1.1 100 Continue\r\n\r\n");
        let answer = Response::parse(answer);
        let found = description.check_answer(&sent.method, &sent.target, &answer);
        assert!(found.is_ok(), "{found:?}\n{answer:?}\n{shown}");
        assert!(answer.status < 500, "{answer:?}\n{shown}");
        if answer.status == 202 {
            // It stops, as it was told.
            return;
        }
        let after = sessions(gateway);
        if answer.status >= 400 {
            assert_eq!(before, after, "{answer:?}\n{shown}");
        } else {
            let allowed = description.check_request(&sent.method, &sent.target, &sent.body);
            assert_eq!(allowed, Ok(()), "{answer:?}\n{shown}");
        }
        before = after;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn what_is_damaged_on_its_way_is_refused_or_dropped(
        sent in vec((plan(), vec(damage(), 1..5)), 1..16)
    ) {
        with_gateway(|gateway| send_damaged(gateway, sent));
    }
}

fn send_damaged(gateway: &TestGateway, sent: Vec<(Plan, Vec<Damage>)>) {
    let description = Description::of(gateway);
    let problem = json!({"$ref": "#/components/schemas/Problem"});
    for (plan, damages) in sent {
        let mut bytes = plan.request(&description).bytes;
        for damage in damages {
            damage.apply(&mut bytes);
        }
        let shown = String::from_utf8_lossy(&bytes).into_owned();
        let answers = exchange(gateway, &bytes, true);
        if answers.contains("HTTP/1.1 202") {
            return;
        }
        assert!(!answers.contains("HTTP/1.1 5"), "{answers}\n{shown}");
        if answers.starts_with("HTTP/1.1 4") && !bytes.starts_with(b"HEAD") {
            let (_, body) = answers.split_once("\r\n\r\n").expect("a whole head");
            let mut documents = serde_json::Deserializer::from_str(body).into_iter::<Value>();
            let document = documents.next().expect("a document").expect("JSON");
            assert!(
                description.allows(&problem, &document),
                "{document}\n{shown}"
            );
        }
        let health = gateway.get("/healthz");
        assert_eq!(health.status, 200, "{health:?}\n{shown}");
    }
}
