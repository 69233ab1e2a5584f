//! What an outage cost: the continuity meter's verdict, and the scorecard.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::engine::{Body, StepContext};
use crate::error::Failure;
use crate::plan::Finding;
use crate::spire::recovery::score::SCHEMA;
use crate::spire::recovery::{Budget, Scorecard};
use crate::steps::recover::{forget, look, recovery};
use crate::steps::{continuity, registrations};

/// The controller manager looks every ten seconds whether an entry is missing: two rounds.
const ROUNDS: Duration = Duration::from_secs(20);

/// [`crate::spire::recovery::Part::Verdict`].
pub(super) struct Verdict;

/// SPIFFE ids that have an entry.
///
/// # Errors
/// No server answers.
pub(in crate::steps) async fn identities(cx: &StepContext) -> Result<BTreeSet<String>, Failure> {
    let found = Arc::new(Mutex::new(BTreeSet::new()));
    let into = Arc::clone(&found);
    registrations::each(cx, move |entry| {
        into.lock().unwrap_or_else(PoisonError::into_inner).insert(entry.spiffe_id.to_string());
    })
    .await?;
    Ok(std::mem::take(&mut *found.lock().unwrap_or_else(PoisonError::into_inner)))
}

/// Those of before that are not there; what is made again is waited for.
async fn lost(cx: &StepContext, before: &BTreeSet<String>) -> Result<Vec<String>, Failure> {
    let begun = tokio::time::Instant::now();
    loop {
        let now = identities(cx).await?;
        let lost: Vec<String> = before.difference(&now).cloned().collect();
        if lost.is_empty() || begun.elapsed() > ROUNDS {
            return Ok(lost);
        }
        cx.progress(format!("{} has no entry yet", lost[0]));
        cx.sleep(Duration::from_secs(1)).await?;
    }
}

fn since(begin: Timestamp, end: Timestamp) -> u64 {
    u64::try_from(end.duration_since(begin).as_millis()).unwrap_or_default()
}

#[async_trait]
impl Body for Verdict {
    async fn check(&self, _cx: &StepContext) -> Result<Finding, Failure> {
        Ok(Finding::Missing("added up at the end".into()))
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        // What is looked up below takes time that is nobody's outage.
        let now = cx.session.world.clock.now();
        let notes = recovery(cx)?.notes().clone();
        let report = continuity::so_far(cx).await?;
        let identities_lost = match &notes.identities {
            Some(before) => lost(cx, before).await?,
            None => Vec::new(),
        };
        let current = look(cx).await?.current;
        let card = Scorecard {
            schema: SCHEMA,
            kind: "scorecard".to_owned(),
            drill: notes.drill.map(|drill| drill.word().to_owned()),
            began_at: notes.began_at,
            detected_ms: notes.detected_at.map(|at| since(notes.began_at, at)),
            recovered_ms: since(notes.began_at, now),
            broken: notes.broken.clone(),
            current,
            verdict: report.verdict,
            workloads: Scorecard::downtimes(&report),
            new_pods: report.total.new_pods.clone(),
            identities_lost,
            budget: notes.first_expiry.map(|first| Budget::new(notes.began_at, now, first)),
            cover: notes.cover.clone(),
        };
        cx.report(&report)?;
        cx.report(&card)?;
        forget(cx)?;
        // That somebody was without an identity is what happened, not a failure of the way back.
        Ok(report.to_string())
    }
}
