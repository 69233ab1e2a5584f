//! Servers or agents move, the others are pinned: one release, two phases.

use async_trait::async_trait;
use semver::Version;

use crate::config::ChartRef;
use crate::engine::{Body, StepContext};
use crate::error::{Failure, Kind};
use crate::kube::{Cluster, Rollout};
use crate::plan::Finding;
use crate::spire::names;
use crate::spire::path::Hop;
use crate::spire::values::{Images, Phase};
use crate::steps::fetch::{chart_path, read_chart};
use crate::steps::live::Live;
use crate::steps::release::Wanted;
use crate::steps::spire::explain_agents;
use crate::steps::upgrade::{chart, hop, ways_on};
use crate::steps::{reach, values};

/// How often it is looked for pods that a StatefulSet will never replace.
const LOOK_FOR_STUCK: std::time::Duration = std::time::Duration::from_secs(3);

/// The version that a chart at hand has.
pub(in crate::steps) fn chart_version(cx: &StepContext, chart: &ChartRef) -> Result<Version, Failure> {
    let meta = read_chart(&chart_path(cx, chart))?;
    Version::parse(&meta.version).map_err(|error| {
        Failure::prerequisite(format!("chart {} has the version `{}`: {error}", meta.name, meta.version))
    })
}

/// The release at those images, on that chart.
pub(in crate::steps) fn release<'a>(
    cx: &'a StepContext,
    images: &Images,
    chart: &'a ChartRef,
    phase: Phase,
) -> Result<Wanted<'a>, Failure> {
    let spire = &cx.session.lab.spire;
    let version = chart_version(cx, chart)?;
    Ok(Wanted {
        name: &spire.release,
        namespace: &spire.release_namespace,
        chart,
        values: values::spire_values(&cx.session.lab, &version, images, phase)?,
        watch: vec![&spire.server_namespace, &spire.system_namespace],
    })
}

/// Nobody else may have moved the versions since the plan was made: what runs is at the hop's start, at its end, or
/// on the way between.
fn undisturbed(what: &str, running: &[Version], hop: &Hop) -> Result<(), Failure> {
    let (low, high) = if hop.from <= hop.to { (&hop.from, &hop.to) } else { (&hop.to, &hop.from) };
    match running.iter().find(|version| *version < low || *version > high) {
        None => Ok(()),
        Some(version) => Err(Failure::refused(format!(
            "SPIRE {what} run {version}: somebody else has changed the release since the plan was made"
        ))
        .fact(format!("this hop goes from {} to {}", hop.from, hop.to))
        .next("run the same command again: it plans from what runs now")),
    }
}

fn no_template(what: &str) -> Failure {
    Failure::refused(format!("the image of the SPIRE {what} has no version for a tag: it cannot be pinned"))
        .next("set the image to a published version with `coastal spire-install`, then upgrade")
}

/// [`crate::plan::HopPart::Servers`].
pub(super) struct Servers(pub(super) u16);

impl Servers {
    fn images(&self, cx: &StepContext, live: &Live) -> Result<Images, Failure> {
        let hop = hop(cx, self.0)?;
        undisturbed("servers", &live.server_versions(), hop)?;
        let agent = live.agent_template.clone().ok_or_else(|| no_template("agents"))?;
        Ok(Images { server: hop.to.clone(), agent })
    }
}

#[async_trait]
impl Body for Servers {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        let live = Live::look(cx).await?;
        let images = self.images(cx, &live)?;
        let chart = chart::current(cx, &live)?;
        Ok(match release(cx, &images, &chart, Phase::Settled)?.check(cx).await? {
            Finding::Satisfied(_) => match all_at(&live.servers, &images.server, cx.session.lab.spire.servers as usize)
            {
                Ok(proof) => Finding::Satisfied(format!("servers: {proof}")),
                Err(missing) => Finding::Differs(format!("servers: {missing}")),
            },
            other => other,
        })
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        let live = Live::look(cx).await?;
        let images = self.images(cx, &live)?;
        let chart = chart::current(cx, &live)?;
        chart::install(cx, &release(cx, &images, &chart, Phase::Settled)?, &images, Phase::Settled).await?;
        Ok(())
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        let cluster = reach::cluster(cx).await?;
        roll_servers(cx, &cluster).await.map_err(|failure| ways_on(cx, self.0, failure))?;
        let live = Live::look(cx).await?;
        let hop = hop(cx, self.0)?;
        undisturbed("servers", &live.server_versions(), hop)?;
        let to = &hop.to;
        all_at(&live.servers, to, cx.session.lab.spire.servers as usize).map_err(|missing| {
            Failure::tool(format!("the rollout is over, and yet not all servers run {to}: {missing}"))
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

/// [`crate::plan::HopPart::Agents`].
pub(super) struct Agents(pub(super) u16);

impl Agents {
    fn images(&self, cx: &StepContext, live: &Live) -> Result<Images, Failure> {
        let hop = hop(cx, self.0)?;
        undisturbed("agents", &live.agent_versions(), hop)?;
        let server = live.server_template.clone().ok_or_else(|| no_template("servers"))?;
        Ok(Images { server, agent: hop.to.clone() })
    }

    fn wanted(live: &Live) -> usize {
        live.agents.len().max(1)
    }
}

#[async_trait]
impl Body for Agents {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        let live = Live::look(cx).await?;
        let images = self.images(cx, &live)?;
        let chart = chart::current(cx, &live)?;
        Ok(match release(cx, &images, &chart, Phase::Settled)?.check(cx).await? {
            Finding::Satisfied(_) => match all_at(&live.agents, &images.agent, Agents::wanted(&live)) {
                Ok(proof) => Finding::Satisfied(format!("agents: {proof}")),
                Err(missing) => Finding::Differs(format!("agents: {missing}")),
            },
            other => other,
        })
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        let live = Live::look(cx).await?;
        let images = self.images(cx, &live)?;
        let chart = chart::current(cx, &live)?;
        chart::install(cx, &release(cx, &images, &chart, Phase::Settled)?, &images, Phase::Settled).await?;
        Ok(())
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        let to = &hop(cx, self.0)?.to;
        roll_agents(cx, to).await.map_err(|failure| ways_on(cx, self.0, failure))
    }
}

/// Waits until every agent runs `to`: by asking the processes, for their pods are Ready up to a minute later.
///
/// # Errors
/// An agent cannot start, or it takes too long.
pub(in crate::steps) async fn roll_agents(cx: &StepContext, to: &Version) -> Result<String, Failure> {
    let spire = &cx.session.lab.spire;
    let cluster = reach::cluster(cx).await?;
    let places = [(spire.system_namespace.as_str(), names::AGENT_SELECTOR)];
    let waiting = async {
        loop {
            let updated = updated_agents(&cluster, cx).await?;
            let live = Live::look(cx).await?;
            let state = match (all_at(&live.agents, to, Agents::wanted(&live)), updated) {
                (Ok(proof), Ok(())) => return Ok(proof),
                (Err(missing), _) | (_, Err(missing)) => missing,
            };
            if cx.remaining() < std::time::Duration::from_secs(2) {
                return Err(Failure::timeout(format!("not all agents run {to}: {state}")));
            }
            cx.progress(state);
            cx.sleep(std::time::Duration::from_millis(700)).await?;
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
    use k8s_openapi::api::apps::v1::DaemonSet;
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
