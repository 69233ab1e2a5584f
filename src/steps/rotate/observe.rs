//! What each server holds, asked on its own socket.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::join_all;
use kube::ResourceExt;
use serde::Serialize;
use tokio::time::Instant;

use super::{record_of, rotation};
use crate::engine::StepContext;
use crate::error::Failure;
use crate::spire::bundles::Keys;
use crate::spire::cli::{Bundle, LocalAuthorities};
use crate::spire::planes::Authorities;
use crate::spire::rotation::{Blocked, KeyType, Plan, Slots, View, next_actions};
use crate::steps::identity::server_json_of;
use crate::steps::planes::{last_words, server_pods};
use crate::steps::reach;

/// A server that restarts answers again within that time.
const RESTARTS: Duration = Duration::from_secs(60);
/// How often it is asked.
const LOOK: Duration = Duration::from_secs(1);

/// The slots of every server and the bundle, of one type.
///
/// # Errors
/// The cluster does not answer, or there is no server.
pub(in crate::steps) async fn view(cx: &StepContext, key: KeyType) -> Result<View, Failure> {
    let cluster = reach::cluster(cx).await?;
    let pods = server_pods(cx, &cluster).await?;
    if pods.is_empty() {
        return Err(Failure::prerequisite("there is no SPIRE server")
            .next("`coastal status` shows what is there; `coastal spire-install` installs it"));
    }
    let looks = pods.iter().map(|pod| async move {
        let name = pod.name_any();
        let show = ["localauthority", key.word(), "show"];
        let (slots, bundle) = tokio::join!(
            server_json_of::<LocalAuthorities>(cx, &name, &show),
            server_json_of::<Bundle>(cx, &name, &["bundle", "show"])
        );
        let slots = slots.map(|told| Slots::from(&told)).map_err(|failure| last_words(&failure));
        (name, slots, bundle.ok().map(|bundle| Keys::of_cli(&bundle)))
    });
    let mut view = View::default();
    for (name, slots, keys) in join_all(looks).await {
        view.servers.insert(name, slots);
        let of_key = keys.and_then(|keys| match key {
            KeyType::X509 => Some(keys.x509),
            KeyType::Jwt => keys.jwt,
        });
        // Each server has a cache of a second: what one of them has heard is so.
        for (id, held) in of_key.into_iter().flat_map(Authorities::into_iter) {
            let known = view.bundle.entry(id).or_insert_with(|| held.clone());
            known.tainted |= held.tainted;
        }
    }
    Ok(view)
}

/// That everything was seen which is to be rotated.
///
/// # Errors
/// A server does not show its slots, or there is none of that name.
pub(super) fn complete(view: &View, server: Option<&str>) -> Result<(), Failure> {
    if let Some(pod) = server
        && !view.servers.contains_key(pod)
    {
        let pods = view.servers.keys().cloned().collect::<Vec<_>>().join(", ");
        return Err(Failure::usage(format!("there is no server pod `{pod}`")).fact(format!("servers: {pods}")));
    }
    let silent = view.servers.iter().filter(|(pod, _)| server.is_none_or(|server| server == *pod));
    let silent = silent.filter_map(|(pod, seen)| Some((pod.clone(), seen.as_ref().err()?.clone())));
    let blocked: Vec<Blocked> = silent.map(|(pod, why)| Blocked::Unreachable { pod, why }).collect();
    if blocked.is_empty() { Ok(()) } else { Err(refusal(&blocked)) }
}

/// What is to be done now for that type. A server that does not answer may be on its way: it is waited for.
///
/// # Errors
/// Nothing can be done: why, and the way round.
pub(super) async fn decide(cx: &StepContext, key: KeyType) -> Result<Plan, Failure> {
    if let Some(plan) = rotation(cx)?.decided(key) {
        return Ok(plan);
    }
    let until = cx.deadline().min(Instant::now() + RESTARTS);
    loop {
        let view = view(cx, key).await?;
        let plan = next_actions(key, &view, &record_of(cx, key)?);
        let comes = plan.blocked.iter().all(|why| matches!(why, Blocked::Unreachable { .. }));
        if plan.blocked.is_empty() {
            rotation(cx)?.decide(key, &plan);
            return Ok(plan);
        }
        if !comes || Instant::now() + LOOK > until {
            return Err(refusal(&plan.blocked));
        }
        let pods: Vec<&str> = plan
            .blocked
            .iter()
            .filter_map(|why| match why {
                Blocked::Unreachable { pod, .. } => Some(pod.as_str()),
                Blocked::UpstreamUnchanged { .. } => None,
            })
            .collect();
        cx.progress(format!("waiting for {} to answer", pods.join(", ")));
        cx.sleep(LOOK).await?;
    }
}

fn refusal(blocked: &[Blocked]) -> Failure {
    let unreachable = blocked.iter().any(|why| matches!(why, Blocked::Unreachable { .. }));
    let facts = blocked.iter().map(|why| match why {
        Blocked::Unreachable { pod, why } => format!("{pod}: {why}"),
        Blocked::UpstreamUnchanged { pod, upstream } => {
            format!("{pod}: its new authority is signed by {upstream} as well")
        }
    });
    if unreachable {
        Failure::refused(
            "not every server shows what it signs with: one that is left out would go on signing with what is to go",
        )
        .facts(facts.collect::<Vec<_>>())
        .next("`coastal status` and `coastal logs server` show why; then `coastal rotate --yes` goes on")
        .next("if only one server's keys are compromised: `coastal rotate --server POD --yes`")
    } else {
        Failure::refused("the upstream authority has not been changed: whatever the servers prepare is signed by the one that is to go")
            .facts(facts.collect::<Vec<_>>())
            .next("give the servers the new upstream authority; then `coastal rotate --yes` goes on")
    }
}

/// What a rotation would begin from.
#[derive(Debug, Clone, Serialize)]
pub struct Survey {
    /// By type, and by pod.
    pub slots: BTreeMap<KeyType, BTreeMap<String, Result<Slots, String>>>,
    /// Authorities that are in the bundle and in no slot, by type.
    pub orphans: BTreeMap<KeyType, BTreeSet<String>>,
}

/// Looks at every server's slots.
///
/// # Errors
/// As [`view`].
pub async fn survey(cx: &StepContext, keys: &BTreeSet<KeyType>) -> Result<Survey, Failure> {
    let mut survey = Survey { slots: BTreeMap::new(), orphans: BTreeMap::new() };
    for key in keys {
        let view = view(cx, *key).await?;
        let in_slots: BTreeSet<String> = view
            .servers
            .values()
            .flatten()
            .flat_map(|slots| slots.authorities().map(|authority| authority.root().to_owned()).collect::<Vec<_>>())
            .collect();
        let orphans = view.bundle.keys().filter(|id| !in_slots.contains(*id)).cloned().collect();
        survey.orphans.insert(*key, orphans);
        survey.slots.insert(*key, view.servers);
    }
    Ok(survey)
}
