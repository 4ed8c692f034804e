//! A program whose stream has passed something over.

use std::io::Write as _;
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::Example;
use super::program::Program;
use crate::fake::{Fake, reply};

/// The stream of a lease, with a gap each time that one is asked for.
fn hold(mut stream: TcpStream, gaps: &Mutex<Receiver<()>>, had_gap: &AtomicBool) {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
    let _ = write!(stream, "{head}retry: 1000\n\n");
    for () in gaps.lock().unwrap().iter() {
        had_gap.store(true, Ordering::SeqCst);
        let _ = stream.write_all(b"event: gap\ndata: {\"after\":1,\"next\":9}\n\n");
    }
}

#[test]
fn g11_a_program_that_was_told_of_a_gap_learns_which_of_its_sessions_are_gone() {
    for example in Example::all("a holder that was told of a gap") {
        let (gap, gaps) = mpsc::channel();
        let (gaps, had_gap) = (Mutex::new(gaps), AtomicBool::new(false));
        let fake = Fake::start(move |request, stream, _| match request.line.as_str() {
            "POST /v1/holders/worker/hold" => hold(stream, &gaps, &had_gap),
            "PUT /v1/holders/worker/sessions" => {
                let not_active = match had_gap.load(Ordering::SeqCst) {
                    true => r#"{"ended": 0, "not_active": ["A"]}"#,
                    false => r#"{"ended": 0, "not_active": []}"#,
                };
                reply(stream, "200 OK", not_active);
            }
            "POST /v1/sessions" => reply(stream, "201 Created", r#"{"incarnation": "1"}"#),
            _ => reply(stream, "200 OK", r#"{"ended": 1}"#),
        });
        let mut command = example.command(&fake.url, "worker", Duration::from_secs(5));
        let mut program = Program::spawn(command.args(["A", "B"]));
        program.wait_until_it_holds(&["A", "B"]);
        gap.send(()).unwrap();
        program.wait_for("session A ended: unseen");
        let (status, said) = program.stop(Signal::SIGTERM);
        assert_eq!(status.code(), Some(0), "{said:?}");

        let requests = fake.requests();
        let body = |line: &str| {
            let found = requests.iter().rfind(|request| request.line == line);
            found.map(|request| &request.body).expect("such a request")
        };
        let listed = body("PUT /v1/holders/worker/sessions");
        assert_eq!(listed["ids"], serde_json::json!(["A", "B"]));
        // It ends what is its own run's alone.
        let ended = body("POST /v1/holders/worker/end");
        assert!(ended["run_id"].is_string(), "{ended}");
        assert_eq!(ended["run_id"], listed["run_id"]);
    }
}
