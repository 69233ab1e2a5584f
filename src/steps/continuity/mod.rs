//! The continuity meter on a cluster: which pods there are, when they lived, and what they logged.
//!
//! Whatever cannot be had (a log that is not readable, a pod that has gone) becomes part of the observation as such.
//! What it means is for [`meter`] to say.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use async_trait::async_trait;
use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use serde::{Deserialize, Serialize};

use crate::engine::{Body, StepContext};
use crate::error::{Failure, Kind};
use crate::kube::{Cluster, LogOf};
use crate::plan::{Finding, Recovery};
use crate::spire::names;
use crate::steps::manifests::WORKLOAD_CONTAINER;
use crate::steps::{reach, workload};
use crate::workload::lines_in;
use crate::workload::meter::{self, Life, Line, Observation, Report, TOLERANCE, Unread, Verdict, Window};

/// How much of a log before the window is read at first. It nearly always shows what was held when the window began:
/// SVIDs of SPIRE's defaults and of the chart's live an hour or four and are renewed at half their life.
const HISTORY: SignedDuration = SignedDuration::from_hours(3);

/// A measurement that has begun. It can be kept (it is data) and finished by a later process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meter {
    /// When it began.
    start: Timestamp,
    /// The pods that were there then, by uid; absent if nobody looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pods: Option<BTreeMap<String, Remembered>>,
}

/// A pod that was there when the measurement began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Remembered {
    name: String,
    created_at: Timestamp,
}

impl Meter {
    /// Begins a measurement now, and remembers the workload's pods: one that is gone when it is finished took its log
    /// with it.
    ///
    /// # Errors
    /// The cluster or its pods cannot be reached.
    pub async fn start(cx: &StepContext) -> Result<Self, Failure> {
        let start = cx.session.world.clock.now();
        let cluster = reach::cluster(cx).await?;
        let remembered = |pod: Pod| {
            let (uid, name, created_at) = (pod.uid().unwrap_or_default(), pod.name_any(), created_at(&pod));
            (uid, Remembered { name, created_at })
        };
        let pods = workload::pods(cx, &cluster).await?.into_iter().map(remembered).collect();
        Ok(Meter { start, pods: Some(pods) })
    }

    /// A measurement that began then, of which nothing else was kept. Pods that have gone since cannot be known by
    /// name; that some have is concluded from the age of those that are there.
    #[must_use]
    pub fn since(start: Timestamp) -> Self {
        Meter { start, pods: None }
    }

    /// When it began.
    #[must_use]
    pub fn began(&self) -> Timestamp {
        self.start
    }

    /// Measures until now. Can be asked again: each answer is about the whole time since the start.
    ///
    /// What cannot be read makes the report's figures unknown; it is not an error.
    ///
    /// # Errors
    /// The run is to stop.
    pub async fn finish(&self, cx: &StepContext) -> Result<Report, Failure> {
        let window = Window { start: self.start, end: cx.session.world.clock.now() };
        let observation = match cx.patience().limit(self.observe(cx, window)).await? {
            Some(Ok(observation)) => observation,
            Some(Err(failure)) if failure.kind == Kind::Interrupted => return Err(failure),
            Some(Err(failure)) => self.blind(cx, window, failure.message),
            None => self.blind(cx, window, "the pods' logs could not be read in time".into()),
        };
        Ok(meter::measure(&observation))
    }

    async fn observe(&self, cx: &StepContext, window: Window) -> Result<Observation, Failure> {
        let cluster = reach::cluster(cx).await?;
        let there = workload::pods(cx, &cluster).await?;
        let pods = join_all(there.iter().map(|pod| observed(&cluster, pod, window))).await;
        let lost = self.forgotten(cx, &pods).into_iter().collect();
        let gone = self.pods.iter().flatten().filter(|(uid, _)| !pods.iter().any(|pod| pod.uid == **uid));
        let gone = gone.map(|(uid, pod)| pod.lost(uid, "the pod is gone, and its log with it"));
        let pods = gone.chain(pods.iter().cloned()).collect();
        Ok(Observation { window, spiffe_id: Some(spiffe_id(cx)), pods, lost, tolerance: TOLERANCE })
    }

