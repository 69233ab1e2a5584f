//! The end: every plane is as it should be, what it cost is known, and what was taken aside is given up.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::LogParams;

use super::marker::{self, Marker};
use super::{ours, rekeying};
use crate::engine::{Body, StepContext};
use crate::error::{Failure, io_failure};
use crate::kube::Cluster;
use crate::plan::{Finding, PRUNED_AFTER};
use crate::spire::planes::{Lag, Planes, Wrong};
use crate::spire::rotation::{KeyType, Orphan, Outcome, Rekey};
use crate::steps::recover::look;
use crate::steps::rotate::{self, remember};
use crate::steps::{continuity, planes, reach, spire, workload};
use crate::workload::updates_in;

/// [`crate::plan::RekeyPart::Verdict`].
pub(super) struct Verdict;

#[async_trait]
impl Body for Verdict {
    async fn check(&self, _cx: &StepContext) -> Result<Finding, Failure> {
        Ok(Finding::Missing("every plane is looked at, and the outage is added up".into()))
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        let cluster = reach::cluster(cx).await?;
        let marker = ours(cx, &cluster).await?;
        let report = continuity::so_far(cx).await?;
        let split = split(cx, &cluster, &marker).await?;
        let planes = settled(cx, &marker).await?;
        if let Some(why) = look::webhook(&cluster).await {
            return Err(Failure::check_failed(why).next("`coastal logs server` shows what the controller manager says"));
        }
        let others = others(cx, &cluster).await?;
        let until = rotate::last_svid(cx).await?;
        let mut words = vec![report.to_string()];
        words.extend(split.map(|ms| format!("{ms} ms from the first workload with new trust to the last")));
        let old = orphans(&planes, &marker);
        words.push(left(&old));
        words.extend(others.clone());
        for key in KeyType::ALL {
            let view = rotate::view(cx, key).await?;
            remember(cx, |incident| incident.saw(key, &view))?;
        }
        remember(cx, |incident| {
            let now = cx.session.world.clock.now();
            incident.outcome = if marker.method == Rekey::NewBundle { Outcome::Complete } else { Outcome::Partial };
            incident.closed_at = Some(now);
            incident.last_svid_until = until.and_then(|life| now.checked_add(life).ok());
            incident.split_ms = split;
            incident.orphans = KeyType::ALL.map(|key| (key, of(&old, key))).into();
            incident.planes_after = Some(planes);
            if let Some(note) = others {
                incident.note(now, note);
            }
            incident.note(now, format!("closed: {}", left(&old)));
        })?;
        cx.report(&report)?;
        // Only now: it holds private keys, and is worth nothing any more.
        give_up(cx)?;
        marker::write(cx, &cluster, None).await?;
        Ok(words.join("; "))
    }
}

/// Old authorities that the servers still have, by type.
fn orphans(planes: &Planes, marker: &Marker) -> Vec<(KeyType, Orphan)> {
    let of_key = |key: KeyType| {
        let outgoing = marker.outgoing(key);
        let held = planes.bundle(key).into_iter().filter(move |(id, _)| outgoing.contains(id));
        held.map(move |(id, held)| (key, Orphan { id, tainted: held.tainted, expires_at: held.expires_at }))
    };
    KeyType::ALL.into_iter().flat_map(of_key).collect()
}

fn of(all: &[(KeyType, Orphan)], key: KeyType) -> Vec<Orphan> {
    all.iter().filter(|(of, _)| *of == key).map(|(_, orphan)| orphan.clone()).collect()
}

/// What is left of the old authorities, in words.
fn left(old: &[(KeyType, Orphan)]) -> String {
    if old.is_empty() {
        return "nothing old is left in any plane".into();
    }
    let last = old.iter().filter_map(|(_, orphan)| orphan.expires_at).max();
    let until = last.map_or_else(|| "until they expire".to_owned(), in_words);
    format!("{} old authorities stay trusted {until}: nobody can revoke them", old.len())
}

