//! Waits between the phases: each names every plane and pod that it waits for.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::{hold, record_of, rotation};
use crate::engine::StepContext;
use crate::error::{Failure, Kind};
use crate::spire::planes::{Lag, Planes, Wrong};
use crate::spire::rotation::{Gate, KeyType, Verb};
use crate::steps::{planes, probe, reach};

/// How often the planes are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Agents ask their servers every 5 s. Nothing shows which JWT keys they have: they are given three turns.
const JWT_SYNC: Duration = Duration::from_secs(15);
/// So many planes are named while it is waited; a failure names all.
const NAMED: usize = 3;

/// Waits until the gate is open; says by what it is known to be.
///
/// # Errors
/// It does not open in time: what keeps it closed, plane by plane.
pub(super) async fn wait(cx: &StepContext, key: KeyType, gate: &Gate) -> Result<String, Failure> {
    match (gate, key) {
        (Gate::Open, _) => Ok("nothing has to be waited for".into()),
        (Gate::Spread(ids), KeyType::X509) => {
            let accepted = rotation(cx)?.accepted.clone();
            until(cx, |planes| planes.lacking(KeyType::X509, ids, &accepted)).await?;
            Ok(format!("{} new authorities are in every plane", ids.len()))
        }
        (Gate::Spread(ids), KeyType::Jwt) => {
            let accepted = rotation(cx)?.accepted.clone();
            until_kept(cx, |planes| planes.lacking(KeyType::Jwt, ids, &accepted)).await?;
            syncs(cx, Verb::Prepare, "to have the new JWT keys").await?;
            Ok(format!("{} new keys are in database, servers and ConfigMap; agents had 15 s, three syncs", ids.len()))
        }
        (Gate::Issuing(suspect), KeyType::X509) => issuing(cx, suspect).await,
        (Gate::Issuing(_), KeyType::Jwt) => Ok("tokens are signed when they are asked for".into()),
        (Gate::Drained(ids), KeyType::X509) => {
            let accepted = rotation(cx)?.accepted.clone();
            until(cx, |planes| planes.holding(ids, &accepted)).await?;
            Ok(format!("no workload holds an SVID of the {} old authorities", ids.len()))
        }
        (Gate::Drained(_), KeyType::Jwt) => {
            syncs(cx, Verb::Taint, "to drop the tokens of the old keys").await?;
            Ok("agents had 15 s, three syncs, to drop the tokens of the old keys".into())
        }
    }
}

/// New pods are given SVIDs of authorities that are not suspect, on each node.
async fn issuing(cx: &StepContext, suspect: &BTreeSet<String>) -> Result<String, Failure> {
    let cluster = reach::cluster(cx).await?;
    let keepers = planes::keepers(cx, &cluster).await?;
    let bundle = Planes::new(cx.session.world.clock.now(), keepers).bundle(KeyType::X509);
    let authorities: BTreeSet<String> = bundle.into_keys().filter(|id| !suspect.contains(id)).collect();
    let issued_after = cx.session.world.clock.now();
    let proofs = probe::prove(cx, probe::Asked { purpose: "rotate", issued_after, authorities: &authorities }).await?;
    Ok(format!("{}, of the new authorities", probe::in_words(&proofs)))
}

/// Waits until no plane lags.
async fn until(cx: &StepContext, lags: impl Fn(&Planes) -> Vec<Lag> + Send + Sync) -> Result<(), Failure> {
    looped(cx, false, lags).await
}

/// As [`until`], of those planes that show JWT keys.
async fn until_kept(cx: &StepContext, lags: impl Fn(&Planes) -> Vec<Lag> + Send + Sync) -> Result<(), Failure> {
    looped(cx, true, lags).await
}

async fn looped(
    cx: &StepContext,
    keepers_only: bool,
    lags: impl Fn(&Planes) -> Vec<Lag> + Send + Sync,
) -> Result<(), Failure> {
    let cluster = reach::cluster(cx).await?;
    let patient_until = cx.deadline().min(Instant::now() + cx.session.lab.timeouts.identity);
    loop {
        let planes = if keepers_only {
            Planes::new(cx.session.world.clock.now(), planes::keepers(cx, &cluster).await?)
        } else {
            planes::collect(cx).await?
        };
        let lags = lags(&planes);
        if lags.is_empty() {
            return Ok(());
        }
        // What lags comes; what is unknown may stay so.
        let only_unknown = lags.iter().all(|lag| matches!(lag.what, Wrong::Unknown(_)));
        let deadline = if only_unknown { patient_until } else { cx.deadline() };
        if Instant::now() + LOOK * 2 > deadline {
            return Err(closed(&lags, only_unknown));
        }
        cx.progress(waiting(&lags));
        hold(cx).await?;
        cx.sleep(LOOK).await?;
    }
}

fn waiting(lags: &[Lag]) -> String {
    let named: Vec<String> = lags.iter().take(NAMED).map(ToString::to_string).collect();
    let more = lags.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(", and {more} more") } else { String::new() };
    format!("waiting: {}{more}", named.join(", "))
}

fn closed(lags: &[Lag], only_unknown: bool) -> Failure {
    let facts = lags.iter().map(ToString::to_string);
    let failure = if only_unknown {
        let names: Vec<&str> = lags.iter().map(|lag| lag.plane.as_str()).collect();
        Failure::new(Kind::Refused, "what some planes hold is unknown, and nothing may be revoked while it is")
            .facts(facts)
            .next(format!(
                "`coastal rotate --yes --accept-unknown {}` goes on all the same",
                names.join(" --accept-unknown ")
            ))
    } else {
        Failure::timeout(format!("{} planes are not where they have to be", lags.len()))
            .facts(facts)
            .next("`coastal logs agent` shows whether the agents hear from the servers")
    };
    failure.next("what was done stays; `coastal rotate --yes` goes on from there")
}

/// Gives agents their turns, from when the last server did what they have to hear of.
async fn syncs(cx: &StepContext, verb: Verb, what: &str) -> Result<(), Failure> {
    let now = cx.session.world.clock.now();
    let since = record_of(cx, KeyType::Jwt)?.done_at.get(&verb).copied().unwrap_or(now);
    // A clock that was set back makes it no longer.
    let passed = Duration::try_from(now.duration_since(since)).unwrap_or_default();
    let until = Instant::now() + JWT_SYNC.saturating_sub(passed);
    while Instant::now() < until {
        cx.progress(format!("giving the agents {} s, three syncs, {what}", JWT_SYNC.as_secs()));
        cx.sleep(LOOK.min(until.saturating_duration_since(Instant::now()))).await?;
    }
    Ok(())
}
