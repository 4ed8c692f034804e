//! What the operating system knows of this process.

/// A look at the process.
#[derive(Debug, Clone, Copy)]
pub(super) struct ProcessStats {
    /// Time spent on processors, in seconds.
    pub(super) cpu_seconds: f64,
    /// Seconds since the epoch.
    pub(super) start_time_seconds: f64,
    pub(super) resident_memory_bytes: u64,
    pub(super) virtual_memory_bytes: u64,
    pub(super) open_fds: u64,
    /// None where there is no limit.
    pub(super) max_fds: Option<u64>,
    pub(super) threads: u64,
}

#[cfg(target_os = "linux")]
impl ProcessStats {
    /// As it is now; none where `/proc` can't be read.
    pub(super) fn read() -> Option<Self> {
        use procfs::process::{LimitValue, Process};

        let process = Process::myself().ok()?;
        let stat = process.stat().ok()?;
        let per_second = procfs::ticks_per_second() as f64;
        let started = stat.starttime as f64 / per_second;
        let max_fds = match process.limits().ok()?.max_open_files.soft_limit {
            LimitValue::Value(limit) => Some(limit),
            LimitValue::Unlimited => None,
        };
        Some(Self {
            cpu_seconds: (stat.utime + stat.stime) as f64 / per_second,
            start_time_seconds: procfs::boot_time_secs().ok()? as f64 + started,
            resident_memory_bytes: stat.rss * procfs::page_size(),
            virtual_memory_bytes: stat.vsize,
            open_fds: process.fd_count().ok()? as u64,
            max_fds,
            threads: u64::try_from(stat.num_threads).ok()?,
        })
    }
}

#[cfg(not(target_os = "linux"))]
impl ProcessStats {
    /// As it is now, where that can be found out.
    pub(super) fn read() -> Option<Self> {
        None
    }
}
