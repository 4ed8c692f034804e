//! What can go wrong around the process: it is killed at any moment, its disk is full, stalls or lies
//! in ruins, its clock jumps. The binary is the real one; see `shim.c`.

mod books;
mod clocks;
mod disk;
mod kills;
mod removed;
mod shim;
mod sweep;

pub(crate) use self::shim::Shim;
