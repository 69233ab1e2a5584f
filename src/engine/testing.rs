//! What the engine's tests run plans with: bodies whose every turn is scripted, on a virtual clock.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use semver::{Version, VersionReq};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::{
    BackupSpec, CaSubject, ChartRef, ClusterSpec, DatabaseSpec, Identities, ImageSpec, Lab, MaliciousSpec, Provider,
    PullPolicy, SpireSpec, Timeouts, ToolRequirements, WorkloadSpec,
};
use crate::engine::{Body, Emitter, Event, RunInfo, RunResult, Sink, StepContext, execute};
use crate::error::Failure;
use crate::plan::{Explanation, Finding, Plan, Role, Step, StepId};
use crate::session::{Paths, Session};
use crate::tools::{Command, CommandError, CommandIo, Output, Runner, Tool};
use crate::world::{Clock, Connector, Fetcher, World};

/// What a scripted body does.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Act {
    /// It is already so.
    Satisfied,
    /// Makes it so in this many milliseconds.
    Takes(u64),
    /// Makes it so in this many milliseconds, and finishes that even when asked to stop.
    Finishes(u64),
    /// Its check fails.
    CheckFails(Failure),
    /// Its work fails after this many milliseconds.
    RunFails(u64),
    /// Its proof does not come; it says so itself at its deadline.
    NeverProven,
    /// Stops when asked, otherwise never ends.
    Hangs,
    /// Never ends, not even when asked to.
    Deaf,
    /// Panics.
    Panics,
}

struct Scripted(Act);

#[async_trait]
impl Body for Scripted {
    async fn check(&self, _: &StepContext) -> Result<Finding, Failure> {
        match &self.0 {
            Act::Satisfied => Ok(Finding::Satisfied("seen".into())),
            Act::CheckFails(failure) => Err(failure.clone()),
            _ => Ok(Finding::Missing("not there".into())),
        }
    }

    async fn run(&self, cx: &StepContext, _: &Finding) -> Result<(), Failure> {
        let time = Duration::from_millis;
        match &self.0 {
            Act::Takes(ms) => cx.sleep(time(*ms)).await,
            Act::RunFails(ms) => {
                cx.sleep(time(*ms)).await?;
                Err(Failure::tool("it broke").fact("last line").next("`mend it`"))
            }
            Act::Hangs => {
                cx.progress("waiting for nothing");
                cx.sleep(time(u64::from(u32::MAX))).await
            }
            Act::Finishes(ms) => {
                tokio::time::sleep(time(*ms)).await;
                Ok(())
            }
            Act::Deaf => {
                tokio::time::sleep(time(u64::from(u32::MAX))).await;
                Ok(())
            }
            Act::Panics => panic!("surprise in {}", cx.step()),
            Act::Satisfied | Act::CheckFails(_) | Act::NeverProven => Ok(()),
        }
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        if self.0 == Act::NeverProven {
            tokio::time::sleep_until(cx.deadline()).await;
            return Err(Failure::timeout("it never became so"));
        }
        Ok("proven".into())
    }
}

/// A step of a plan with its script.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) id: StepId,
    pub(crate) role: Role,
    pub(crate) needs: Vec<StepId>,
    pub(crate) act: Act,
}

pub(crate) fn goal(id: StepId, needs: &[StepId], act: Act) -> Part {
    Part { id, role: Role::Goal, needs: needs.to_vec(), act }
}

pub(crate) fn need(id: StepId, needs: &[StepId], act: Act) -> Part {
    Part { id, role: Role::Need, needs: needs.to_vec(), act }
}

/// The time limit of every step of [`plan`].
pub(crate) const TIMEOUT_S: u64 = 60;

pub(crate) fn plan(parts: &[Part]) -> Plan {
    let steps = parts
        .iter()
        .map(|part| Step {
            id: part.id,
            title: format!("make {}", part.id),
            role: part.role,
            needs: part.needs.clone(),
            timeout_s: TIMEOUT_S,
            finding: None,
            explanation: Explanation::default(),
        })
        .collect();
    Plan { schema: Plan::SCHEMA, lab: "test".into(), steps }
}

