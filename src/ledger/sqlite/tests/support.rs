//! Ledgers in temporary directories.

use std::path::{Path, PathBuf};
use std::process::Command;

use rusqlite::Connection;
use tempfile::TempDir;

use crate::durability::Durability;
use crate::ledger::sqlite::SqliteLedger;

/// A directory for a ledger.
pub(super) struct Home {
    directory: TempDir,
}

impl Home {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { directory }
    }

    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(super) fn path(&self) -> PathBuf {
        self.directory().join("ledger.db")
    }

    pub(super) fn wal(&self) -> PathBuf {
        self.directory().join("ledger.db-wal")
    }

    pub(super) fn open(&self) -> SqliteLedger {
        SqliteLedger::open(self.path(), Durability::Process).unwrap()
    }

    /// The file without the ledger's code.
    pub(super) fn sqlite(&self) -> Connection {
        Connection::open(self.path()).unwrap()
    }

    /// The first column of the first row that `sql` yields.
    pub(super) fn number(&self, sql: &str) -> i64 {
        self.sqlite().query_row(sql, [], |row| row.get(0)).unwrap()
    }

    /// What a process leaves that is killed now, while nothing is being written.
    pub(super) fn killed(&self) -> Self {
        let copy = Self::new();
        std::fs::copy(self.path(), copy.path()).unwrap();
        std::fs::copy(self.wal(), copy.wal()).unwrap();
        copy
    }
}

/// A file system of a few megabytes; unmounted when dropped.
pub(super) struct SmallDisk {
    pub(super) directory: TempDir,
}

impl SmallDisk {
    /// None, said on standard error, where this process may not mount.
    pub(super) fn mount() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let disk = Self { directory };
        let mounted = run("mount", &["-t", "tmpfs", "-o", "size=2m", "none"], &disk);
        if !mounted {
            eprintln!("SKIPPED: no file system can be mounted here");
        }
        mounted.then_some(disk)
    }

    pub(super) fn read_only(&self) -> bool {
        run("mount", &["-o", "remount,ro"], self)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        run("umount", &["-l"], self);
    }
}

fn run(program: &str, arguments: &[&str], disk: &SmallDisk) -> bool {
    let output = Command::new(program)
        .args(arguments)
        .arg(disk.directory.path())
        .output();
    output.is_ok_and(|output| output.status.success())
}