fn in_words(last: Timestamp) -> String {
    let gone = last.checked_add(PRUNED_AFTER).unwrap_or(last);
    format!("until {last:.0} at the latest, and leave the bundle after {gone:.0}")
}

/// Waits until every plane that can be read has the new authorities, and after a revocation none of the old ones.
async fn settled(cx: &StepContext, marker: &Marker) -> Result<Planes, Failure> {
    loop {
        let planes = planes::collect(cx).await?;
        let mut lags: Vec<Lag> = Vec::new();
        for key in KeyType::ALL {
            let outgoing = marker.outgoing(key);
            let new: BTreeSet<String> = planes.bundle(key).into_keys().filter(|id| !outgoing.contains(id)).collect();
            lags.extend(planes.lacking(key, &new, &BTreeSet::new()));
            if marker.method == Rekey::NewBundle {
                lags.extend(planes.keeping(key, &outgoing));
            }
            if key == KeyType::X509 {
                lags.extend(planes.holding(&outgoing, &BTreeSet::new()));
            }
        }
        // What nobody sees was restarted, and new pods beside it got SVIDs of the new authorities.
        lags.retain(|lag| !matches!(lag.what, Wrong::Unknown(_)));
        if lags.is_empty() {
            return Ok(planes);
        }
        if cx.remaining() < Duration::from_secs(3) {
            return Err(Failure::check_failed("not every plane is where it has to be")
                .facts(lags.iter().map(ToString::to_string))
                .next("`coastal bundle planes` shows every plane"));
        }
        cx.progress(lags.iter().take(3).map(ToString::to_string).collect::<Vec<_>>().join(", "));
        cx.sleep(Duration::from_secs(1)).await?;
    }
}

/// How long it took from the first workload pod with an SVID of a new authority to the last, in milliseconds.
async fn split(cx: &StepContext, cluster: &Cluster, marker: &Marker) -> Result<Option<u64>, Failure> {
    let outgoing = marker.outgoing(KeyType::X509);
    let api = cluster.namespaced::<k8s_openapi::api::core::v1::Pod>(&cx.session.lab.workload.namespace);
    let mut moments = Vec::new();
    for holder in workload::holders(cx, cluster).await? {
        let log = api.logs(&holder.pod.name_any(), &LogParams::default()).await.unwrap_or_default();
        let new = updates_in(&log).into_iter().filter(|update| {
            let anchor = update.anchor_key_id.as_ref();
            anchor.is_some_and(|anchor| !outgoing.contains(anchor)) && update.received_at >= Some(marker.since)
        });
        moments.extend(new.filter_map(|update| update.received_at).min());
    }
    let (first, last) = (moments.iter().min(), moments.iter().max());
    Ok(first.zip(last).and_then(|(first, last)| u64::try_from(last.duration_since(*first).as_millis()).ok()))
}

/// Pods of others that use the Workload API, in words.
async fn others(cx: &StepContext, cluster: &Cluster) -> Result<Option<String>, Failure> {
    let lab = &cx.session.lab;
    let ours: BTreeSet<String> = workload::pods(cx, cluster).await?.iter().filter_map(ResourceExt::uid).collect();
    let pods = spire::mounting_csi(cluster, &lab.spire).await?;
    let names: Vec<String> = pods
        .iter()
        .filter(|pod| pod.uid().is_some_and(|uid| !ours.contains(&uid)))
        .map(|pod| format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any()))
        .collect();
    Ok((!names.is_empty()).then(|| {
        format!(
            "what other pods hold nobody sees; restart those that read their SVID or bundle once: {}",
            names.join(", ")
        )
    }))
}

/// Removes what was taken aside.
fn give_up(cx: &StepContext) -> Result<(), Failure> {
    match rekeying(cx)?.aside.parent().filter(|directory| directory.is_dir()) {
        Some(directory) => std::fs::remove_dir_all(directory).map_err(|error| io_failure("remove", directory, &error)),
        None => Ok(()),
    }
}
