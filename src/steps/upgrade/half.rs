//! Half a hop: the servers or the agents move, the others are pinned. One release, two phases.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::apps::v1::DaemonSet;
use semver::Version;

use crate::engine::{Body, StepContext};
use crate::error::{Failure, Kind};
use crate::kube::{Cluster, Rollout};
use crate::plan::Finding;
use crate::spire::path::Hop;
use crate::spire::policy::{self, Step};
use crate::spire::values::Images;
use crate::spire::{names, releases};
use crate::steps::live::{self, Live};
use crate::steps::reach;
use crate::steps::spire::explain_agents;
use crate::steps::upgrade::aim::Aim;
use crate::steps::upgrade::{hop, source, ways_on};

/// How often it is looked for pods that a StatefulSet will never replace.
const LOOK_FOR_STUCK: Duration = Duration::from_secs(3);

/// Which half.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Half {
    Servers,
    Agents,
}

impl fmt::Display for Half {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Half::Servers => "servers",
            Half::Agents => "agents",
        })
    }
}

impl Half {
    fn other(self) -> Self {
        match self {
            Half::Servers => Half::Agents,
            Half::Agents => Half::Servers,
        }
    }

    /// Its pods, and what their processes run.
    pub(super) fn pods(self, live: &Live) -> &[(String, Option<Version>)] {
        match self {
            Half::Servers => &live.servers,
            Half::Agents => &live.agents,
        }
    }

    /// How many of them there have to be.
    pub(super) fn wanted(self, cx: &StepContext, live: &Live) -> usize {
        match self {
            Half::Servers => cx.session.lab.spire.servers as usize,
            Half::Agents => live.agents.len().max(1),
        }
    }

    /// The versions that run, sorted, without repetition.
    fn versions(self, live: &Live) -> Vec<Version> {
        match self {
            Half::Servers => live.server_versions(),
            Half::Agents => live.agent_versions(),
        }
    }

    fn template(self, live: &Live) -> Result<Version, Failure> {
        let template = match self {
            Half::Servers => &live.server_template,
            Half::Agents => &live.agent_template,
        };
        template.clone().ok_or_else(|| no_template(self))
    }

    /// This half at `to`, the other as its template says.
    fn images(self, live: &Live, to: &Version) -> Result<Images, Failure> {
        let (to, other) = (to.clone(), self.other().template(live)?);
        Ok(match self {
            Half::Servers => Images { server: to, agent: other },
            Half::Agents => Images { server: other, agent: to },
        })
    }

    /// Whether all of them run `to`.
    pub(super) fn all_at(self, cx: &StepContext, live: &Live, to: &Version) -> Result<String, String> {
        all_at(self.pods(live), to, self.wanted(cx, live))
    }
}

/// Nobody else may have moved the versions since the plan was made: what runs is at the hop's start, at its end, or
/// on the way between.
fn undisturbed(half: Half, running: &[Version], hop: &Hop) -> Result<(), Failure> {
    let (low, high) = if hop.from <= hop.to { (&hop.from, &hop.to) } else { (&hop.to, &hop.from) };
    match running.iter().find(|version| *version < low || *version > high) {
        None => Ok(()),
        Some(version) => Err(Failure::refused(format!(
            "SPIRE {half} run {version}: somebody else has changed the release since the plan was made"
        ))
        .fact(format!("this hop goes from {} to {}", hop.from, hop.to))
        .next("run the same command again: it plans from what runs now")),
    }
}

fn no_template(half: Half) -> Failure {
    Failure::refused(format!("the image of the SPIRE {half} has no version for a tag: it cannot be pinned"))
        .next("set the image to a published version with `coastal spire-install`, then upgrade")
}

