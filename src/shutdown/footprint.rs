//! How long the system takes to take the process apart once it has exited: nobody sees it gone before.

use std::fs;
use std::time::Duration;

/// How much memory the system lets go of in a millisecond: 100 MiB took it 17 ms where it had little else
/// to do, and 4 KiB a page.
const KIB_PER_MS: u64 = 6 * 1024;

/// What the memory that this process has now takes. Nothing where that can't be told.
pub(super) fn time_to_let_go() -> Duration {
    // It is no file, and never waits for a disk.
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    Duration::from_millis(resident_kib(&status).unwrap_or(0) / KIB_PER_MS)
}

fn resident_kib(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resident_memory_is_found() {
        let status = "Name:\tsession\nVmHWM:\t  900 kB\nVmRSS:\t  61440 kB\nRssAnon:\t  5 kB\n";
        assert_eq!(resident_kib(status), Some(61_440));
        assert_eq!(resident_kib("Name:\tsession\n"), None);
        let status = fs::read_to_string("/proc/self/status");
        assert!(!cfg!(target_os = "linux") || resident_kib(&status.unwrap()) > Some(0));
    }
}
