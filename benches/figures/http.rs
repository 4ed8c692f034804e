//! P5: requests per second.

use std::net::SocketAddr;
use std::time::Duration;

use crate::client::{self, load};
use crate::common::{is_full, is_smoke_test};
use crate::gateway::Gateway;
use crate::peer;
use crate::stop::LOG;
use crate::table::{count, row};

/// How many connections stay open.
const CONNECTIONS: [usize; 2] = [64, 1024];

/// Files for the connections, and for the rest.
const FILES: u64 = 4096;

/// How many requests of each kind.
fn requests() -> usize {
    match (is_smoke_test(), is_full()) {
        (true, _) => 2_000,
        (false, false) => 50_000,
        (false, true) => 400_000,
    }
}

/// The name of a request, the status of its answer, and how it is made.
type Kind = (&'static str, u16, fn(usize) -> Vec<u8>);

const KINDS: [Kind; 4] = [
    ("start, recorded", 201, client::start),
    ("`touch`", 204, client::touch),
    ("GET", 200, client::show),
    ("end, recorded", 200, client::end),
];

pub(crate) fn measure() {
    raise_file_limit();
    let requests = requests();
    for connections in CONNECTIONS {
        let directory = tempfile::tempdir().expect("a directory");
        let gateway = Gateway::start(directory.path(), LOG);
        let ours = ask_all(gateway.address, connections, requests);
        gateway.kill();
        let (bare, address) = peer::server();
        let limits = ask_all(address, connections, requests);
        drop(bare);
        for ((name, ..), took) in KINDS.iter().zip(ours.into_iter().zip(limits)) {
            let rate = |took: Duration| requests as f64 / took.as_secs_f64();
            let figure = format!("{name}, {} connections", count(connections));
            row("P5", &figure, [rate(took.0), rate(took.1)], "/s", "0.8");
        }
    }
}

/// How long each kind takes.
fn ask_all(address: SocketAddr, connections: usize, requests: usize) -> Vec<Duration> {
    let kinds = KINDS.into_iter();
    kinds
        .map(|(_, status, request)| load(address, connections, requests, status, request))
        .collect()
}

/// Lets this process, and those that it starts, have so many files open.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= FILES) {
        return;
    }
    let raised = Rlimit {
        current: Some(FILES),
        ..limit
    };
    setrlimit(Resource::Nofile, raised).expect("so many files may be open");
}
