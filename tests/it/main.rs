//! The hermetic integration tests, in one binary: no network, no Docker.

// Clippy lifts these in test functions only, not in what they share.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

mod backup;
mod bad_input;
mod checks;
mod commands;
mod comparison;
mod compromise;
#[path = "../contract/mod.rs"]
mod contract;
mod disaster;
mod events;
mod interrupts;
mod open;
mod patience;
mod processes;
mod readme;
mod real_world;
mod rehearsed;
mod report;
mod rotation;
mod schedule;
mod support;
mod upgrade;
mod upgrade_plan;
