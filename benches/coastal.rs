//! What a user waits for: the planner, reading lab.toml, events, start-up, and the whole story in rehearsal.
//!
//! `cargo bench --bench coastal`, or `just bench`.

#![expect(clippy::expect_used, reason = "a measurement that cannot be made ends")]

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use coastal::config::{self, Lab};
use coastal::engine::{Emitter, Journal, What};
use coastal::plan::{self, Goal, StepId};
use coastal::world::Clock;
use divan::Bencher;
use divan::counter::ItemsCount;
use jiff::Timestamp;

fn main() {
    divan::main();
}

fn lab() -> Lab {
    config::embedded().expect("the lab that ships is right")
}

#[divan::bench]
fn plan_up(bencher: Bencher) {
    let lab = lab();
    bencher.bench(|| plan::build(divan::black_box(&lab), Goal::Up, None));
}

#[divan::bench]
fn parse_lab(bencher: Bencher) {
    bencher
        .bench(|| config::load::parse("lab.toml", divan::black_box(config::DEFAULT), None, Path::new("/").to_owned()));
}

struct WallClock;

impl Clock for WallClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

const EVENTS: usize = 10_000;

/// Stamped, numbered, serialised and handed to the operating system, line by line.
#[divan::bench(sample_count = 20)]
fn journal_events(bencher: Bencher) {
    let directory = tempfile::tempdir().expect("a directory");
    bencher
        .counter(ItemsCount::new(EVENTS))
        .with_inputs(|| {
            let (journal, _) = Journal::create(directory.path(), "bench", Timestamp::now()).expect("a journal");
            Emitter::new(Arc::new(WallClock), Arc::new(journal))
        })
        .bench_values(|emitter| {
            for number in 0..EVENTS {
                let message = format!("waiting for spire-server-1: PodInitializing ({number})");
                emitter.emit(What::StepProgress { step: StepId::SpireServers, message });
            }
        });
}

#[expect(clippy::disallowed_methods, reason = "what is measured is a process")]
fn coastal(arguments: &[&str]) {
    let status = std::process::Command::new(env!("CARGO_BIN_EXE_coastal"))
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("the program starts");
    assert!(status.success(), "coastal {arguments:?}: {status}");
}

#[divan::bench]
fn start_up() {
    coastal(&["--version"]);
}

/// up, status, down.
#[divan::bench(sample_count = 5, sample_size = 1)]
fn rehearse_the_story() {
    coastal(&["rehearse"]);
}

/// The compromise of every key: 3 servers, 500 workloads, both types. The lab is brought up beforehand.
#[divan::bench(sample_count = 3, sample_size = 1)]
fn rehearse_a_rotation(bencher: Bencher) {
    let directory = tempfile::tempdir().expect("a directory");
    let lab = directory.path().join("lab.toml");
    let text = "schema = 1\n[spire]\nserver-version = \"1.11.3\"\nagent-version = \"1.11.3\"\n[workload]\nreplicas = 500\ncpu = \"1m\"\nmemory = \"8Mi\"\n";
    std::fs::write(&lab, text).expect("written");
    let (lab, world) = (lab.display().to_string(), directory.path().join("world.json").display().to_string());
    coastal(&["rehearse", "--lab", &lab, "--world", &world, "up"]);
    // Each goes on from where the one before ended: there is always something to rotate.
    bencher.bench_local(|| coastal(&["rehearse", "--lab", &lab, "--world", &world, "rotate"]));
}
