//! Agents that serve again, and that trust the servers again.

use std::time::Duration;

use async_trait::async_trait;

use crate::engine::{Body, StepContext};
use crate::error::Failure;
use crate::kube::{Cluster, describe_pod};
use crate::plan::Finding;
use crate::spire::names;
use crate::spire::recovery::Facts;
use crate::spire::recovery::diagnosis::distrust;
use crate::spire::recovery::facts::{AgentPod, PodState};
use crate::spire::recovery::loss::{TrustAfter, reaction};
use crate::steps::recover::{examine, look, recovery, servers};
use crate::steps::{live, reach, spire};

/// Agents ask their servers every five seconds: after three rounds one that does not trust them has said so.
const ROUNDS: Duration = Duration::from_secs(16);

/// [`crate::spire::recovery::Part::Agents`].
pub(super) struct Agents;

/// What is to be expected of the agents' trust, by what was seen to be lost.
fn expected(cx: &StepContext) -> Result<TrustAfter, Failure> {
    let notes = recovery(cx)?.notes();
    let outlook = notes.diagnosis.as_ref().and_then(|diagnosis| diagnosis.outlook.as_ref());
    Ok(outlook.map_or(TrustAfter::Kept, |outlook| outlook.trust))
}

/// Agents that have to begin anew, and why.
fn stale(facts: &Facts, trust: TrustAfter) -> Vec<(&AgentPod, String)> {
    let why = |agent: &AgentPod| match &agent.state {
        PodState::Broken(words) => Some(words.clone()),
        _ => distrust(facts, agent).or_else(|| {
            let unproven = trust == TrustAfter::Gone && facts.knows_bundle(&agent.node) != Some(true);
            (unproven && agent.state.serves()).then(|| "its bundle is of before the loss".to_owned())
        }),
    };
    facts.agents.pods.iter().filter_map(|agent| Some((agent, why(agent)?))).collect()
}

/// Whether it is known of every agent that it has the servers' bundle.
fn proven(facts: &Facts) -> bool {
    facts.agents.pods.iter().all(|agent| facts.knows_bundle(&agent.node) == Some(true))
}

/// Waits until no agent is on its way out: it would still say that it is well.
///
/// # Errors
/// One does not end in time.
pub(in crate::steps) async fn none_is_ending(cx: &StepContext, cluster: &Cluster) -> Result<(), Failure> {
    let namespace = &cx.session.lab.spire.system_namespace;
    loop {
        let pods = live::pods(cluster, namespace, names::AGENT_SELECTOR).await?;
        let Some(going) = pods.iter().find(|pod| pod.metadata.deletion_timestamp.is_some()) else { return Ok(()) };
        if cx.remaining() < Duration::from_secs(2) {
            return Err(Failure::timeout(format!("an old agent does not end: {}", describe_pod(going))));
        }
        cx.progress(describe_pod(going));
        cx.sleep(Duration::from_millis(500)).await?;
    }
}

#[async_trait]
impl Body for Agents {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        let (facts, _) = examine(cx).await?;
        let trust = expected(cx)?;
        let agents = &facts.agents;
        if let Some((agent, why)) = stale(&facts, trust).first() {
            return Ok(Finding::Differs(format!("{}: {why}", agent.name)));
        }
        let serving = agents.pods.iter().filter(|agent| agent.state.serves()).count();
        Ok(if !agents.there || serving < agents.wanted.max(1) || serving < agents.pods.len() {
            Finding::Missing(format!("{serving} of {} serve the Workload API", agents.wanted.max(1)))
        } else if trust != TrustAfter::Kept && !proven(&facts) {
            Finding::Differs("whether they trust the new authorities has to be seen".into())
        } else {
            Finding::Satisfied(format!("{serving} of {} serve, and none complains", agents.wanted.max(1)))
        })
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        let begun = tokio::time::Instant::now();
        let (facts, trust) = loop {
            let (facts, _) = examine(cx).await?;
            let trust = expected(cx)?;
            let watched = trust == TrustAfter::ByAnother && !proven(&facts) && begun.elapsed() < ROUNDS;
            if !watched || !stale(&facts, trust).is_empty() {
                break (facts, trust);
            }
            cx.progress("watching whether the agents trust the new authorities");
            cx.sleep(Duration::from_secs(2)).await?;
        };
        let chart = facts.current.as_ref().and_then(|current| current.chart.clone());
        let mut names = Vec::new();
        for (agent, why) in stale(&facts, trust) {
            let version = agent.version.as_ref().or(facts.agents.template.as_ref());
            let then = version.map(|version| reaction(version, chart.as_ref()).words());
            let then = then.filter(|_| agent.state.serves()).map_or_else(String::new, |then| format!("; {then}"));
            cx.progress(format!("{}: {why}{then}", agent.name));
            names.push(agent.name.clone());
        }
        let cluster = reach::cluster(cx).await?;
        servers::delete_pods(cx, &cluster, &cx.session.lab.spire.system_namespace, &names).await
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        at_terms(cx).await.map_err(|failure| failure.next("then `coastal recover` again"))
    }
}

/// Waits until every agent serves, trusts the servers, and is known to them.
///
/// # Errors
/// One does not in time: which, and what it says.
pub(in crate::steps) async fn at_terms(cx: &StepContext) -> Result<String, Failure> {
    let cluster = reach::cluster(cx).await?;
    none_is_ending(cx, &cluster).await?;
    let serving = spire::serving(cx, &cluster).await?;
    loop {
        let facts = look(cx).await?;
        let trouble = facts.agents.pods.iter().find_map(|agent| {
            let unknown = (agent.attested == Some(false)).then(|| "no server has a record of it".to_owned());
            Some(format!("{}: {}", agent.name, distrust(&facts, agent).or(unknown)?))
        });
        let Some(trouble) = trouble else { return Ok(format!("{serving}, and the servers know them")) };
        if cx.remaining() < Duration::from_secs(2) {
            return Err(Failure::timeout(format!("an agent does not come to terms with the servers: {trouble}"))
                .next("`coastal logs agent` shows what it says"));
        }
        cx.progress(trouble);
        cx.sleep(Duration::from_secs(1)).await?;
    }
}
