//! The example `chat`, with real WebSocket clients.

use std::net::TcpStream;
use std::path::Path;

use nix::sys::signal::Signal;
use serde_json::Value;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Message, WebSocket};

use super::{Example, PATIENCE, ends_by, events, wait_for_events};

/// The chat with its state in `dir`, and its address.
fn start(dir: &Path) -> (Example, String) {
    let mut chat = Example::start("chat", &["127.0.0.1:0".as_ref(), dir.as_os_str()]);
    let address = chat.wait_for_line("listening on ");
    (chat, address)
}

/// Somebody in the chat.
struct Member {
    socket: WebSocket<TcpStream>,
}

impl Member {
    fn join(address: &str, name: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let url = format!("ws://{address}/chat/{name}");
        let (socket, answer) = tungstenite::client(url, stream).expect("it is let in");
        assert_eq!(answer.status(), 101);
        let mut member = Self { socket };
        member.wait_for(&format!("{name} joins"));
        member
    }

    fn say(&mut self, line: &str) {
        self.socket.send(Message::text(line)).unwrap();
    }

    /// Waits for a line.
    fn wait_for(&mut self, line: &str) {
        loop {
            let message = self.socket.read().expect("it is connected");
            if message == Message::text(line) {
                return;
            }
        }
    }

    /// Waits until the chat closes the connection, and answers why it says that it does.
    fn wait_for_close(&mut self) -> (CloseCode, String) {
        loop {
            if let Message::Close(frame) = self.socket.read().expect("it says why") {
                let frame = frame.expect("it says why");
                return (frame.code, frame.reason.to_string());
            }
        }
    }
}

fn key_and_reason(end: &Value) -> String {
    let key = end["session"]["key"].as_str().unwrap();
    format!("{key} {}", end["reason"].as_str().unwrap())
}

fn count(events: &[Value], hook: &str) -> usize {
    events.iter().filter(|event| event["type"] == hook).count()
}

#[test]
fn every_session_of_the_chat_has_its_end_when_it_is_stopped_with_ctrl_c() {
    let dir = tempfile::tempdir().unwrap();
    let audit = dir.path().join("audit.jsonl");
    let (chat, address) = start(dir.path());
    let ready = ureq::get(format!("http://{address}/readyz")).call();
    assert_eq!(ready.unwrap().status(), 200);
    // What is no WebSocket makes no session.
    let refused = ureq::get(format!("http://{address}/chat/curl")).call();
    assert!(
        matches!(refused, Err(ureq::Error::StatusCode(400))),
        "{refused:?}"
    );

    let mut ada = Member::join(&address, "ada");
    let mut bob = Member::join(&address, "bob");
    let mut eve = Member::join(&address, "eve");
    let mallory = Member::join(&address, "mallory");
    eve.say("hello");
    ada.wait_for("eve: hello");
    bob.wait_for("eve: hello");

    // With a goodbye, without one, and since somebody else has the name.
    eve.socket.close(None).unwrap();
    drop(mallory);
    let mut other_bob = Member::join(&address, "bob");
    assert_eq!(bob.wait_for_close(), (CloseCode::Away, "replaced".into()));
    wait_for_events(&audit, |events| count(events, "session_end") == 3);

    let stop = std::thread::spawn(move || chat.stop(Signal::SIGINT));
    for member in [&mut ada, &mut other_bob] {
        assert_eq!(
            member.wait_for_close(),
            (CloseCode::Away, "shutdown".into())
        );
    }
    let (status, printed) = stop.join().unwrap();
    assert_eq!(status.code(), Some(0), "{printed:?}");
    let events = events(&audit);
    let expected = [
        "chat:ada shutdown",
        "chat:bob replaced",
        "chat:bob shutdown",
        "chat:eve completed",
        "chat:mallory disconnected",
    ];
    assert_eq!(ends_by(&events, key_and_reason), expected);
    let of_eve = events.iter().find(|event| event["reason"] == "completed");
    assert_eq!(of_eve.unwrap()["message_count"], 1);
    let report = std::fs::read_to_string(dir.path().join("last-shutdown.json")).unwrap();
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["outcome"], "clean", "{report:#}");
    assert_eq!(report["warnings"], serde_json::json!([]), "{report:#}");
}

#[test]
fn g7_every_session_of_the_chat_has_its_end_after_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let audit = dir.path().join("audit.jsonl");
    let (chat, address) = start(dir.path());
    let names = ["ada", "bob", "eve", "ida", "max"];
    let mut members = names.map(|name| Member::join(&address, name));
    let (status, _) = chat.stop(Signal::SIGKILL);
    assert_eq!(status.code(), None);
    for member in &mut members {
        // The connection is gone, without a word.
        while member.socket.read().is_ok() {}
    }
    assert_eq!(count(&events(&audit), "session_end"), 0);

    let (chat, address) = start(dir.path());
    let crashed = |events: &[Value]| events.iter().filter(|it| it["reason"] == "crash").count();
    wait_for_events(&audit, |events| crashed(events) == names.len());
    // Whoever comes back has another session.
    let mut ada = Member::join(&address, "ada");
    ada.say("again");
    ada.wait_for("ada: again");
    let (status, printed) = chat.stop(Signal::SIGTERM);
    assert_eq!(status.code(), Some(0), "{printed:?}");
    let mut expected: Vec<_> = names.map(|name| format!("chat:{name} crash")).into();
    expected.push("chat:ada shutdown".into());
    expected.sort();
    assert_eq!(ends_by(&events(&audit), key_and_reason), expected);
}
