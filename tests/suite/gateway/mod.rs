//! The HTTP API, over real connections.

mod client;
mod contract;
mod description;
mod fuzz;
mod operations;
mod plugins;
mod refusals;
mod sessions;
mod tokens;
