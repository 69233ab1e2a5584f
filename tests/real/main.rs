//! The real suite: the lab on a real kind cluster. Ignored by default; see CONTRIBUTING.md.
//!
//! ```text
//! COASTAL_TEST_SPIRE_CHART=… COASTAL_TEST_PROMETHEUS_CHART=… COASTAL_TEST_CERT_MANAGER_MANIFEST=… \
//! COASTAL_TEST_CONTOUR_MANIFEST=… COASTAL_TEST_IMAGES=a.tar:b.tar \
//! cargo test --test real -- --ignored --test-threads 1
//! ```
//!
//! One test needs no cluster, but all charts: `COASTAL_TEST_CHARTS_DIR=… cargo test --test real -- --ignored charts::`.
//!
//! With `COASTAL_RECORD=1` the story also writes what the real world answered into `tests/data/recordings`, to which
//! the hermetic suite holds the rehearsal.

// Clippy lifts these in test functions only, not in what they share.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and a long one says how far it is"
)]

mod charts;
#[path = "../contract/mod.rs"]
mod contract;
mod foreign;
mod lab;
mod record;
mod settings;
mod story;
