//! One lab in one world: what every command and every step holds.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crate::config::Lab;
use crate::kube::Cluster;
use crate::plan::{Backing, Change, Containment, Recovery, Rekeying, Restoration, Rotation, Schedule};
use crate::world::World;

/// The lab, its world, its files, and its cluster once it was reached and proven.
pub struct Session {
    /// What is wanted.
    pub lab: Lab,
    /// Everything outside.
    pub world: World,
    /// Where the lab keeps its files.
    pub paths: Paths,
    /// Where `build-load-image DIR` finds its Dockerfile; absent for every other command.
    pub dockerfile: Option<PathBuf>,
    /// What else goes into the workload's image; empty for every command but `build-load-image --with-tools`.
    pub image_tools: Vec<PathBuf>,
    /// The change of SPIRE's versions that is carried out; absent for every command but `upgrade`.
    pub change: Option<Change>,
    /// The containment that is carried out or undone; absent for every command but `contain`.
    pub containment: Option<Containment>,
    /// The recovery that is carried out; absent for every command but `recover` and `drill`.
    pub recovery: Option<Recovery>,
    /// The key rotation that is carried out; absent for every command but `rotate`.
    pub rotation: Option<Rotation>,
    /// New keys that are made without a rotation; absent for every command but `rotate --rekey`.
    pub rekey: Option<Rekeying>,
    /// The backup that is taken; absent for every command but `backup`.
    pub backup: Option<Backing>,
    /// The backups that the cluster is to take; absent for every command but `backup --schedule`.
    pub schedule: Option<Schedule>,
    /// The backup that is brought back; absent for every command but `restore`.
    pub restore: Option<Restoration>,
    /// Set once the cluster was reached and proven to be the lab's.
    pub cluster: OnceLock<Cluster>,
}

impl Session {
    /// A session that has touched nothing yet.
    #[must_use]
    pub fn new(lab: Lab, world: World, paths: Paths) -> Arc<Self> {
        Arc::new(Session::plain(lab, world, paths))
    }

    /// The same lab for looking at one moment of it: each command that is asked twice runs once.
    #[must_use]
    pub fn at_one_moment(&self) -> Arc<Self> {
        let cluster = self.cluster.clone();
        let world = self.world.at_one_moment();
        Arc::new(Session { cluster, ..Session::plain(self.lab.clone(), world, self.paths.clone()) })
    }

    fn plain(lab: Lab, world: World, paths: Paths) -> Self {
        Session {
            lab,
            world,
            paths,
            dockerfile: None,
            image_tools: Vec::new(),
            change: None,
            containment: None,
            recovery: None,
            rotation: None,
            rekey: None,
            backup: None,
            schedule: None,
            restore: None,
            cluster: OnceLock::new(),
        }
    }

    /// A session whose workload image is built from a Dockerfile.
    #[must_use]
    pub fn with_dockerfile(lab: Lab, world: World, paths: Paths, directory: PathBuf) -> Arc<Self> {
        Arc::new(Session { dockerfile: Some(directory), ..Session::plain(lab, world, paths) })
    }

    /// A session whose workload image has kubectl and helm in it, too.
    #[must_use]
    pub fn with_image_tools(lab: Lab, world: World, paths: Paths, tools: Vec<PathBuf>) -> Arc<Self> {
        Arc::new(Session { image_tools: tools, ..Session::plain(lab, world, paths) })
    }

    /// A session that carries out a change of SPIRE's versions.
    #[must_use]
    pub fn with_change(lab: Lab, world: World, paths: Paths, change: Change) -> Arc<Self> {
        Arc::new(Session { change: Some(change), ..Session::plain(lab, world, paths) })
    }

    /// A session that carries out, or undoes, a containment.
    #[must_use]
    pub fn with_containment(lab: Lab, world: World, paths: Paths, containment: Containment) -> Arc<Self> {
        Arc::new(Session { containment: Some(containment), ..Session::plain(lab, world, paths) })
    }

    /// A session that carries out a recovery, or a drill.
    #[must_use]
    pub fn with_recovery(lab: Lab, world: World, paths: Paths, recovery: Recovery) -> Arc<Self> {
        Arc::new(Session { recovery: Some(recovery), ..Session::plain(lab, world, paths) })
    }

