//! Tests of the real binary: real sockets, real signals, real files.

mod browser;
mod flood;
mod gateway;
mod readme;
mod refusals;
mod signals;
mod tokens;
mod tools;
