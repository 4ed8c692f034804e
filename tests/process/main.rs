//! Tests of the real binary: real sockets, real signals, real files.

mod commands;
mod fake;
mod gateway;
mod readme;
mod refusals;
mod signals;
