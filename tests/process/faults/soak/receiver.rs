//! A receiver of webhooks that writes down what it takes, and fails while a certain file is there.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use crate::fake::{read, reply};

/// Starts one that appends each event to the file at `told`, a line each, and refuses while there is a
/// file at `failing`. Answers its URL. It is there until the test program ends.
pub(super) fn start(told: &Path, failing: &Path) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let file = OpenOptions::new().append(true).create(true).open(told);
    let (file, failing) = (Arc::new(Mutex::new(file.unwrap())), failing.to_owned());
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let (file, failing) = (Arc::clone(&file), failing.clone());
            thread::spawn(move || answer(stream, &file, &failing));
        }
    });
    url
}

fn answer(stream: TcpStream, file: &Mutex<File>, failing: &Path) {
    // None where the gateway was killed in the midst of it.
    let Some(request) = read(&stream) else {
        return;
    };
    if failing.exists() {
        return reply(stream, "503 Service Unavailable", "");
    }
    let mut lines = String::new();
    for event in request.body["events"].as_array().unwrap() {
        lines += &format!("{event}\n");
    }
    file.lock().unwrap().write_all(lines.as_bytes()).unwrap();
    reply(stream, "204 No Content", "");
}