/// The rules once more, on what runs in the moment before it is changed: the plan was made from what ran then.
async fn still_legal(cx: &StepContext, half: Half, live: &Live, to: &Version) -> Result<(), Failure> {
    let (Some(release), Ok(state)) = (releases::find(to), live::seen(cx, live).await?.known(true)) else {
        return Err(Failure::refused(
            "what runs now cannot be judged any more: it has a version that was not published",
        )
        .next("`coastal status` shows what runs"));
    };
    let step = match half {
        Half::Servers => Step::Servers(release),
        Half::Agents => Step::Agents(release),
    };
    let mut broken = policy::judge(&state, &step).violations;
    broken.retain(|violation| violation.mandatory);
    let Some(first) = broken.first() else { return Ok(()) };
    Err(Failure::refused(format!(
        "the {half} may not go to {to} any more: what runs has changed since the plan was made"
    ))
    .facts(broken.iter().flat_map(|broken| broken.facts.iter().map(|fact| format!("{}: {fact}", broken.rule))))
    .next(first.way_out.clone())
    .next("run the same command again: it plans from what runs now"))
}

/// [`crate::plan::HopPart::Servers`] and [`crate::plan::HopPart::Agents`].
pub(super) struct Turn {
    pub(super) hop: u16,
    pub(super) half: Half,
}

impl Turn {
    fn aim(&self, cx: &StepContext, live: &Live) -> Result<Aim, Failure> {
        let hop = hop(cx, self.hop)?;
        undisturbed(self.half, &self.half.versions(live), hop)?;
        Ok(Aim::settled(source::current(cx, live)?, self.half.images(live, &hop.to)?))
    }
}

#[async_trait]
impl Body for Turn {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        let live = Live::look(cx).await?;
        let half = self.half;
        Ok(match self.aim(cx, &live)?.check(cx).await? {
            Finding::Satisfied(_) => match half.all_at(cx, &live, &hop(cx, self.hop)?.to) {
                Ok(proof) => Finding::Satisfied(format!("{half}: {proof}")),
                Err(missing) => Finding::Differs(format!("{half}: {missing}")),
            },
            other => other,
        })
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        let live = Live::look(cx).await?;
        let aim = self.aim(cx, &live)?;
        still_legal(cx, self.half, &live, &hop(cx, self.hop)?.to).await?;
        aim.apply(cx).await?;
        Ok(())
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        let hop = hop(cx, self.hop)?;
        let on = |failure| ways_on(cx, self.hop, failure);
        if self.half == Half::Agents {
            return roll_agents(cx, &hop.to).await.map_err(on);
        }
        let cluster = reach::cluster(cx).await?;
        roll_servers(cx, &cluster).await.map_err(on)?;
        let live = Live::look(cx).await?;
        undisturbed(self.half, &live.server_versions(), hop)?;
        self.half.all_at(cx, &live, &hop.to).map_err(|missing| {
            Failure::tool(format!("the rollout is over, and yet not all servers run {}: {missing}", hop.to))
        })
    }
}

/// Waits until the servers' StatefulSet is rolled out, and deletes what it would wait for in vain.
///
/// # Errors
/// A server of the newest template cannot start, or it takes too long.
pub(in crate::steps) async fn roll_servers(cx: &StepContext, cluster: &Cluster) -> Result<String, Failure> {
    let spire = &cx.session.lab.spire;
    let (namespace, name) = (&spire.server_namespace, names::server(spire));
    let free = async || {
        let freed = cluster.free_stuck_pods(namespace, &name).await?;
        for pod in &freed {
            cx.progress(format!("{pod} is broken and of an older revision: deleted, or the rollout would wait for it"));
        }
        Ok::<_, Failure>(freed.len())
    };
    let patience = cx.patience();
    loop {
        free().await?;
        let freeing = async {
            loop {
                cx.sleep(LOOK_FOR_STUCK).await?;
                free().await?;
            }
        };
        let result: Result<String, Failure> = tokio::select! {
            rolled = cluster.rolled_out(Rollout::StatefulSet, namespace, &name, &patience) => rolled,
            stopped = freeing => stopped,
        };
        match result {
            // What was beyond hope may have been a pod of the older revision.
            Err(failure) if failure.kind == Kind::Tool && free().await? > 0 => cx.progress(failure.message),
            Err(failure) => return Err(failure.context("the SPIRE servers do not come up")),
            Ok(proof) => return Ok(proof),
        }
    }
}

