//! Whether a path still leads to the file that was opened.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// What tells a file from all others, whatever it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }

    /// Whether `path` leads to this file: not when it was renamed, removed or replaced.
    pub(super) fn is_at(self, path: &Path) -> bool {
        path.metadata()
            .is_ok_and(|metadata| Self::of(&metadata) == self)
    }
}
