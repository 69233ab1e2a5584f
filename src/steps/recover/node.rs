//! Nodes of a kind cluster that are stopped: after a reboot, or by a drill.

use std::time::Duration;

use async_trait::async_trait;

use crate::engine::{Body, StepContext};
use crate::error::{Failure, Kind};
use crate::plan::Finding;
use crate::spire::recovery::Facts;
use crate::steps::recover::look;
use crate::tools::docker;

/// [`crate::spire::recovery::Part::Node`].
pub(super) struct Start;

fn asleep(facts: &Facts) -> Vec<String> {
    facts.nodes.iter().filter(|node| node.stopped).map(|node| node.name.clone()).collect()
}

fn unready(facts: &Facts) -> Option<String> {
    let node = facts.nodes.iter().find(|node| node.stopped || !node.ready)?;
    Some(format!("{} is {}", node.name, if node.stopped { "stopped" } else { "not ready" }))
}

#[async_trait]
impl Body for Start {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        let facts = look(cx).await?;
        Ok(match unready(&facts) {
            None => Finding::Satisfied(format!("{} nodes ready", facts.nodes.len())),
            Some(words) => Finding::Differs(words),
        })
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        let asleep = asleep(&look(cx).await?);
        if !asleep.is_empty() {
            cx.progress(format!("starting {}", asleep.join(", ")));
            cx.run(&docker::start(&asleep))
                .await
                .map_err(|error| docker::explain_daemon_trouble(&error).unwrap_or_else(|| Failure::from(error)))?;
        }
        Ok(())
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        loop {
            let state = match look(cx).await {
                Ok(facts) if facts.reached => match unready(&facts) {
                    None => return Ok(format!("{} nodes ready", facts.nodes.len())),
                    Some(words) => words,
                },
                Ok(_) => "the API server is not up yet".to_owned(),
                Err(failure) if matches!(failure.kind, Kind::Interrupted | Kind::Refused) => return Err(failure),
                // Its API server is on its way.
                Err(failure) => failure.message,
            };
            if cx.remaining() < Duration::from_secs(2) {
                return Err(Failure::timeout(format!("the nodes do not come up: {state}"))
                    .next("`docker ps --all` shows them, `docker logs NODE` what they say"));
            }
            cx.progress(state);
            cx.sleep(Duration::from_secs(1)).await?;
        }
    }
}
