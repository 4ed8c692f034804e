//! A flood: more connections, requests and sessions than the gateway takes.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::gateway::Gateway;

const PATIENCE: Duration = Duration::from_secs(60);
const CONFIG: &str = "state_dir = \"state\"\n[sessions]\nmax_active = 50\n\
    [[plugin]]\nname = \"audit\"\nkind = \"log\"\npath = \"audit.jsonl\"\n";

/// Files that the gateway may open; it takes half as many connections.
const FILES: usize = 256;
const CONNECTIONS: usize = 400;
const REQUESTS: usize = 10;

/// Floods after the first, which fills what the allocator keeps.
const FURTHER_FLOODS: usize = 4;

/// The memory that they may take for good: less than the 128 MiB that they send.
const MAX_GROWTH_KIB: usize = 96 * 1024;

/// All requests of a connection at once, each of some size.
fn requests(connection: usize) -> String {
    let metadata = "x".repeat(8 * 1024);
    let mut text = String::new();
    for n in 0..REQUESTS {
        let body = format!("{{\"id\":\"{connection}-{n}\",\"metadata\":{{\"m\":\"{metadata}\"}}}}");
        let last = if n + 1 == REQUESTS {
            "close"
        } else {
            "keep-alive"
        };
        let length = body.len();
        text += &format!(
            "POST /v1/sessions HTTP/1.1\r\nHost: localhost\r\nConnection: {last}\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        );
    }
    text
}

/// Sends the requests over one connection and answers the statuses.
fn flood(gateway: &str, connection: usize) -> Vec<u16> {
    let requests = requests(connection);
    let mut stream = TcpStream::connect(gateway).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut reader = stream.try_clone().unwrap();
    let answers = thread::spawn(move || {
        let mut answers = String::new();
        reader.read_to_string(&mut answers).unwrap();
        answers
    });
    stream.write_all(requests.as_bytes()).unwrap();
    let answers = answers.join().unwrap();
    let statuses = answers.split("HTTP/1.1 ").skip(1);
    statuses
        .map(|answer| answer[..3].parse().unwrap())
        .collect()
}

/// Floods from all sides at once and counts the answers by status.
fn flood_from_all_sides(gateway: &Gateway) -> BTreeMap<u16, usize> {
    let connections: Vec<_> = (0..CONNECTIONS)
        .map(|connection| {
            let address = gateway.url().strip_prefix("http://").unwrap().to_owned();
            thread::spawn(move || flood(&address, connection))
        })
        .collect();
    let mut answers = BTreeMap::new();
    for connection in connections {
        for status in connection.join().unwrap() {
            *answers.entry(status).or_insert(0) += 1;
        }
    }
    answers
}

#[test]
fn a_flood_is_answered_with_429_or_503_and_memory_stays_bounded() {
    let gateway = Gateway::start_with_files(tempfile::tempdir().unwrap(), CONFIG, FILES);
    gateway.begin("first");

    let first = flood_from_all_sides(&gateway);
    assert_eq!(first.get(&201), Some(&49), "{first:?}");
    let before = gateway.memory_kib();
    let rest = (0..FURTHER_FLOODS).map(|_| flood_from_all_sides(&gateway));
    for answers in std::iter::once(first).chain(rest) {
        let expected = [200, 201, 429, 503];
        let is_expected = answers.keys().all(|status| expected.contains(status));
        assert!(is_expected, "{answers:?}");
        assert_eq!(answers.values().sum::<usize>(), CONNECTIONS * REQUESTS);
    }
    let growth = gateway.memory_kib().saturating_sub(before);
    assert!(
        growth < MAX_GROWTH_KIB,
        "{growth} KiB more than {before} KiB"
    );

    assert_eq!(gateway.get("/readyz").0, 200);
    let ended = gateway.stop(Signal::SIGTERM);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
    assert_eq!(ended.report()["drain"]["sessions"], 50);
    // With no file left to open, it would have waited for one.
    assert!(!ended.log.contains("Too many open files"), "{}", ended.log);
}
