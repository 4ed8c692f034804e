//! The HTTP API, over real connections.

mod client;
mod operations;
mod plugins;
mod refusals;
mod sessions;
mod tokens;
