//! What the steps' tests run on: the lab that ships, in a rehearsal world, brought up step by step.

use std::collections::BTreeSet;
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
use crate::plan::{Plan, Role, StepId};
use crate::rehearsal::{Options, Rehearsal};
use crate::session::{Paths, Session};
use crate::spire::cli::{Bundle, X509Authority};
use crate::steps::{self, identity, reach};

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

    /// Makes the goals of a plan so, one after the other.
    pub(super) async fn play(&self, session: &Arc<Session>, plan: &Plan) -> Result<(), Failure> {
        for step in plan.steps.iter().filter(|step| step.role == Role::Goal) {
            let deadline = Instant::now() + Duration::from_secs(step.timeout_s);
            let cx = StepContext::new(Arc::clone(session), step.id, deadline, self.cancel.clone(), None);
            let body = steps::body(step.id);
            let found = body.check(&cx).await?;
            if !found.is_satisfied() {
                body.run(&cx, &found).await?;
                body.verify(&cx).await?;
            }
        }
        Ok(())
    }

    /// The CAs of the servers' bundle.
    pub(super) async fn cas(&self) -> BTreeSet<String> {
        let bundle: Bundle = identity::bundle(&self.cx()).await.unwrap();
        bundle.x509_authorities.iter().filter_map(X509Authority::key_id).collect()
    }

    pub(super) async fn cluster(&self) -> Cluster {
        reach::cluster(&self.cx()).await.unwrap()
    }
}
