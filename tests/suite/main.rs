//! Tests through the public API.
//!
//! At the level of messages they run in virtual time: every actor on one arbiter, whose clock
//! stands still unless all wait. Those of the gateway talk to it over real connections.

mod deadly;
mod delivery;
mod documentation;
mod drain;
mod embedding;
mod faulty_ledger;
mod gateway;
mod guarantees;
mod guard;
mod holders;
mod hooks;
mod isolation;
mod model;
mod operations;
mod outage;
#[path = "../receiver/mod.rs"]
mod receiver;
mod reload;
mod shutdown;
mod support;
mod testing;
mod tracker;
mod upkeep;
mod watching;
mod web;
mod webhook;
