//! The end of a rotation: nothing suspect is left anywhere, or what is left is named.

use std::time::Duration;

use async_trait::async_trait;
use jiff::SignedDuration;

use super::{observe, record_of, remember, rotation};
use crate::engine::{Body, StepContext};
use crate::error::Failure;
use crate::plan::Finding;
use crate::spire::planes::{Lag, Planes};
use crate::spire::rotation::{Orphan, Outcome, Phase, next_actions};
use crate::steps::recover::look;
use crate::steps::{planes, reach, workload};

/// [`crate::plan::RotateStep::Verify`].
pub(super) struct Verify;

#[async_trait]
impl Body for Verify {
    async fn check(&self, _cx: &StepContext) -> Result<Finding, Failure> {
        Ok(Finding::Missing("every plane is looked at once more".into()))
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        let keys = rotation(cx)?.keys.clone();
        let mut left: Vec<String> = Vec::new();
        let mut active = 0;
        for key in &keys {
            let (view, record) = (observe::view(cx, *key).await?, record_of(cx, *key)?);
            let plan = next_actions(*key, &view, &record);
            if plan.phase != Phase::Done || !plan.blocked.is_empty() {
                return Err(Failure::check_failed(format!("the {key} rotation is not at its end"))
                    .next("`coastal rotate --yes` goes on with it"));
            }
            left.extend(plan.orphans.iter().map(|orphan| format!("{key} {}", in_words(orphan))));
            active += view.servers.keys().filter(|pod| record.covers(pod)).count();
            remember(cx, |incident| {
                incident.saw(*key, &view);
                incident.orphans.insert(*key, plan.orphans);
            })?;
        }
        let planes = clean(cx).await?;
        if let Some(why) = look::webhook(&reach::cluster(cx).await?).await {
            return Err(Failure::check_failed(why).next("`coastal recover` mends it"));
        }
        let until = last_svid(cx).await?;
        remember(cx, |incident| {
            let now = cx.session.world.clock.now();
            incident.outcome = if left.is_empty() { Outcome::Complete } else { Outcome::Partial };
            incident.closed_at = Some(now);
            incident.last_svid_until = until.and_then(|life| now.checked_add(life).ok());
            incident.planes_after = Some(planes);
            incident.note(now, "closed: nothing that was to go and could be revoked is left in any plane");
        })?;
        if left.is_empty() {
            return Ok(format!("{active} new authorities sign; nothing old is left in any plane"));
        }
        Err(Failure::check_failed("new keys sign everywhere, but not every old authority can be revoked any more")
            .facts(left)
            .next("wait until they have expired: they leave the bundle a day later at the latest")
            .next("`coastal rotate --rekey revoke` is the way that does not wait: it shows its plan, and what outage it means"))
    }
}

fn in_words(orphan: &Orphan) -> String {
    let until = orphan.expires_at.map_or_else(String::new, |at| format!(" until {at:.0}"));
    format!("{} is in no server's slot any more and stays trusted{until}", orphan.id)
}

/// Waits until what is revoked has left every plane.
async fn clean(cx: &StepContext) -> Result<Planes, Failure> {
    let rotation = rotation(cx)?;
    loop {
        let planes = planes::collect(cx).await?;
        let mut lags: Vec<Lag> = planes.unknown(&rotation.accepted).collect();
        for key in &rotation.keys {
            let bundle = planes.bundle(*key);
            let mut gone = record_of(cx, *key)?.compromised;
            // What the servers still have can no longer be revoked, or is an orphan: it is told of elsewhere.
            gone.retain(|id| !bundle.contains_key(id));
            lags.extend(planes.keeping(*key, &gone));
        }
        if lags.is_empty() {
            return Ok(planes);
        }
        if cx.remaining() < Duration::from_secs(3) {
            return Err(Failure::check_failed("what was revoked has not left every plane")
                .facts(lags.iter().map(ToString::to_string))
                .next("`coastal logs agent` shows whether the agents hear from the servers")
                .next("`coastal rotate --yes` looks again"));
        }
        cx.progress(lags.iter().take(3).map(ToString::to_string).collect::<Vec<_>>().join(", "));
        cx.sleep(Duration::from_secs(1)).await?;
    }
}

/// How long the SVIDs live that are given out here: the longest that any workload holds.
pub(in crate::steps) async fn last_svid(cx: &StepContext) -> Result<Option<SignedDuration>, Failure> {
    let cluster = reach::cluster(cx).await?;
    let holders = workload::holders(cx, &cluster).await?;
    let lives = holders.iter().filter_map(|holder| holder.update.as_ref());
    Ok(lives.map(|update| update.not_after.duration_since(update.not_before)).max())
}
