//! The hermetic integration tests, in one binary: no network, no Docker.

mod processes;
mod readme;
