//! New keys without `localauthority`: servers down, their keys away, servers up, and agents and workloads after them.
//!
//! Lease, record and report are those of a rotation. What was there is kept until the end; how far it has come is a
//! mark in the cluster.

mod away;
mod back;
pub mod marker;
mod possible;
#[cfg(test)]
mod tests;
mod verdict;

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use async_trait::async_trait;

use self::marker::{Marker, Phase};
pub use self::possible::possible;
use crate::backup::catalog;
use crate::engine::{Body, StepContext};
use crate::error::{Failure, Kind};
use crate::kube::Cluster;
use crate::plan::{Finding, RekeyPart, Rekeying, RotateStep};
use crate::spire::recovery::Part;
use crate::spire::rotation::{Incident, KeyType, Record};
use crate::steps::backup::gather;
use crate::steps::rotate::{self, remember};
use crate::steps::{planes, reach, recover, restore};

/// How often the lease is looked after. It is renewed when it is due.
const RENEW: Duration = Duration::from_secs(5);

/// The body of a part.
#[must_use]
pub fn body(part: RekeyPart) -> Box<dyn Body> {
    Box::new(Leased(match part {
        RekeyPart::Begin => Box::new(Begin),
        RekeyPart::Aside => Box::new(Aside),
        RekeyPart::Stop => Box::new(away::Stop),
        RekeyPart::Keys => Box::new(away::Keys),
        RekeyPart::Bundle => Box::new(away::Bundle),
        RekeyPart::Servers => Box::new(back::Servers),
        RekeyPart::ConfigMap => rotate::body(RotateStep::ConfigMap),
        RekeyPart::Webhook => recover::body(Part::Webhook),
        RekeyPart::Agents => Box::new(back::Agents),
        RekeyPart::Workloads => Box::new(back::Workloads),
        RekeyPart::Gate => Box::new(back::Gate),
        RekeyPart::Verdict => Box::new(verdict::Verdict),
    }))
}

fn rekeying(cx: &StepContext) -> Result<&Rekeying, Failure> {
    let rekeying = cx.session.rekey.as_ref();
    rekeying.ok_or_else(|| Failure::unexpected(format!("step `{}` outside of new keys", cx.step())))
}

/// The mark of this very change.
async fn ours(cx: &StepContext, cluster: &Cluster) -> Result<Marker, Failure> {
    let rekeying = rekeying(cx)?;
    let marker = marker::read(cx, cluster).await?.filter(|marker| marker.method == rekeying.method);
    marker.ok_or_else(|| {
        Failure::refused("somebody else has taken away the mark of these new keys")
            .next("`coastal status` shows what runs; the same command begins anew")
    })
}

/// How far it has come; nothing if it has not begun.
async fn phase(cx: &StepContext) -> Result<Option<Phase>, Failure> {
    let marker = marker::read(cx, &reach::cluster(cx).await?).await?;
    Ok(marker.map(|marker| marker.phase))
}

/// Writes down that a phase is through, in the cluster and in the incident's timeline.
async fn through(cx: &StepContext, phase: Phase, what: &str) -> Result<(), Failure> {
    let cluster = reach::cluster(cx).await?;
    let now = cx.session.world.clock.now();
    let marker = ours(cx, &cluster).await?;
    let served_at = if phase == Phase::Served { Some(now) } else { marker.served_at };
    marker::write(cx, &cluster, Some(&Marker { phase, served_at, ..marker })).await?;
    remember(cx, |incident| incident.note(now, what))
}

/// What a failed part adds: where things stand.
fn stands(cx: &StepContext, failure: Failure) -> Failure {
    let Ok(rekeying) = rekeying(cx) else { return failure };
    let failure = failure.next(format!("forward: `{}` goes on where this one stopped", rekeying.command()));
    if failure.kind == Kind::Interrupted || !rekeying.aside.is_file() {
        return failure;
    }
    let aside = rekeying.aside.display();
    failure.fact(format!("what was there before is kept in `{aside}`")).next(format!("back: `coastal restore {aside}`"))
}

/// Keeps others from changing keys while something is done or waited for.
struct Leased(Box<dyn Body>);

