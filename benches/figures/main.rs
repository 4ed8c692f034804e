//! Figures of whole processes, and others that have no place in a benchmark that repeats itself: a row of a
//! Markdown table for each, beside its limit of the same run.
//!
//! ```sh
//! cargo bench --locked --bench figures              # small, in minutes
//! BENCH=full cargo bench --locked --bench figures   # up to 1,000,000 sessions
//! cargo bench --locked --bench figures -- P3 P7     # some of them
//! ```
//!
//! | | figure | its limit |
//! |---|---|---|
//! | P2 | the drain of a process with one `log` plugin | bare `rusqlite` that writes the same rows in the same transactions |
//! | P3 | from the signal to the exit, with a plugin that does well and with one that hangs | what is promised: the cap, and 50 ms |
//! | P4 | how long starts and ends wait that come at 10,000 a second, 99th percentile | 5 ms, and two of `fdatasync` |
//! | P5 | requests per second over connections that stay open | the same requests to handlers with nothing behind them, or one row |
//! | P6 | resident memory with all sessions active | a process that has them in a map |
//! | P7 | the start after SIGKILL, until it is ready; what its memory grows by while it delivers | bare `rusqlite` that ends them with one statement; what is promised |
//! | P8 | the drain into a table that is keyed by a text id | bare `rusqlite` with one prepared statement |
//!
//! The gateway is the binary, with its defaults, in a directory of its own in the temporary directory.

mod client;
#[path = "../common/mod.rs"]
mod common;
mod crash;
mod gateway;
mod http;
mod latency;
mod peer;
mod sql;
mod stop;
mod table;

use std::env;

/// Figures, and what measures them.
type Measured = (&'static [&'static str], fn());

const FIGURES: [Measured; 5] = [
    (&["P2", "P3"], stop::measure),
    (&["P4"], latency::measure),
    (&["P5"], http::measure),
    (&["P6", "P7"], crash::measure),
    (&["P8"], sql::measure),
];

fn main() {
    if peer::has_role() {
        return;
    }
    // Cargo's own begin with a dash.
    let asked: Vec<_> = env::args()
        .skip(1)
        .filter(|it| !it.starts_with('-'))
        .collect();
    table::begin();
    for (names, measure) in FIGURES {
        let is_asked = |name: &&str| asked.iter().any(|it| it == name);
        if asked.is_empty() || names.iter().any(is_asked) {
            measure();
        }
    }
    common::disk::print_fdatasync();
}
