//! The hermetic integration tests, in one binary: no network, no Docker.

mod bad_input;
mod commands;
mod events;
mod processes;
mod readme;
mod real_world;
mod support;