    /// The Deployment replaces a pod that goes. So if nobody remembers the pods of the start, but there are as many old
    /// ones as the lab wants, they are those.
    fn forgotten(&self, cx: &StepContext, pods: &[meter::Pod]) -> Option<String> {
        let wanted = cx.session.lab.workload.replicas as usize;
        let old = pods.iter().filter(|pod| pod.created_at <= self.start).count();
        (self.pods.is_none() && old < wanted).then(|| {
            format!(
                "{old} of {wanted} pods have been there since {:.0}; nobody remembers the others of then",
                self.start
            )
        })
    }

    /// What is left if nothing can be read.
    fn blind(&self, cx: &StepContext, window: Window, why: String) -> Observation {
        let pods = self.pods.iter().flatten().map(|(uid, pod)| pod.lost(uid, &why)).collect();
        Observation { window, spiffe_id: Some(spiffe_id(cx)), pods, lost: vec![why], tolerance: TOLERANCE }
    }
}

impl Remembered {
    fn lost(&self, uid: &str, why: &str) -> meter::Pod {
        let unread = Some(Unread { since: None, why: why.to_owned() });
        let life = Life { started_at: self.created_at, ended_at: None, whole: false, lines: Vec::new(), unread };
        meter::Pod { name: self.name.clone(), uid: uid.to_owned(), created_at: self.created_at, lives: vec![life] }
    }
}

fn spiffe_id(cx: &StepContext) -> String {
    let lab = &cx.session.lab;
    names::workload_id(&lab.spire.trust_domain, &lab.workload.namespace, &lab.workload.name)
}

fn created_at(pod: &Pod) -> Timestamp {
    pod.metadata.creation_timestamp.as_ref().map_or(Timestamp::MIN, |Time(at)| *at)
}

/// A pod with everything that its container logged and that can still be had.
async fn observed(cluster: &Cluster, pod: &Pod, window: Window) -> meter::Pod {
    let container = WORKLOAD_CONTAINER;
    let lives = runs_of(pod, container);
    let lives = join_all(lives.into_iter().map(|run| read(cluster, pod, container, run, window))).await;
    meter::Pod { name: pod.name_any(), uid: pod.uid().unwrap_or_default(), created_at: created_at(pod), lives }
}

/// A run of the container, as the pod's status tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Run {
    started_at: Timestamp,
    ended_at: Option<Timestamp>,
    log: Log,
}

/// Where a run's log is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Log {
    Current,
    Previous,
    /// The kubelet keeps two.
    Gone,
}

/// The runs of a container, oldest first. All those whose logs are gone are one.
fn runs_of(pod: &Pod, container: &str) -> Vec<Run> {
    let Some(status) = pod.status.as_ref() else { return Vec::new() };
    let Some(of_container) = status.container_statuses.iter().flatten().find(|status| status.name == container) else {
        return Vec::new();
    };
    let first = status.start_time.as_ref().map_or_else(|| created_at(pod), |Time(at)| *at);
    let last = of_container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    let previous = |log| last.map(|ended| ended_run(ended, log, of_container, first));
    let mut runs = match of_container.state.as_ref() {
        Some(state) if let Some(running) = &state.running => {
            let started_at = running.started_at.as_ref().map_or(first, |Time(at)| *at);
            vec![previous(Log::Previous), Some(Run { started_at, ended_at: None, log: Log::Current })]
        }
        Some(state) if let Some(ended) = &state.terminated => {
            vec![previous(Log::Previous), Some(ended_run(ended, Log::Current, of_container, first))]
        }
        // While a container waits to be started again, its log is still that of the last run.
        _ => vec![previous(Log::Current)],
    }
    .into_iter()
    .flatten()
    .collect::<Vec<_>>();
    let told = i32::try_from(runs.len()).unwrap_or(i32::MAX);
    if let Some(earliest) = runs.first()
        && of_container.restart_count >= told
    {
        let (started_at, ended_at) = (first.min(earliest.started_at), Some(earliest.started_at));
        runs.insert(0, Run { started_at, ended_at, log: Log::Gone });
    }
    runs
}

