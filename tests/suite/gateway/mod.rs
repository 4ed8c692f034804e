//! The HTTP API, over real connections.

mod client;
mod contract;
mod description;
mod operations;
mod refusals;
mod sessions;
mod tokens;