/// Waits until every agent runs `to`: by asking the processes, for their pods are Ready up to a minute later.
///
/// # Errors
/// An agent cannot start, or it takes too long.
pub(super) async fn roll_agents(cx: &StepContext, to: &Version) -> Result<String, Failure> {
    let spire = &cx.session.lab.spire;
    let cluster = reach::cluster(cx).await?;
    let places = [(spire.system_namespace.as_str(), names::AGENT_SELECTOR)];
    let waiting = async {
        loop {
            let updated = updated_agents(&cluster, cx).await?;
            let live = Live::look(cx).await?;
            let state = match (all_at(&live.agents, to, Half::Agents.wanted(cx, &live)), updated) {
                (Ok(proof), Ok(())) => return Ok(proof),
                (Err(missing), _) | (_, Err(missing)) => missing,
            };
            if cx.remaining() < Duration::from_secs(2) {
                return Err(Failure::timeout(format!("not all agents run {to}: {state}")));
            }
            cx.progress(state);
            cx.sleep(Duration::from_millis(700)).await?;
        }
    };
    let patience = cx.patience();
    let result = tokio::select! {
        result = waiting => result,
        doom = cluster.until_doomed(&places, &patience) => Err(doom),
    };
    match result {
        Err(failure) if failure.kind != Kind::Interrupted => Err(explain_agents(cx, &cluster, failure).await),
        other => other,
    }
}

/// Whether the DaemonSet's controller has made every pod from the newest template.
async fn updated_agents(cluster: &Cluster, cx: &StepContext) -> Result<Result<(), String>, Failure> {
    let spire = &cx.session.lab.spire;
    let set: Option<DaemonSet> = cluster.get(&spire.system_namespace, &names::agent(spire)).await?;
    let Some(set) = set else { return Ok(Err("the agents' DaemonSet is not there".into())) };
    let status = set.status.unwrap_or_default();
    if status.observed_generation < set.metadata.generation {
        return Ok(Err("the DaemonSet's controller has not seen the change yet".into()));
    }
    let (updated, wanted) = (status.updated_number_scheduled.unwrap_or(0), status.desired_number_scheduled);
    Ok(if updated < wanted { Err(format!("{updated} of {wanted} agents are of the new template")) } else { Ok(()) })
}

/// Whether `wanted` pods run, all at `version`.
pub(in crate::steps) fn all_at(
    pods: &[(String, Option<Version>)],
    version: &Version,
    wanted: usize,
) -> Result<String, String> {
    if let Some((pod, found)) = pods.iter().find(|(_, found)| found.as_ref() != Some(version)) {
        return Err(match found {
            Some(found) => format!("{pod} runs {found}"),
            None => format!("{pod} does not answer"),
        });
    }
    if pods.len() == wanted {
        Ok(format!("{wanted} of {wanted} run {version}"))
    } else {
        Err(format!("{} of {wanted} run", pods.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        text.parse().unwrap()
    }

    #[test]
    fn all_pods_at_one_version() {
        let pod = |name: &str, found: Option<&str>| (name.to_owned(), found.map(version));
        let to = version("1.8.0");
        assert_eq!(all_at(&[pod("a", Some("1.8.0")), pod("b", Some("1.8.0"))], &to, 2), Ok("2 of 2 run 1.8.0".into()));
        assert_eq!(all_at(&[pod("a", Some("1.8.0")), pod("b", Some("1.7.2"))], &to, 2), Err("b runs 1.7.2".into()));
        assert_eq!(all_at(&[pod("a", Some("1.8.0")), pod("b", None)], &to, 2), Err("b does not answer".into()));
        assert_eq!(all_at(&[pod("a", Some("1.8.0"))], &to, 2), Err("1 of 2 run".into()));
    }
}