fn ended_run(ended: &ContainerStateTerminated, log: Log, of: &ContainerStatus, first: Timestamp) -> Run {
    let time = |time: &Option<Time>| time.as_ref().map(|Time(at)| *at);
    let ended_at = time(&ended.finished_at);
    // If it is not told, all that is known of one that is not the first is when it ended.
    let unknown = if of.restart_count <= 1 { Some(first) } else { ended_at };
    Run { started_at: time(&ended.started_at).or(unknown).unwrap_or(first), ended_at, log }
}

/// Reads what matters of a run's log.
async fn read(cluster: &Cluster, pod: &Pod, container: &str, run: Run, window: Window) -> Life {
    let Run { started_at, ended_at, log } = run;
    let life = Life { started_at, ended_at, whole: false, lines: Vec::new(), unread: None };
    let unread = |why: String| Some(Unread { since: None, why });
    if ended_at.is_some_and(|ended| ended < window.start) {
        return Life { unread: unread("it ended before the window".into()), ..life };
    }
    let previous = match log {
        Log::Current => false,
        Log::Previous => true,
        Log::Gone => {
            return Life { unread: unread("its container was started again, and that log is gone".into()), ..life };
        }
    };
    let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
    let of = LogOf { namespace: &namespace, pod: &name, container, previous, since: None };
    // The rest of a long log is asked for only if the last SVID before the window is not in the part that is near.
    let near = window.start.checked_sub(HISTORY).ok().filter(|near| started_at < *near);
    if let Some(near) = near
        && let Ok(log) = cluster.log_text(LogOf { since: Some(near), ..of }).await
        && log.broke_off.is_none()
    {
        let lines = lines_in(&log.text);
        if lines.iter().filter_map(received_at).any(|at| at <= window.start) {
            return Life { lines, ..life };
        }
    }
    match cluster.log_text(of).await {
        Err(failure) => Life { unread: unread(failure.message), ..life },
        Ok(log) => {
            let lines = lines_in(&log.text);
            let since = lines.iter().filter_map(time_of).max();
            let unread = log.broke_off.map(|why| Unread { since, why: format!("its log broke off: {why}") });
            Life { whole: true, lines, unread, ..life }
        }
    }
}

fn received_at(line: &Line) -> Option<Timestamp> {
    if let Line::Update(update) = line { update.received_at } else { None }
}

fn time_of(line: &Line) -> Option<Timestamp> {
    match line {
        Line::Update(update) => update.received_at,
        Line::Connection(connection) => Some(connection.at),
    }
}

/// [`crate::plan::StepId::Continuity`].
pub struct Continuity;

#[async_trait]
impl Body for Continuity {
    async fn check(&self, _cx: &StepContext) -> Result<Finding, Failure> {
        Ok(Finding::Missing("added up at the end".into()))
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        let report = so_far(cx).await?;
        cx.report(&report)?;
        unbroken(&report)?;
        Ok(report.to_string())
    }
}

/// What the meter says of the time since the change began.
///
/// # Errors
/// The run is to stop.
pub async fn so_far(cx: &StepContext) -> Result<Report, Failure> {
    let change = cx.session.change.as_ref().map(|change| change.since);
    let rotation = || cx.session.rotation.as_ref().map(|rotation| rotation.since);
    let recovery = || cx.session.recovery.as_ref().map(Recovery::began);
    let since = change.or_else(rotation).or_else(recovery).unwrap_or_else(|| cx.session.world.clock.now());
    Meter::since(since).finish(cx).await
}

/// That no pod is known to have been without a valid SVID. What is not known is no proof of a gap.
///
/// # Errors
/// One was: which pods, how long, and why.
pub fn unbroken(report: &Report) -> Result<(), Failure> {
    if report.verdict != Verdict::Broken {
        return Ok(());
    }
    let gaps = report.pods.iter().flat_map(|pod| {
        pod.gaps.iter().map(move |gap| format!("{}: {} to {}: {}", pod.name, gap.begin, gap.end, gap.cause))
    });
    Err(Failure::check_failed(format!("workloads lost their identity: {report}"))
        .facts(gaps)
        .next("`coastal logs workload` shows what the pods say; `coastal status` what SPIRE does"))
}
