//! What is preloaded into the binary under test, so that calls go wrong at will: see `shim.c`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::tools::skip;

/// What is preloaded into one gateway, or several, and their flags.
pub(crate) struct Shim {
    library: PathBuf,
    flags: TempDir,
}

impl Shim {
    /// None, and `test` is said to be skipped, where there is no C compiler.
    pub(crate) fn for_test(test: &str) -> Option<Self> {
        static LIBRARY: OnceLock<Option<PathBuf>> = OnceLock::new();
        let Some(library) = LIBRARY.get_or_init(build) else {
            skip(test, "cc");
            return None;
        };
        Some(Self {
            library: library.clone(),
            flags: tempfile::tempdir().unwrap(),
        })
    }

    /// Watches what `command` does with the files under `folder`.
    pub(crate) fn watch(&self, command: &mut Command, folder: &Path) {
        command
            .env("LD_PRELOAD", &self.library)
            .env("FAULTS_UNDER", folder)
            .env("FAULTS_FLAGS", self.flags.path());
    }

    /// Sets a flag of `shim.c`.
    pub(crate) fn set(&self, flag: &str, text: &str) {
        // As a whole: it may be read at any moment.
        let draft = self.flags.path().join(".draft");
        std::fs::write(&draft, text).unwrap();
        std::fs::rename(&draft, self.flags.path().join(flag)).unwrap();
    }

    pub(crate) fn clear(&self, flag: &str) {
        std::fs::remove_file(self.flags.path().join(flag)).unwrap();
    }
}

/// Builds the shim, if there is a compiler.
fn build() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let library = folder.join("faults.so");
    // Another run of the tests may have it loaded.
    let draft = folder.join(format!("faults-{}.so", std::process::id()));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/process/faults/shim.c");
    let status = Command::new("cc")
        .args([
            "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o",
        ])
        .arg(&draft)
        .arg(&source)
        .stdin(Stdio::null())
        .status();
    let status = status.ok()?;
    assert!(status.success(), "{} does not compile", source.display());
    std::fs::rename(&draft, &library).unwrap();
    Some(library)
}
