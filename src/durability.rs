//! What a record survives.

use serde::{Deserialize, Serialize};

/// What a record survives that somebody has answered for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Durability {
    /// A loss of power: each record is on the disk before it is answered for, as far as the disk
    /// keeps its word.
    #[default]
    Power,
    /// The end of the process, however it ends. A loss of power can take the last seconds with it, but
    /// never leaves half of a record.
    Process,
}
