//! What the steps' tests run on: the lab that ships, in a rehearsal world, brought up step by step.

use std::sync::Arc;
use std::time::Duration;

use semver::Version;
use tempfile::TempDir;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::{Lab, embedded};
use crate::engine::StepContext;
use crate::error::Failure;
use crate::kube::Cluster;
use crate::plan::StepId;
use crate::rehearsal::{Options, Rehearsal};
use crate::session::{Paths, Session};
use crate::steps::{self, reach};

/// A lab in its world.
pub(super) struct Scene {
    pub(super) rehearsal: Rehearsal,
    pub(super) session: Arc<Session>,
    pub(super) cancel: CancellationToken,
    _directory: TempDir,
}

impl Scene {
    /// Everything up to the agents runs. Monitoring and add-ons are left out, and the workload's image is one that can
    /// be pulled: none has to be built.
    pub(super) async fn with_spire(change: impl FnOnce(&mut Lab)) -> Self {
        let rehearsal = Rehearsal::new(Options::default()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let mut lab = embedded().unwrap();
        lab.workload.image = format!("ghcr.io/spiffe/spire-agent:{}", Version::new(1, 7, 2));
        change(&mut lab);
        let paths = Paths::new(directory.path().to_owned());
        let session = Session::new(lab, rehearsal.world(), paths);
        let scene = Scene { rehearsal, session, cancel: CancellationToken::new(), _directory: directory };
        for step in [StepId::Repos, StepId::FetchSpire, StepId::Cluster, StepId::Namespaces, StepId::Database] {
            scene.make(step).await.unwrap();
        }
        for step in [StepId::Spire, StepId::SpireServers, StepId::SpireAgents] {
            scene.make(step).await.unwrap();
        }
        scene
    }

    /// And the workload.
    pub(super) async fn up() -> Self {
        let scene = Scene::with_spire(|_| {}).await;
        scene.make(StepId::Workload).await.unwrap();
        scene
    }

    /// Looks, makes it so, proves it.
    pub(super) async fn make(&self, step: StepId) -> Result<String, Failure> {
        let (cx, body) = (self.cx(), steps::body(step));
        let found = body.check(&cx).await?;
        if found.is_satisfied() {
            return Ok(found.detail().to_owned());
        }
        body.run(&cx, &found).await?;
        body.verify(&cx).await
    }

    /// A context with ten minutes.
    pub(super) fn cx(&self) -> StepContext {
        let deadline = Instant::now() + Duration::from_secs(600);
        StepContext::new(Arc::clone(&self.session), StepId::Workload, deadline, self.cancel.clone(), None)
    }

    pub(super) async fn cluster(&self) -> Cluster {
        reach::cluster(&self.cx()).await.unwrap()
    }
}
