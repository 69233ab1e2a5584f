//! What a user waits for: the planners, reading lab.toml, events, start-up, and the whole story in rehearsal.
//!
//! `cargo bench --bench coastal`, or `just bench`.

#![expect(clippy::expect_used, reason = "a measurement that cannot be made ends")]

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use coastal::config::{self, Lab};
use coastal::engine::{Emitter, Journal, What};
use coastal::plan::{self, Goal, StepId};
use coastal::spire::path::{self, ChartChoice, Options};
use coastal::spire::policy::State;
use coastal::spire::{charts, releases};
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

fn running(release: releases::Release) -> State {
    let (schema, code) = (release.schema().latest, release.version().clone());
    let chart = charts::made_for(release);
    State::new(vec![release], vec![release], Some(schema), Some(code), chart).expect("there is a server")
}

/// Policy and path of the longest way, with the chart moving along.
#[divan::bench]
fn upgrade_path(bencher: Bencher) {
    let from = releases::find(&semver::Version::new(1, 7, 2)).expect("published");
    let to = releases::find(&semver::Version::new(1, 15, 3)).expect("published");
    let state = running(from);
    bencher.bench(|| path::plan(divan::black_box(&state), to, &ChartChoice::Follow, &Options::default()));
}

/// Policy and path from every version to every version.
#[divan::bench(args = [ChartChoice::Keep, ChartChoice::Follow], sample_count = 10, sample_size = 1)]
fn upgrade_all_pairs(bencher: Bencher, choice: &ChartChoice) {
    let states: Vec<State> = releases::all().map(running).collect();
    bencher.counter(ItemsCount::new(states.len() * states.len())).bench(|| {
        for state in &states {
            for to in releases::all() {
                divan::black_box(path::plan(state, to, choice, &Options::default()));
            }
        }
    });
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
