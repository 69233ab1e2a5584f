//! The release: as lab.toml wants it, at the current versions. Values are computed anew; no old revision is gone back
//! to, for its images may be ones that the data store does not let in.

use async_trait::async_trait;
use k8s_openapi::api::apps::v1::{DaemonSet, StatefulSet};

use crate::engine::{Body, StepContext};
use crate::error::Failure;
use crate::plan::Finding;
use crate::spire::names;
use crate::spire::recovery::Facts;
use crate::spire::values::Images;
use crate::steps::recover::{look, versions};
use crate::steps::upgrade::aim::Aim;
use crate::steps::upgrade::source;
use crate::steps::{fetch, reach};

/// [`crate::spire::recovery::Part::Release`].
pub(super) struct Release;

/// What is gone back to: chart and images.
fn aim(cx: &StepContext, facts: &Facts) -> Result<Aim, Failure> {
    let current = versions(facts)?;
    let chart = match &current.chart {
        Some(version) => source::source(cx, "spire", version)?,
        None => cx.session.lab.spire.chart.clone(),
    };
    Ok(Aim::settled(chart, Images { server: current.server, agent: current.agent }))
}

#[async_trait]
impl Body for Release {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        let facts = look(cx).await?;
        let aim = aim(cx, &facts)?;
        if !facts.servers.there {
            return Ok(Finding::Missing("the servers' StatefulSet is not there".into()));
        }
        if !facts.agents.there {
            return Ok(Finding::Missing("the agents' DaemonSet is not there".into()));
        }
        if facts.servers.asked != facts.servers.wanted {
            return Ok(Finding::Differs(format!("the StatefulSet asks for {} servers", facts.servers.asked)));
        }
        for (what, template, wanted) in [
            ("servers", &facts.servers.template, &aim.images.server),
            ("agents", &facts.agents.template, &aim.images.agent),
        ] {
            if template.as_ref() != Some(wanted) {
                let asks = template.as_ref().map_or_else(|| "no known version".to_owned(), ToString::to_string);
                return Ok(Finding::Differs(format!("the {what}' template asks for {asks}, not {wanted}")));
            }
        }
        let at_hand = fetch::at_hand(cx, [&aim.chart])?;
        if !at_hand.is_satisfied() {
            return Ok(Finding::Differs(at_hand.detail().to_owned()));
        }
        aim.check(cx).await
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        let facts = look(cx).await?;
        let aim = aim(cx, &facts)?;
        if let Some(current) = &facts.current {
            cx.progress(format!("back to SPIRE {} (agents {}): {}", current.server, current.agent, current.because()));
        }
        if !fetch::at_hand(cx, [&aim.chart])?.is_satisfied() {
            source::bring(cx, std::slice::from_ref(&aim.chart)).await?;
        }
        aim.apply(cx).await.map(drop)
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        let spire = &cx.session.lab.spire;
        let cluster = reach::cluster(cx).await?;
        let servers = cluster.get::<StatefulSet>(&spire.server_namespace, &names::server(spire)).await?;
        let agents = cluster.get::<DaemonSet>(&spire.system_namespace, &names::agent(spire)).await?;
        if servers.is_none() || agents.is_none() {
            return Err(Failure::tool("helm said that it was done, and yet servers or agents are not there")
                .next("`coastal status` shows what is"));
        }
        let live = crate::steps::live::Live::look(cx).await?;
        let tell = |version: &Option<semver::Version>| version.as_ref().map_or("?".to_owned(), ToString::to_string);
        Ok(format!("servers are to be {}, agents {}", tell(&live.server_template), tell(&live.agent_template)))
    }
}
