//! What can go wrong around the process: it is killed at any moment, its disk is full, stalls or lies
//! in ruins, its clock jumps. The binary is the real one; see `shim.c`.

mod clocks;
mod disk;
mod kills;
mod removed;
mod shim;
mod soak;
mod sweep;

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;

pub(crate) use self::shim::Shim;

/// A number below `limit` by chance.
fn chance(limit: u64) -> u64 {
    RandomState::new().hash_one(0) % limit
}
