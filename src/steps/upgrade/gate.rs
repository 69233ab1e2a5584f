//! The gate after each half of a hop: what must be proven before the next half may begin.
//!
//! Versions come from the processes, health from the servers themselves, and the identity from a pod that is started
//! for it and gets an SVID now. Pod readiness is not waited for: an agent is Ready up to a minute after it serves.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::try_join_all;
use jiff::Timestamp;
use semver::Version;

use crate::engine::{Body, StepContext};
use crate::error::Failure;
use crate::plan::Finding;
use crate::spire::cli::{Bundle, LOCAL_AUTHORITY, LocalAuthorities, X509Authority};
use crate::spire::names;
use crate::steps::identity::server_json_of;
use crate::steps::live::Live;
use crate::steps::upgrade::half::Half;
use crate::steps::upgrade::{hop, ways_on};
use crate::steps::{continuity, probe, reach, spire};

/// [`crate::plan::HopPart::ServersGate`] and [`crate::plan::HopPart::AgentsGate`].
pub(super) struct Gate {
    pub(super) hop: u16,
    pub(super) half: Half,
}

#[async_trait]
impl Body for Gate {
    async fn check(&self, _cx: &StepContext) -> Result<Finding, Failure> {
        Ok(Finding::Missing("a gate looks each time".into()))
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        let (to, since) = (&hop(cx, self.hop)?.to, cx.session.world.clock.now());
        let proof = async {
            let up = match self.half {
                Half::Servers => spire::healthy(cx).await?,
                Half::Agents => spire::serving(cx, &reach::cluster(cx).await?).await?,
            };
            let live = Live::look(cx).await?;
            let at = self.half.all_at(cx, &live, to).map_err(Failure::check_failed)?;
            let authorities = one_bundle(cx).await?;
            if self.half == Half::Servers {
                own_authorities(cx, to, &authorities).await?;
            }
            let identity = identity(cx, self.hop, since, &authorities).await?;
            Ok(format!("{up}, {at}; one bundle of {} authorities; {identity}", authorities.len()))
        }
        .await;
        proof.map_err(|failure| ways_on(cx, self.hop, failure))
    }
}

/// New pods get SVIDs now, and none that was there lost its own since the change began.
async fn identity(
    cx: &StepContext,
    number: u16,
    since: Timestamp,
    authorities: &BTreeSet<String>,
) -> Result<String, Failure> {
    let purpose = format!("hop-{number}");
    let asked = probe::Asked { purpose: &purpose, issued_after: since, authorities };
    let proofs = probe::prove(cx, asked).await?;
    let report = continuity::so_far(cx).await?;
    continuity::unbroken(&report)?;
    Ok(format!("{}; {report}", probe::in_words(&proofs)))
}

/// The authority ids of the bundle, once all servers show the same. Each has a cache of a second.
pub(in crate::steps) async fn one_bundle(cx: &StepContext) -> Result<BTreeSet<String>, Failure> {
    loop {
        let bundles = try_join_all(names::server_pods(&cx.session.lab.spire).into_iter().map(|pod| async move {
            let bundle: Bundle = server_json_of(cx, &pod, &["bundle", "show"]).await?;
            let ids: BTreeSet<String> = bundle.x509_authorities.iter().filter_map(X509Authority::key_id).collect();
            Ok::<_, Failure>((pod, ids))
        }))
        .await?;
        let Some((first, ids)) = bundles.first() else {
            return Err(Failure::check_failed("there is no server to ask for the bundle"));
        };
        match bundles.iter().find(|(_, other)| other != ids) {
            None => return Ok(ids.clone()),
            Some((other, _)) if cx.remaining() < Duration::from_secs(2) => {
                return Err(Failure::check_failed(format!("{first} and {other} do not show the same bundle")));
            }
            Some((other, _)) => cx.progress(format!("{first} and {other} do not show the same bundle yet")),
        }
        cx.sleep(Duration::from_millis(500)).await?;
    }
}

/// Each server's own authority is in the bundle. Older servers do not tell which one is theirs.
pub(in crate::steps) async fn own_authorities(
    cx: &StepContext,
    version: &Version,
    bundle: &BTreeSet<String>,
) -> Result<(), Failure> {
    if *version < LOCAL_AUTHORITY {
        return Ok(());
    }
    try_join_all(names::server_pods(&cx.session.lab.spire).into_iter().map(|pod| async move {
        let local: LocalAuthorities = server_json_of(cx, &pod, &["localauthority", "x509", "show"]).await?;
        let id = local.active.authority_id;
        if bundle.contains(&id) {
            Ok(())
        } else {
            Err(Failure::check_failed(format!("the authority that {pod} signs with is not in the bundle"))
                .fact(format!("authority {id}"))
                .fact(format!("bundle: {}", bundle.iter().cloned().collect::<Vec<_>>().join(", "))))
        }
    }))
    .await?;
    Ok(())
}
