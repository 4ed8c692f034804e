//! Tests of the real binary: real sockets, real signals, real files.

mod books;
mod browser;
mod command;
mod commands;
mod deploy;
mod embedding;
#[path = "../examples/mod.rs"]
mod examples;
mod fake;
mod faults;
mod flood;
mod gateway;
mod holders;
mod laggard;
mod load;
mod notify;
mod operator;
mod plugins;
mod readme;
#[path = "../receiver/mod.rs"]
mod receiver;
mod recipe;
mod refusals;
mod restarts;
mod run;
mod signals;
mod slow;
mod tokens;
mod tools;
mod webhook;
