//! What kept a ledger from doing what it was asked.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// The ledger could not do what was asked. Nothing of the request is recorded.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the ledger is unavailable: {problem}")]
pub struct LedgerError {
    problem: Arc<str>,
}

impl LedgerError {
    /// Says what kept the ledger from working.
    pub fn new(problem: impl fmt::Display) -> Self {
        Self {
            problem: problem.to_string().into(),
        }
    }

    /// As many requests wait for it as may.
    pub(crate) fn full() -> Self {
        Self::new("too many requests wait for it")
    }

    /// It has not answered all that it was asked.
    pub(crate) fn too_few_answers() -> Self {
        Self::new("it has answered less than it was asked")
    }

    /// It has not answered for as long as it could be waited for.
    pub(crate) fn late() -> Self {
        Self::new("it did not answer in time")
    }

    /// Another file is at `path` than the one in use, or none.
    pub(crate) fn replaced(path: &Path) -> Self {
        let path = path.display();
        Self::new(format!("its file `{path}` was removed or replaced"))
    }
}
