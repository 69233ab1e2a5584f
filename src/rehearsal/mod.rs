//! The rehearsal world: everything outside `coastal`, in memory and in virtual time.
//!
//! It stands behind the same four seams as the real machine ([`crate::world`]), and nothing above them knows which
//! one it talks to. It models what our steps observe and no more; each behaviour is named after the fact that it
//! comes from. What it does not know is an error that names it.
//!
//! | file | plays |
//! |---|---|
//! | [`store`], [`api`], [`controllers`] | a Kubernetes cluster |
//! | `runner`, `process` | starting programs |
//! | `kind`, `docker`, `helm`, `kubectl` | these programs |
//! | `machine`, `fetch` | the machine with its clock, and the internet |
//! | `cluster`, `kubelet`, `nodes` | nodes and their images; nodes that stop |
//! | [`charts`], `release` | the charts and helm's memory |
//! | `spire`, `workloads`, `authority`, `inside` | SPIRE, its workloads, and the programs in its containers |
//! | `operators` | what else makes objects in the cluster |
//! | [`faults`] | what can go wrong |
//! | [`begin`] | where a world begins |
//! | `persist` | the world in a file, between calls |
//!
//! It must live inside a current-thread tokio runtime whose time is paused: then nothing sleeps really.

pub mod api;
mod archive;
mod authority;
pub mod begin;
pub mod changes;
pub mod charts;
mod cluster;
pub mod clusters;
pub mod controllers;
mod docker;
mod events;
pub mod faults;
mod fetch;
mod helm;
mod identity;
mod inside;
mod kind;
mod kubectl;
mod kubelet;
pub mod logs;
mod machine;
mod nodes;
pub mod object;
mod operators;
mod pages;
mod persist;
mod pods;
mod process;
mod prometheus;
mod release;
mod runner;
mod spire;
pub mod store;
mod workloads;

#[cfg(test)]
mod cluster_tests;
#[cfg(test)]
mod story_tests;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use tokio::time::Instant;

use self::faults::Faults;
use self::machine::{State, StateClock, VirtualClock};
use self::store::{Clusters, Store};
use crate::error::Failure;
use crate::world::World;

pub use self::begin::Begin;
pub use self::faults::Fault;

/// How a world begins.
#[derive(Debug, Clone)]
pub struct Options {
    /// What is wrong in it from the start.
    pub faults: Vec<Fault>,
    /// Keeps the world between calls: read at the start if it is there, written by [`Rehearsal::save`].
    pub world_file: Option<PathBuf>,
    /// The time of day at which a new world begins.
    pub begins: Timestamp,
}

impl Default for Options {
    fn default() -> Self {
        // Any moment would do; this one makes two runs of a story alike.
        let begins = Timestamp::constant(1_770_000_000, 0);
        Options { faults: Vec::new(), world_file: None, begins }
    }
}

/// A rehearsal world, from outside: what tests and `--world` do with it. Cheap to clone.
#[derive(Clone)]
pub struct Rehearsal {
    state: Arc<State>,
}

impl Rehearsal {
    /// A world. Must be called inside the runtime that it is to live in.
    ///
    /// # Errors
    /// [`Options::world_file`] is there and cannot be read.
    pub fn new(options: Options) -> Result<Self, Failure> {
        let faults = Arc::new(Mutex::new(Faults::new(options.faults)));
        let state = Arc::new(State {
            clock: VirtualClock { begins: Mutex::new(options.begins), started: Instant::now() },
            api_servers: Clusters::default(),
            faults,
            host: Mutex::default(),
            file: options.world_file,
        });
        persist::restore(&state)?;
        let foreign =
            state.faults().all(|fault| if let Fault::ForeignCluster(name) = fault { Some(name.clone()) } else { None });
        for name in foreign {
            state.make_foreign(&name);
        }
        Ok(Rehearsal { state })
    }

    /// The world as the rest of the program sees it.
    #[must_use]
    pub fn world(&self) -> World {
        World {
            runner: Arc::new(runner::RehearsalRunner(Arc::clone(&self.state))),
            connector: Arc::new(api::RehearsalConnector::new(self.state.api_servers.clone())),
            clock: Arc::new(StateClock(Arc::clone(&self.state))),
            fetcher: Arc::new(fetch::RehearsalFetcher(Arc::clone(&self.state))),
            host: Arc::new(machine::StateHost(Arc::clone(&self.state))),
        }
    }

    /// Something goes wrong from now on.
    pub fn inject(&self, fault: Fault) {
        match &fault {
            Fault::ForeignCluster(name) => self.state.make_foreign(name),
            Fault::ReleasePending(age) => {
                for cluster in self.state.clusters_of_kind() {
                    cluster.leave_pending(*age);
                }
            }
            _ => {}
        }
        self.state.faults().add(fault);
    }

    /// Waits until what was injected has happened, where that takes a while.
    pub async fn suffer(&self, fault: &Fault) {
        let Fault::RolledBack(revision) = fault else { return };
        for cluster in self.state.clusters_of_kind() {
            cluster.roll_back(*revision).await;
        }
    }

    /// Nothing of that name (see [`Fault::ALL`]) is wrong any more.
    pub fn cure(&self, name: &str) {
        self.state.faults().cure(name);
    }

    /// The state of a kind cluster, if there is one of that name.
    #[must_use]
    pub fn store(&self, cluster: &str) -> Option<Store> {
        self.state.cluster(cluster).map(|cluster| cluster.store.clone())
    }

    /// Writes the world into [`Options::world_file`], if one was given.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self) -> Result<(), Failure> {
        persist::save(&self.state)
    }
}

/// A new world.
///
/// # Errors
/// As [`Rehearsal::new`].
pub fn world(options: Options) -> Result<World, Failure> {
    Rehearsal::new(options).map(|rehearsal| rehearsal.world())
}