async fn leased<T>(cx: &StepContext, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    rotate::hold(cx).await?;
    let keeping = async {
        // Whatever is under way after a wish to stop has its own end to come to.
        while cx.sleep(RENEW).await.is_ok() {
            match rotate::hold(cx).await {
                Err(failure) if failure.kind == Kind::Refused => return failure,
                // It lasts for a minute: there is time to try again.
                Err(failure) => cx.progress(failure.message),
                Ok(()) => {}
            }
        }
        std::future::pending().await
    };
    tokio::select! {
        biased;
        result = work => result,
        failure = keeping => Err(failure),
    }
}

#[async_trait]
impl Body for Leased {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        self.0.check(cx).await
    }

    async fn run(&self, cx: &StepContext, found: &Finding) -> Result<(), Failure> {
        leased(cx, self.0.run(cx, found)).await.map_err(|failure| stands(cx, failure))
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        leased(cx, self.0.verify(cx)).await.map_err(|failure| stands(cx, failure))
    }
}

/// [`RekeyPart::Begin`].
struct Begin;

#[async_trait]
impl Body for Begin {
    async fn check(&self, _cx: &StepContext) -> Result<Finding, Failure> {
        Ok(Finding::Missing("the lease is taken, and what is to go is written down".into()))
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        let cluster = reach::cluster(cx).await?;
        let rotation = rotate::rotation(cx)?;
        let method = rekeying(cx)?.method;
        if marker::read(cx, &cluster).await?.is_some() {
            return ours(cx, &cluster).await.map(drop);
        }
        let planes = planes::collect(cx).await?;
        let now = cx.session.world.clock.now();
        let mut incident = Incident::open(now, BTreeMap::new());
        incident.rekey = Some(method);
        for key in KeyType::ALL {
            let view = rotate::view(cx, key).await?;
            let mut record = Record::open(&view, None);
            record.compromised.extend(planes.bundle(key).into_keys());
            incident.keys.insert(key, record);
            incident.saw(key, &view);
        }
        if incident.keys.get(&KeyType::X509).is_none_or(|record| record.compromised.is_empty()) {
            return Err(Failure::refused("no server tells its bundle: nobody would know what is to go")
                .next("`coastal status` shows what runs; `coastal recover` brings it back"));
        }
        incident.planes_before = Some(planes);
        incident.note(now, "opened: every authority that is there now is to go");
        let outgoing = incident.keys.iter().map(|(key, record)| (*key, record.compromised.clone())).collect();
        let marker = Marker {
            method,
            incident: incident.id.clone(),
            since: now,
            aside: None,
            phase: Phase::Begun,
            outgoing,
            served_at: None,
        };
        *rotation.incident() = Some(incident);
        remember(cx, |_| ())?;
        marker::write(cx, &cluster, Some(&marker)).await
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        let marker = ours(cx, &reach::cluster(cx).await?).await?;
        let counts: Vec<String> = marker.outgoing.iter().map(|(key, ids)| format!("{} {key}", ids.len())).collect();
        Ok(format!("incident {}: {} authorities are to go", marker.incident, counts.join(" and ")))
    }
}

/// [`RekeyPart::Aside`].
struct Aside;

#[async_trait]
impl Body for Aside {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        Ok(if phase(cx).await? >= Some(Phase::Aside) {
            let marker = ours(cx, &reach::cluster(cx).await?).await?;
            Finding::Satisfied(format!("kept in {}", marker.aside.unwrap_or_default()))
        } else {
            Finding::Missing("what is there is kept until the end is reached".into())
        })
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        let rekeying = rekeying(cx)?;
        restore::clear(&rekeying.aside)?;
        let described = gather::gather(cx, &rekeying.aside, &rekeying.seal).await?;
        catalog::write(&rekeying.aside, &described)?;
        for missing in &described.manifest.incomplete {
            cx.progress(missing.clone());
        }
        let cluster = reach::cluster(cx).await?;
        let marker = ours(cx, &cluster).await?;
        let aside = Some(rekeying.aside.display().to_string());
        marker::write(cx, &cluster, Some(&Marker { aside, ..marker })).await?;
        through(cx, Phase::Aside, "database and keys are kept aside").await
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        match self.check(cx).await? {
            Finding::Satisfied(proof) => Ok(proof),
            other => Err(Failure::tool(other.detail().to_owned())),
        }
    }
}
