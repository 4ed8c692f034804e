//! The lane's decisions, driven without actors: log, ledger, plugin and clock are the bench's.

mod bench;
mod checks;
mod deaths;
mod drain;
mod failures;
mod model;
mod opening;
mod operator;
mod order;
mod plugin;
mod poison;
mod quarantine;
