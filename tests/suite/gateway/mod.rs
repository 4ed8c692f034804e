//! The HTTP API, over real connections.

mod client;
mod refusals;
mod sessions;
mod tokens;
