//! The hermetic integration tests, in one binary: no network, no Docker.

mod comparison;
#[path = "../contract/mod.rs"]
mod contract;
mod processes;
mod readme;
mod rehearsed;
