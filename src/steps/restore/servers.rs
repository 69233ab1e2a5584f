//! Servers down, servers up, and the agents after them.

use async_trait::async_trait;
use kube::ResourceExt;
use kube::core::DynamicObject;
use semver::Version;

use super::marker::{self, Marker, Phase};
use super::{ours, reached, restoration, stands};
use crate::engine::{Body, StepContext};
use crate::error::Failure;
use crate::kube::Cluster;
use crate::plan::Finding;
use crate::spire::names;
use crate::spire::values::Images;
use crate::steps::live::{self, Live};
use crate::steps::upgrade::aim::Aim;
use crate::steps::upgrade::{half, source};
use crate::steps::{reach, recover, servers, spire};

/// [`crate::plan::RestorePart::Stop`].
pub(super) struct Stop;

#[async_trait]
impl Body for Stop {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        if reached(cx, Phase::Keys).await? {
            return Ok(Finding::Satisfied("they were, and database and keys are back".into()));
        }
        servers::down(cx, &reach::cluster(cx).await?).await
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        let stopped = servers::stop(cx, &reach::cluster(cx).await?).await;
        stopped.map_err(|failure| stands(cx, failure))
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        match self.check(cx).await? {
            Finding::Satisfied(_) => Ok("no server runs; workloads keep the SVIDs that they have".into()),
            other => Err(stands(cx, Failure::tool(other.detail().to_owned()))),
        }
    }
}

/// [`crate::plan::RestorePart::Servers`].
pub(super) struct Start;

#[async_trait]
impl Body for Start {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        let restoration = restoration(cx)?;
        let live = Live::look(cx).await?;
        let wanted = cx.session.lab.spire.servers as usize;
        let right = |version: &Option<Version>| version.as_ref() == Some(&restoration.version);
        let running = live.servers.iter().filter(|(_, version)| right(version)).count();
        // A process tells its version before it serves.
        let up = running == wanted && reached(cx, Phase::Keys).await? && spire::healthy(cx).await.is_ok();
        Ok(if up {
            Finding::Satisfied(format!("{wanted} of {wanted} run {}", restoration.version))
        } else {
            Finding::Missing(format!("{running} of {wanted} run {}", restoration.version))
        })
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        let restoration = restoration(cx)?;
        let cluster = reach::cluster(cx).await?;
        if let Some((server, agent)) = &restoration.install {
            let spire = &cx.session.lab.spire;
            let live = Live::look(cx).await?;
            let chart = if live.chart.is_some() { source::current(cx, &live)? } else { spire.chart.clone() };
            let images = Images { server: server.clone(), agent: agent.clone() };
            let installed = Aim::settled(chart, images).apply(cx).await;
            installed.map_err(|failure| stands(cx, failure))?;
        }
        servers::start(cx, &cluster).await
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        let cluster = reach::cluster(cx).await?;
        let proof = async {
            let rolled = half::roll_servers(cx, &cluster).await?;
            let healthy = spire::healthy(cx).await?;
            Ok(format!("{rolled}; {healthy}"))
        };
        proof.await.map_err(|failure| stands(cx, failure))
    }
}

/// What people had made themselves, where the release was made anew: entries that stem from such an object would go with
/// the next round of the controller manager. Only now does its webhook answer.
async fn custom_resources(cx: &StepContext, cluster: &Cluster) -> Result<(), Failure> {
    let restoration = restoration(cx)?;
    if restoration.install.is_none() {
        return Ok(());
    }
    let helms = |object: &&serde_json::Value| {
        object.pointer("/metadata/labels/app.kubernetes.io~1managed-by").is_some_and(|by| by == "Helm")
    };
    let own = restoration.contents.resources.iter().filter(|object| !helms(object));
    let read = |object: &serde_json::Value| serde_json::from_value::<DynamicObject>(object.clone());
    let objects: Vec<DynamicObject> = own
        .map(read)
        .collect::<Result<_, _>>()
        .map_err(|error| Failure::refused(format!("the backup holds an object that is none: {error}")))?;
    if !objects.is_empty() {
        cx.progress(format!("{} custom resources", objects.len()));
    }
    cluster.apply(&objects, &cx.patience()).await.map_err(|failure| stands(cx, failure))
}

/// [`crate::plan::RestorePart::Agents`].
pub(super) struct Agents;

#[async_trait]
impl Body for Agents {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        let cluster = reach::cluster(cx).await?;
        Ok(if ours(cx, &cluster).await?.is_some_and(|marker| marker.agents_begin_anew) {
            Finding::Differs("they hold another bundle than the one that is back".into())
        } else {
            Finding::Missing("whether they serve is looked at each time".into())
        })
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        let cluster = reach::cluster(cx).await?;
        custom_resources(cx, &cluster).await?;
        let Some(marker) = ours(cx, &cluster).await?.filter(|marker| marker.agents_begin_anew) else { return Ok(()) };
        let namespace = &cx.session.lab.spire.system_namespace;
        let pods = live::pods(&cluster, namespace, names::AGENT_SELECTOR).await?;
        let names: Vec<String> = pods.iter().map(ResourceExt::name_any).collect();
        recover::delete_pods(cx, &cluster, namespace, &names).await?;
        marker::write(cx, &cluster, Some(&Marker { agents_begin_anew: false, ..marker })).await
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        let cluster = reach::cluster(cx).await?;
        let serving = async {
            recover::none_is_ending(cx, &cluster).await?;
            spire::serving(cx, &cluster).await
        };
        serving.await.map_err(|failure| stands(cx, failure))
    }
}
