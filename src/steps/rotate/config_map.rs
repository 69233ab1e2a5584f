//! The `ConfigMap` that agents boot from, after a revocation.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::ConfigMap as Map;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::{remember, rotation};
use crate::config::Lab;
use crate::engine::{Body, StepContext};
use crate::error::Failure;
use crate::kube::{api_failure, by_kubectl};
use crate::plan::Finding;
use crate::spire::bundles::{self, PEM_KEY, SPIFFE_KEY};
use crate::spire::planes::{Layer, Planes, short};
use crate::spire::rotation::KeyType;
use crate::steps::planes::{self, CONFIG_MAP};
use crate::steps::{identity, reach};

/// The publisher writes every 30 s, whatever happened (facts, section 4).
const PUBLISHED_WITHIN: Duration = Duration::from_secs(45);

/// [`crate::plan::RotateStep::ConfigMap`].
pub(super) struct ConfigMap;

impl ConfigMap {
    /// What it keeps that no server has any more, or lacks; nothing if it is as the servers are.
    async fn differs(cx: &StepContext) -> Result<Option<String>, Failure> {
        let cluster = reach::cluster(cx).await?;
        let planes = Planes::new(cx.session.world.clock.now(), planes::keepers(cx, &cluster).await?);
        let accepted = &rotation(cx)?.accepted;
        for plane in planes.planes.iter().filter(|plane| plane.layer == Layer::ConfigMap) {
            if let Some(why) = plane.unknown().filter(|_| !accepted.contains(&plane.name())) {
                return Err(Failure::check_failed(format!("{CONFIG_MAP} cannot be read: {why}")).next(by_kubectl(
                    &format!("-n {} get configmap {CONFIG_MAP} -o yaml", cx.session.lab.spire.system_namespace),
                )));
            }
            for key in KeyType::ALL {
                let bundle = planes.bundle(key);
                let Some(held) = plane.holds(key) else { continue };
                let gone: BTreeSet<String> = held.keys().filter(|id| !bundle.contains_key(*id)).cloned().collect();
                if !gone.is_empty() {
                    return Ok(Some(format!("it still has {key} {}", short(&gone))));
                }
                let lacks: BTreeSet<String> = bundle.into_keys().filter(|id| !held.contains_key(id)).collect();
                if !lacks.is_empty() {
                    return Ok(Some(format!("it has not {key} {}", short(&lacks))));
                }
            }
        }
        Ok(None)
    }

    async fn data(cx: &StepContext) -> Result<BTreeMap<String, String>, Failure> {
        let cluster = reach::cluster(cx).await?;
        Ok(planes::config_map(cx, &cluster).await?.and_then(|map| map.data).unwrap_or_default())
    }
}

#[async_trait]
impl Body for ConfigMap {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        Ok(match Self::differs(cx).await? {
            None => Finding::Satisfied(format!("{CONFIG_MAP} holds what the servers do")),
            Some(how) => Finding::Differs(how),
        })
    }

    async fn run(&self, cx: &StepContext, found: &Finding) -> Result<(), Failure> {
        let now = || cx.session.world.clock.now();
        if Self::data(cx).await?.contains_key(SPIFFE_KEY) {
            // The servers' publisher owns it; what is written beside it would be overwritten.
            let end = tokio::time::Instant::now() + PUBLISHED_WITHIN;
            while let Some(how) = Self::differs(cx).await? {
                if tokio::time::Instant::now() > end.min(cx.deadline()) {
                    return Err(Failure::timeout(format!("the servers have not published their bundle: {how}"))
                        .next("`coastal logs server` shows why: look for `Failed to publish bundle`"));
                }
                cx.progress(format!("the servers publish every 30 s: {how}"));
                cx.sleep(Duration::from_secs(1)).await?;
            }
            return remember(cx, |incident| incident.note(now(), format!("{CONFIG_MAP}: published by the servers")));
        }
        let cluster = reach::cluster(cx).await?;
        let bundle = identity::bundle(cx).await?;
        let patch = json!({"data": {(PEM_KEY): bundles::pem(&bundle)}});
        let params = PatchParams { field_manager: Some(Lab::FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let api = cluster.namespaced::<Map>(&cx.session.lab.spire.system_namespace);
        let patched = api.patch(CONFIG_MAP, &params, &Patch::Merge(&patch)).await;
        patched.map_err(|error| api_failure(&format!("could not write the ConfigMap {CONFIG_MAP}"), &error))?;
        let words = format!(
            "{CONFIG_MAP}: written ({}), for the servers' notifier is not told of a revocation",
            found.detail()
        );
        remember(cx, |incident| incident.note(now(), words))
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        match Self::differs(cx).await? {
            None => Ok(format!("{CONFIG_MAP} holds what the servers do")),
            Some(how) => Err(Failure::check_failed(format!("{CONFIG_MAP} is not as the servers are: {how}"))
                .next("something else writes it too; `coastal bundle planes` shows what it holds")),
        }
    }
}
