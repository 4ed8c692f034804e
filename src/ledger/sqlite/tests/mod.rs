//! The ledger and its file.

mod checkpoints;
mod faults;
mod files;
mod model;
mod reclaim;
mod recovery;
mod support;
mod together;
