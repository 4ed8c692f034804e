//! Tests at the level of messages, in virtual time: every actor on one arbiter whose clock stands
//! still unless all wait.

mod delivery;
mod drain;
mod guarantees;
mod hooks;
mod model;
mod shutdown;
mod support;
mod tracker;
