//! The hermetic integration tests, in one binary: no network, no Docker.

#[path = "../contract/mod.rs"]
mod contract;
mod processes;
mod readme;