/// Runs a scripted plan on a paused clock; cancels it after `cancel_after` if given.
pub(crate) fn run(parts: &[Part], cancel_after: Option<Duration>) -> (RunResult, Vec<Event>) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    runtime.block_on(async {
        let clock = Arc::new(VirtualClock(Instant::now()));
        let seen = Arc::new(Recorder::default());
        let emitter = Emitter::new(clock.clone(), seen.clone());
        let acts: BTreeMap<StepId, Act> = parts.iter().map(|part| (part.id, part.act.clone())).collect();
        let body = move |id: StepId| -> Box<dyn Body> { Box::new(Scripted(acts[&id].clone())) };
        let info = RunInfo {
            run: "a-run".into(),
            command: "up".into(),
            coastal: "0.0.0".into(),
            next_ok: vec!["coastal status".into()],
            resume: Some("coastal up".into()),
        };
        let cancel = CancellationToken::new();
        let (plan, session) = (plan(parts), session(clock));
        let execution = execute(&plan, &info, &body, &session, &emitter, &cancel);
        let result = match cancel_after {
            None => execution.await,
            Some(after) => {
                let stop = async {
                    tokio::time::sleep(after).await;
                    cancel.cancel();
                    std::future::pending::<()>().await;
                };
                tokio::select! { biased; result = execution => result, () = stop => unreachable!("never ends") }
            }
        };
        (result, seen.events())
    })
}

/// Keeps every event.
#[derive(Default)]
pub(crate) struct Recorder(Mutex<Vec<Event>>);

impl Recorder {
    pub(crate) fn events(&self) -> Vec<Event> {
        self.0.lock().expect("not poisoned").clone()
    }
}

impl Sink for Recorder {
    fn take(&self, event: &Event) {
        self.0.lock().expect("not poisoned").push(event.clone());
    }
}

/// The epoch plus the time that has passed on tokio's clock.
struct VirtualClock(Instant);

impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::try_from(self.0.elapsed()).expect("a short run")
    }
}

/// A world that has nothing in it.
struct Nothing;

#[async_trait]
impl Runner for Nothing {
    async fn run(&self, command: &Command, _: CommandIo<'_>) -> Result<Output, CommandError> {
        Err(CommandError::NotFound { tool: command.tool })
    }

    fn locate(&self, _: Tool) -> Option<PathBuf> {
        None
    }
}

#[async_trait]
impl Connector for Nothing {
    async fn connect(&self, _: &str, _: &str) -> Result<kube::Client, Failure> {
        Err(Failure::unexpected("no cluster here"))
    }
}

#[async_trait]
impl Fetcher for Nothing {
    async fn fetch(&self, _: &str, _: &Path, _: &CancellationToken) -> Result<(), Failure> {
        Err(Failure::unexpected("no network here"))
    }
}

fn session(clock: Arc<dyn Clock>) -> Arc<Session> {
    let nothing = Arc::new(Nothing);
    let world = World { runner: nothing.clone(), connector: nothing.clone(), clock, fetcher: nothing };
    Session::new(lab(), world, Paths::new(PathBuf::from("/nonexistent")))
}

fn lab() -> Lab {
    let version = Version::new(1, 7, 2);
    let time = Duration::from_secs(TIMEOUT_S);
    Lab {
        name: "test".into(),
        file: None,
        cluster: ClusterSpec {
            provider: Provider::Kind { name: "test".into(), node_image: None, http_port: 8080, https_port: 8443 },
        },
        tools: ToolRequirements {
            kind: VersionReq::STAR,
            helm: VersionReq::STAR,
            kubectl: VersionReq::STAR,
            docker: VersionReq::STAR,
        },
        cert_manager: None,
        contour: None,
        monitoring: None,
        database: DatabaseSpec {
            image: "postgres:16".into(),
            storage: "1Gi".into(),
            database: "spire".into(),
            username: "spire".into(),
            manifest: None,
        },
        spire: SpireSpec {
            release: "spire".into(),
            release_namespace: "spire-server".into(),
            server_namespace: "spire-server".into(),
            system_namespace: "spire-system".into(),
            trust_domain: "coastal-containers.example".into(),
            cluster_name: "test".into(),
            server_version: version.clone(),
            agent_version: version,
            servers: 3,
            chart: ChartRef::Path(PathBuf::from("spire")),
            crds_chart: None,
            ca_subject: CaSubject { country: "NO".into(), organization: "o".into(), common_name: "c".into() },
            tornjak: false,
            values: None,
        },
        workload: WorkloadSpec {
            namespace: "default".into(),
            name: "workload".into(),
            image: "workload:1".into(),
            replicas: 5,
            cpu: "50m".into(),
            memory: "32Mi".into(),
        },
        malicious: MaliciousSpec { image: "nginx:1.25".into() },
        backup: BackupSpec { dir: None, recipients: Vec::new(), keep: 14, max_age: None },
        images: ImageSpec { pull: PullPolicy::IfNotPresent, archives: Vec::new() },
        identities: Identities::default(),
        timeouts: Timeouts { cluster: time, download: time, image: time, rollout: time, identity: time, removal: time },
    }
}
