//! What a user waits for: the planners, reading lab.toml, events, start-up, and the whole story in rehearsal.
//!
//! `cargo bench --bench coastal`, or `just bench`.

#![expect(clippy::expect_used, reason = "a measurement that cannot be made ends")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use age::secrecy::ExposeSecret as _;
use coastal::backup::archive::{self, DUMP, Head};
use coastal::backup::contents::{self, Keep};
use coastal::backup::{Manifest, Seal, Unseal, Writer};
use coastal::config::{self, Lab};
use coastal::engine::{Emitter, Journal, What};
use coastal::plan::{self, Goal, StepId};
use coastal::spire::audit::{self, Auditor, Facts, Trust};
use coastal::spire::entries::EntryReader;
use coastal::spire::path::{self, ChartChoice, Options};
use coastal::spire::policy::State;
use coastal::spire::{charts, releases};
use coastal::world::Clock;
use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use jiff::Timestamp;

/// Tells beside the times how much memory was held at most.
#[global_allocator]
static MEMORY: divan::AllocProfiler = divan::AllocProfiler::system();

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

const ENTRIES: usize = 100_000;

/// What `entry show -output json` prints of a hundred thousand pods.
fn entries() -> Vec<u8> {
    let mut text = String::from("{\"entries\":[");
    for number in 0..ENTRIES {
        let comma = if number == 0 { "" } else { "," };
        let (namespace, account) = (number % 400, number % 1000);
        let _ = write!(
            text,
            "{comma}{{\"admin\":false,\"created_at\":\"1700000000\",\"dns_names\":[],\"downstream\":false,\"expires_at\":\"0\",\
             \"federates_with\":[],\"hint\":\"\",\"id\":\"kind-kind.{number:08x}-0000-4000-8000-000000000000\",\"jwt_svid_ttl\":0,\
             \"parent_id\":{{\"path\":\"/spire/agent/k8s_psat/kind-kind/{namespace:08x}-0000-4000-8000-000000000000\",\"trust_domain\":\"coastal-containers.example\"}},\
             \"revision_number\":\"0\",\"selectors\":[{{\"type\":\"k8s\",\"value\":\"pod-uid:{number:08x}-0000-4000-8000-000000000000\"}}],\
             \"spiffe_id\":{{\"path\":\"/ns/team-{namespace}/sa/service-{account}\",\"trust_domain\":\"coastal-containers.example\"}},\
             \"store_svid\":false,\"x509_svid_ttl\":0}}"
        );
    }
    text.push_str("],\"next_page_token\":\"\"}\n");
    text.into_bytes()
}

fn pods() -> Vec<audit::Pod> {
    let pod = |number: usize| audit::Pod {
        uid: format!("{number:08x}-0000-4000-8000-000000000000"),
        namespace: format!("team-{}", number % 400),
        name: format!("service-{number}"),
        account: format!("service-{}", number % 1000),
        node: format!("node-{}", number % 400),
        age_s: 3600,
        runs: true,
        mounts: true,
    };
    (0..ENTRIES).map(pod).collect()
}

/// Read in pieces as a pipe gives them, and held against an allow-list that knows half of them.
#[divan::bench(sample_count = 5, sample_size = 1)]
fn audit_entries(bencher: Bencher) {
    let printed = entries();
    let mut expected = lab().identities;
    expected.allow.push("spiffe://coastal-containers.example/ns/team-*/sa/service-*5*".to_owned());
    expected.namespaces.push("team-*".to_owned());
    bencher
        .counter(ItemsCount::new(ENTRIES))
        .with_inputs(|| Facts { expected: expected.clone(), pods: pods(), ..Facts::default() })
        .bench_values(|facts| {
            let mut auditor = Auditor::new(facts);
            let mut reader = EntryReader::new(|entry| auditor.entry(&entry));
            printed.chunks(64 << 10).for_each(|piece| reader.take(piece));
            let count = reader.finish().expect("a whole answer");
            assert_eq!(count, ENTRIES);
            auditor.finish(Trust::default())
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

const DUMP_BYTES: usize = 100_000_000;

/// A backup of the rehearsed lab, closed to a recipient, with so many more entries that its dump has a hundred megabytes;
/// and what opens it.
fn large_backup(directory: &Path) -> (PathBuf, Unseal) {
    let at = |name: &str| directory.join(name);
    let small = at("small.tar");
    let world = at("world.json").display().to_string();
    coastal(&["rehearse", "--world", &world, "backup", "--plaintext", "--to", &small.display().to_string()]);
    let mut members: Vec<(String, Vec<u8>)> = Vec::new();
    let plain = Unseal::with(&[], None).expect("nothing is needed");
    let reading = archive::read(&small, &plain, |name, piece| match members.last_mut() {
        Some((last, bytes)) if last == name => bytes.extend_from_slice(piece),
        _ => members.push((name.to_owned(), piece.to_vec())),
    });
    let manifest = reading.expect("a backup").manifest;

    let identity = age::x25519::Identity::generate();
    std::fs::write(at("key.txt"), identity.to_string().expose_secret()).expect("written");
    let seal = Seal::to(&[identity.to_public().to_string()]).expect("a recipient");
    let head = Head {
        coastal_backup: Manifest::SCHEMA,
        trust_domain: manifest.trust_domain.clone(),
        begun_at: manifest.taken_at,
    };
    let large = at("large.tar.age");
    let mut writer = Writer::create(&large, &manifest.lab, &seal, &head).expect("begun");
    let parts = members.iter().filter(|(name, _)| name.starts_with(DUMP));
    let dump: Vec<u8> = parts.flat_map(|(_, bytes)| bytes.iter().copied()).collect();
    let dump = String::from_utf8(dump).expect("SQL");
    let (begin, table) = dump.split_at(dump.find("COPY public.registered_entries ").expect("entries"));
    let rows = table.find('\n').expect("rows") + 1;
    let (table, rest) = table.split_at(rows);
    let row = rest.lines().next().expect("a row");
    for piece in [begin, table] {
        writer.dump(piece.as_bytes()).expect("written");
    }
    let mut many = format!("{row}\n");
    many = many.repeat((1 << 20) / many.len());
    for _ in 0..DUMP_BYTES.div_ceil(many.len()) {
        writer.dump(many.as_bytes()).expect("written");
    }
    writer.dump(rest.as_bytes()).expect("written");
    writer.end_dump().expect("written");
    for (name, bytes) in members.iter().filter(|(name, _)| !name.starts_with(DUMP) && name != archive::HEAD) {
        writer.add(name, bytes).expect("written");
    }
    writer.finish(Manifest { members: Vec::new(), ..manifest }).expect("whole");
    (large, Unseal::with(&[at("key.txt")], None).expect("an identity"))
}

/// `backup verify` of a dump of a hundred megabytes, closed to a recipient: what is held at most must not grow with it.
#[divan::bench(sample_count = 5, sample_size = 1)]
fn verify_a_backup(bencher: Bencher) {
    let directory = tempfile::tempdir().expect("a directory");
    let (large, unseal) = large_backup(directory.path());
    bencher.counter(BytesCount::new(DUMP_BYTES)).bench_local(|| {
        let contents = contents::read(&large, &unseal, Keep::Nothing).expect("whole");
        assert!(contents.problems.is_empty(), "{:?}", contents.problems);
    });
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
