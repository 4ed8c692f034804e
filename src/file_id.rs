//! Whether a path still leads to the file that was opened.

use std::fs::{File, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// What tells a file from all others, whatever it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }

    /// Whether `path` leads to this file: not when it was renamed, removed or replaced.
    pub(crate) fn is_at(self, path: &Path) -> bool {
        path.metadata()
            .is_ok_and(|metadata| Self::of(&metadata) == self)
    }
}

/// A file that is in use, and the path that led to it when it was opened.
#[derive(Debug, Clone)]
pub(crate) struct FileInUse {
    path: PathBuf,
    id: FileId,
}

impl FileInUse {
    /// The file that is at `path` by now.
    ///
    /// # Errors
    ///
    /// When there is none, or it can't be looked at.
    #[cfg(any(test, feature = "sqlite"))]
    pub(crate) fn at(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        let id = FileId::of(&path.metadata()?);
        Ok(Self { path, id })
    }

    /// `file`, which was opened at `path`.
    ///
    /// # Errors
    ///
    /// When it can't be looked at.
    pub(crate) fn opened(path: impl Into<PathBuf>, file: &File) -> io::Result<Self> {
        let (path, id) = (path.into(), FileId::of(&file.metadata()?));
        Ok(Self { path, id })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether its path leads nowhere, or to another file. A path that can't be looked at says
    /// neither, so the file counts as there.
    pub(crate) fn is_gone(&self) -> bool {
        match self.path.metadata() {
            Ok(metadata) => FileId::of(&metadata) != self.id,
            Err(error) => matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_that_was_removed_moved_or_replaced_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, "").unwrap();
        let file = FileInUse::at(&path).unwrap();
        assert!(!file.is_gone());
        fs::write(&path, "grown").unwrap();
        assert!(!file.is_gone(), "it was only written");

        fs::rename(&path, dir.path().join("b")).unwrap();
        assert!(file.is_gone(), "moved");
        fs::write(&path, "").unwrap();
        assert!(file.is_gone(), "replaced");
        fs::rename(dir.path().join("b"), &path).unwrap();
        assert!(!file.is_gone(), "it is back");
        fs::remove_file(&path).unwrap();
        assert!(file.is_gone(), "removed");
    }
}
