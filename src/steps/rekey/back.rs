//! What comes back: servers with new keys, agents that trust them, workloads with SVIDs of them.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use jiff::SignedDuration;
use kube::ResourceExt;
use tokio::time::Instant;

use super::marker::{self, Marker, Phase};
use super::{ours, phase, through};
use crate::engine::{Body, StepContext};
use crate::error::Failure;
use crate::kube::Cluster;
use crate::plan::Finding;
use crate::spire::names;
use crate::spire::recovery::facts::{Facts, Workload};
use crate::spire::recovery::rows;
use crate::spire::rotation::{KeyType, Rekey};
use crate::steps::upgrade::half;
use crate::steps::{live, reach, recover, rotate, servers, spire};

/// Each server believes for a second what it has read of the bundle.
const HEARD_WITHIN: Duration = Duration::from_secs(5);
/// SPIRE sets an SVID's begin so long before the moment of issue.
const BACKDATE: SignedDuration = SignedDuration::from_secs(10);

/// [`crate::plan::RekeyPart::Servers`].
pub(super) struct Servers;

#[async_trait]
impl Body for Servers {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        if phase(cx).await? < Some(Phase::Served) {
            return Ok(Finding::Missing("they are started, and make new keys".into()));
        }
        Ok(match spire::healthy(cx).await {
            Ok(proof) => Finding::Satisfied(format!("{proof}, with new keys")),
            Err(failure) => Finding::Differs(failure.message),
        })
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        servers::start(cx, &reach::cluster(cx).await?).await
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        let cluster = reach::cluster(cx).await?;
        half::roll_servers(cx, &cluster).await?;
        let healthy = spire::healthy(cx).await?;
        let marker = ours(cx, &cluster).await?;
        let until = cx.deadline().min(Instant::now() + HEARD_WITHIN);
        let made = loop {
            match renewed(cx, &marker).await? {
                Ok(made) => break made,
                Err(why) if Instant::now() > until => {
                    // Somebody has started servers in between: the next run stops them and begins with the keys again.
                    if marker.phase < Phase::Served {
                        marker::write(cx, &cluster, Some(&Marker { phase: Phase::Aside, ..marker })).await?;
                    }
                    return Err(Failure::check_failed(why)
                        .next("`coastal logs server` shows what the servers did when they started"));
                }
                Err(why) => cx.progress(why),
            }
            cx.sleep(Duration::from_millis(500)).await?;
        };
        if marker.phase < Phase::Served {
            through(cx, Phase::Served, "every server runs with new keys").await?;
        }
        Ok(format!("{healthy}; {made}"))
    }
}

/// Whether every server has made authorities of its own, and a revocation has left no old one.
async fn renewed(cx: &StepContext, marker: &Marker) -> Result<Result<String, String>, Failure> {
    let servers = cx.session.lab.spire.servers as usize;
    let mut words = Vec::new();
    for key in KeyType::ALL {
        let view = rotate::view(cx, key).await?;
        let outgoing = marker.outgoing(key);
        let signs = |slots: &&crate::spire::rotation::Slots| outgoing.contains(&slots.active.id);
        if view.servers.values().flatten().any(|slots| signs(&slots)) {
            return Ok(Err(format!("a server still signs with its old {key} key")));
        }
        let made = view.bundle.keys().filter(|id| !outgoing.contains(*id)).count();
        if made < servers {
            return Ok(Err(format!("{made} new {key} authorities are in the bundle, of {servers} servers")));
        }
        let left = view.bundle.len() - made;
        if left > 0 && marker.method == Rekey::NewBundle {
            return Ok(Err(format!("{left} old {key} authorities are in the bundle")));
        }
        words.push(format!("{made} new {key}, {left} old"));
    }
    Ok(Ok(format!("authorities in the bundle: {}", words.join("; "))))
}

/// [`crate::plan::RekeyPart::Agents`].
pub(super) struct Agents;

#[async_trait]
impl Body for Agents {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        Ok(if phase(cx).await? >= Some(Phase::Agents) {
            Finding::Missing("whether they serve is looked at each time".into())
        } else {
            Finding::Differs("they have never heard of the authorities that sign now".into())
        })
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        if phase(cx).await? >= Some(Phase::Agents) {
            return Ok(());
        }
        let cluster = reach::cluster(cx).await?;
        let namespace = &cx.session.lab.spire.system_namespace;
        let names = agents(cx, &cluster).await?;
        recover::delete_pods(cx, &cluster, namespace, &names).await?;
        through(cx, Phase::Agents, &format!("{} agents are restarted", names.len())).await
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        recover::at_terms(cx).await
    }
}

async fn agents(cx: &StepContext, cluster: &Cluster) -> Result<Vec<String>, Failure> {
    let pods = live::pods(cluster, &cx.session.lab.spire.system_namespace, names::AGENT_SELECTOR).await?;
    let runs = |pod: &k8s_openapi::api::core::v1::Pod| {
        pod.spec.iter().flat_map(|spec| &spec.containers).any(|container| container.name == names::AGENT_CONTAINER)
    };
    Ok(pods.iter().filter(|pod| runs(pod)).map(ResourceExt::name_any).collect())
}

/// [`crate::plan::RekeyPart::Workloads`].
pub(super) struct Workloads;

/// What is still old of what a workload holds.
fn old(marker: &Marker, outgoing: &BTreeSet<String>, workload: &Workload) -> Option<String> {
    let held = workload.held.as_ref()?;
    let name = &workload.name;
    let of_old = match &held.anchor {
        Some(anchor) => outgoing.contains(anchor),
        // Its program does not show of which authority it is; of before the servers were back none is new.
        None => marker.served_at.is_some_and(|served| held.not_before + BACKDATE < served),
    };
    if of_old {
        return Some(format!("{name} holds an SVID of an old authority"));
    }
    let keeps = marker.method == Rekey::NewBundle && !held.bundle.is_disjoint(outgoing);
    keeps.then(|| format!("{name} still trusts an old authority"))
}

#[async_trait]
impl Body for Workloads {
    async fn check(&self, _cx: &StepContext) -> Result<Finding, Failure> {
        Ok(Finding::Missing("what they hold is looked at each time".into()))
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        let marker = ours(cx, &reach::cluster(cx).await?).await?;
        let outgoing = marker.outgoing(KeyType::X509);
        let trouble = |facts: &Facts, workload: &Workload| {
            rows::trouble(facts, workload).map(|(_, words)| words).or_else(|| old(&marker, &outgoing, workload))
        };
        Ok(format!("{}, of new authorities", recover::follow(cx, trouble).await?))
    }
}

/// [`crate::plan::RekeyPart::Gate`].
pub(super) struct Gate;

#[async_trait]
impl Body for Gate {
    async fn check(&self, _cx: &StepContext) -> Result<Finding, Failure> {
        Ok(Finding::Missing("a gate looks each time".into()))
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        let marker = ours(cx, &reach::cluster(cx).await?).await?;
        recover::issued(cx, "rekey", &marker.outgoing(KeyType::X509)).await
    }
}
