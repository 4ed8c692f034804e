//! The HTTP API, over real connections.

mod client;
mod contract;
mod description;
mod events;
mod fuzz;
mod holder_tokens;
mod holders;
mod metrics;
mod operations;
mod plugins;
mod refusals;
mod sessions;
mod stream;
mod tokens;
