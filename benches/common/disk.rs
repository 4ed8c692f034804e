//! What the disk gives, in the run that measures something on it.

use std::fmt;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

/// How often the disk is asked: enough for a 99th percentile.
const SYNCS: usize = 300;

/// About as much as a small transaction writes.
const BLOCK: [u8; 4096] = [b'x'; 4096];

/// How long something took, of many times.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Percentiles {
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
}

impl Percentiles {
    /// Those of `durations`.
    ///
    /// # Panics
    ///
    /// When there are none.
    pub(crate) fn of(mut durations: Vec<Duration>) -> Self {
        durations.sort_unstable();
        let at = |percent: usize| durations[(durations.len() - 1) * percent / 100];
        Self {
            p50: at(50),
            p99: at(99),
        }
    }
}

impl fmt::Display for Percentiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = |duration: Duration| duration.as_secs_f64() * 1000.0;
        let (p50, p99) = (millis(self.p50), millis(self.p99));
        write!(f, "p50 {p50:.2} ms, p99 {p99:.2} ms")
    }
}

/// How long an append of 4 KiB and its `fdatasync` take in `directory`.
pub(crate) fn fdatasync(directory: &Path) -> Percentiles {
    let mut file = File::create(directory.join("fdatasync")).expect("a file");
    let mut sync = || {
        let began = Instant::now();
        file.write_all(&BLOCK)
            .and_then(|()| file.sync_data())
            .expect("it is written");
        began.elapsed()
    };
    Percentiles::of((0..SYNCS).map(|_| sync()).collect())
}

/// Says how the disk is that the figures to come depend on. What others have written before, as a compiler
/// has, is on it by then: otherwise the first to sync would wait for all of that.
pub(crate) fn print_fdatasync() {
    nix::unistd::sync();
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().parent().unwrap_or(directory.path());
    println!(
        "fdatasync in {}: {}",
        path.display(),
        fdatasync(directory.path())
    );
}