    /// A session that carries out a key rotation.
    #[must_use]
    pub fn with_rotation(lab: Lab, world: World, paths: Paths, rotation: Rotation) -> Arc<Self> {
        Arc::new(Session { rotation: Some(rotation), ..Session::plain(lab, world, paths) })
    }

    /// A session that makes new keys without a rotation, with a rotation's lease and record.
    #[must_use]
    pub fn with_rekey(lab: Lab, world: World, paths: Paths, rotation: Rotation, rekey: Rekeying) -> Arc<Self> {
        Arc::new(Session { rotation: Some(rotation), rekey: Some(rekey), ..Session::plain(lab, world, paths) })
    }
}

impl Session {
    /// A session that takes a backup.
    #[must_use]
    pub fn with_backup(lab: Lab, world: World, paths: Paths, backup: Backing) -> Arc<Self> {
        Arc::new(Session { backup: Some(backup), ..Session::plain(lab, world, paths) })
    }

    /// A session that lets the cluster take backups.
    #[must_use]
    pub fn with_schedule(lab: Lab, world: World, paths: Paths, schedule: Schedule) -> Arc<Self> {
        Arc::new(Session { schedule: Some(schedule), ..Session::plain(lab, world, paths) })
    }

    /// A session that brings a backup back.
    #[must_use]
    pub fn with_restore(lab: Lab, world: World, paths: Paths, restore: Restoration) -> Arc<Self> {
        Arc::new(Session { restore: Some(restore), ..Session::plain(lab, world, paths) })
    }
}

/// The lab's own files, all below one state directory (mode 0700).
#[derive(Debug, Clone)]
pub struct Paths {
    state: PathBuf,
}

impl Paths {
    /// Below `state`.
    #[must_use]
    pub fn new(state: PathBuf) -> Self {
        Paths { state }
    }

    /// The state directory.
    #[must_use]
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The private kubeconfig (mode 0600).
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.state.join("kubeconfig")
    }

    /// Says that a kind cluster of ours is being made: written before `kind create`, removed when it carries our
    /// marker. Lets the next run take away what an interrupted one left half-made.
    #[must_use]
    pub fn cluster_in_the_making(&self) -> PathBuf {
        self.state.join("cluster-in-the-making")
    }

    /// Helm's repository configuration (`HELM_REPOSITORY_CONFIG`).
    #[must_use]
    pub fn helm_repositories(&self) -> PathBuf {
        self.state.join("helm/repositories.yaml")
    }

    /// Helm's repository cache (`HELM_REPOSITORY_CACHE`).
    #[must_use]
    pub fn helm_cache(&self) -> PathBuf {
        self.state.join("helm/cache")
    }

    /// Chart archives and manifests that were downloaded.
    #[must_use]
    pub fn downloads(&self) -> PathBuf {
        self.state.join("downloads")
    }

    /// Image archives that were built.
    #[must_use]
    pub fn images(&self) -> PathBuf {
        self.state.join("images")
    }

    /// Dumps of the data store.
    #[must_use]
    pub fn dumps(&self) -> PathBuf {
        self.state.join("dumps")
    }

    /// Records of incidents: what was contained and how it is undone, and one directory per key rotation.
    #[must_use]
    pub fn incidents(&self) -> PathBuf {
        self.state.join("incidents")
    }

    /// Backups, unless lab.toml names another place.
    #[must_use]
    pub fn backups(&self) -> PathBuf {
        self.state.join("backups")
    }

    /// What a restore has taken aside, until what it brought has passed its gate.
    #[must_use]
    pub fn aside(&self) -> PathBuf {
        self.state.join("restore")
    }

    /// What `rotate --rekey` has taken aside, until it has come to its end.
    #[must_use]
    pub fn rekey(&self) -> PathBuf {
        self.state.join("rekey")
    }

    /// Says that a drill was begun and not recovered from yet: when, and what the world was like before.
    #[must_use]
    pub fn drill(&self) -> PathBuf {
        self.state.join("drill.json")
    }

    /// One directory per run: `plan.json`, `events.jsonl`.
    #[must_use]
    pub fn runs(&self) -> PathBuf {
        self.state.join("runs")
    }

    /// Locked while a command that changes things runs.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.state.join("lock")
    }
}
