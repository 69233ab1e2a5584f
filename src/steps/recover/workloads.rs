//! Workloads that hold SVIDs of the servers' bundle again.

use std::time::Duration;

use async_trait::async_trait;

use crate::engine::{Body, StepContext};
use crate::error::Failure;
use crate::plan::Finding;
use crate::spire::recovery::Condition;
use crate::spire::recovery::facts::Facts;
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

    async fn run(&self, _cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        Ok(()) // they follow the Workload API, and are waited for
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        let begun = tokio::time::Instant::now();
        let mut restarted = false;
        loop {
            let facts = look::held(cx).await?;
            let missing = match judged(&facts) {
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
                let lab = &cx.session.lab.workload;
                let late = facts.workloads.iter().filter(|workload| rows::trouble(&facts, workload).is_some());
                let late: Vec<String> = late.map(|workload| workload.name.clone()).collect();
                servers::delete(cx, &reach::cluster(cx).await?, &lab.namespace, &late).await?;
                restarted = true;
            }
            cx.progress(missing);
            cx.sleep(Duration::from_secs(1)).await?;
        }
    }
}
