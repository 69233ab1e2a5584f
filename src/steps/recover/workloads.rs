//! Workloads that hold SVIDs of the servers' bundle again.

use std::time::Duration;

use async_trait::async_trait;

use crate::engine::{Body, StepContext};
use crate::error::Failure;
use crate::plan::Finding;
use crate::spire::recovery::Condition;
use crate::spire::recovery::facts::{Facts, Workload};
use crate::spire::recovery::rows;
use crate::steps::reach;
use crate::steps::recover::{look, servers};

/// A gRPC client that met a missing socket waits up to two minutes before it tries again (facts, section 9). One that
/// is not back after that read its bundle once, and has to be started again.
const BACK_OFF: Duration = Duration::from_secs(125);

/// [`crate::spire::recovery::Part::Workloads`].
pub(super) struct Workloads;

fn judged(facts: &Facts) -> Result<String, String> {
    let row = rows::workloads(facts);
    if row.condition == Condition::Sound { Ok(row.seen) } else { Err(row.seen) }
}

#[async_trait]
impl Body for Workloads {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        Ok(match judged(&look::held(cx).await?) {
            Ok(proof) => Finding::Satisfied(proof),
            Err(missing) => Finding::Differs(missing),
        })
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        follow(cx, |facts, workload| rows::trouble(facts, workload).map(|(_, words)| words)).await
    }
}

/// Waits until the lab's workloads hold valid SVIDs and none of them is in trouble. Those that are in trouble for so
/// long that no back-off explains it are started again.
///
/// # Errors
/// One is not well in time.
pub(in crate::steps) async fn follow(
    cx: &StepContext,
    trouble: impl Fn(&Facts, &Workload) -> Option<String> + Send + Sync,
) -> Result<String, Failure> {
    let begun = tokio::time::Instant::now();
    let mut restarted = false;
    loop {
        let facts = look::held(cx).await?;
        let late: Vec<(String, String)> = facts
            .workloads
            .iter()
            .filter_map(|workload| Some((workload.name.clone(), trouble(&facts, workload)?)))
            .collect();
        let well = judged(&facts).and_then(|proof| match late.first() {
            None => Ok(proof),
            Some((_, words)) => Err(words.clone()),
        });
        let missing = match well {
            Ok(proof) if restarted => {
                return Ok(format!("{proof}; those that did not come back were started again"));
            }
            Ok(proof) => return Ok(proof),
            Err(missing) => missing,
        };
        if cx.remaining() < Duration::from_secs(2) {
            return Err(Failure::timeout(missing)
                .next("`coastal logs workload` shows what the pods say; `coastal status` what SPIRE does"));
        }
        if begun.elapsed() > BACK_OFF && !restarted {
            let namespace = &cx.session.lab.workload.namespace;
            let late: Vec<String> = late.into_iter().map(|(name, _)| name).collect();
            servers::delete_pods(cx, &reach::cluster(cx).await?, namespace, &late).await?;
            restarted = true;
        }
        cx.progress(missing);
        cx.sleep(Duration::from_secs(1)).await?;
    }
}
