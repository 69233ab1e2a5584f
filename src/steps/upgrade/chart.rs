//! The chart: its CRDs, and the hop that moves the release onto another version of it while the images stay.

use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::ResourceExt;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::json;

use crate::config::ChartRef;
use crate::engine::{Body, StepContext};
use crate::error::Failure;
use crate::kube::{Cluster, api_failure};
use crate::plan::Finding;
use crate::spire::render::BundlePlace;
use crate::spire::values::{Images, Phase};
use crate::steps::live::Live;
use crate::steps::reach;
use crate::steps::release::Wanted;
use crate::steps::upgrade::aim::{Aim, HELM_RELEASE, helms};
use crate::steps::upgrade::source::{CRDS, source};
use crate::steps::upgrade::{half, hop};

/// [`crate::plan::HopPart::Crds`].
pub(super) struct Crds(pub(super) u16);

impl Crds {
    fn wanted<'a>(cx: &'a StepContext, chart: &'a ChartRef) -> Wanted<'a> {
        Wanted {
            name: CRDS,
            namespace: &cx.session.lab.spire.release_namespace,
            chart,
            values: json!({}),
            watch: Vec::new(),
        }
    }

    fn source(&self, cx: &StepContext) -> Result<Option<ChartRef>, Failure> {
        hop(cx, self.0)?.crds.as_ref().map(|version| source(cx, CRDS, version)).transpose()
    }
}

#[async_trait]
impl Body for Crds {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        match self.source(cx)? {
            None => Ok(Finding::Satisfied("this chart brings its CRDs itself, and they are there".into())),
            Some(chart) => Crds::wanted(cx, &chart).check(cx).await,
        }
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        let Some(chart) = self.source(cx)? else { return Ok(()) };
        adopt(cx).await?;
        Crds::wanted(cx, &chart).install(cx).await
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        match self.check(cx).await? {
            Finding::Satisfied(proof) => Ok(proof),
            other => Err(Failure::tool(format!("helm said that it was done, and yet {}", other.detail()))),
        }
    }
}

/// Hands the CRDs that an older chart left behind to the release of the CRDs: helm refuses to touch what does not say
/// that it is its own (facts, section 2, "Crossing 0.13->0.14").
async fn adopt(cx: &StepContext) -> Result<(), Failure> {
    let api = reach::cluster(cx).await?.all::<CustomResourceDefinition>();
    let all = api.list(&ListParams::default()).await;
    let all = all.map_err(|error| api_failure("could not list the CRDs", &error))?;
    let ours = all.items.iter().filter(|crd| crd.spec.group == "spire.spiffe.io");
    for crd in ours.filter(|crd| !crd.annotations().contains_key(HELM_RELEASE)) {
        let patch = helms(CRDS, &cx.session.lab.spire.release_namespace);
        let patched = api.patch(&crd.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await;
        patched.map_err(|error| api_failure(&format!("could not hand CRD {} to helm", crd.name_any()), &error))?;
        cx.progress(format!("{} is helm's from now on", crd.name_any()));
    }
    Ok(())
}

/// [`crate::plan::HopPart::Chart`].
pub(super) struct Move(pub(super) u16);

impl Move {
    fn aim(&self, cx: &StepContext, live: &Live, phase: Phase) -> Result<Aim, Failure> {
        let hop = hop(cx, self.0)?;
        let version = hop.chart.as_ref().ok_or_else(|| Failure::unexpected("a chart hop without a chart"))?;
        // The images stay: whatever the plan said, what the templates ask for is what is asked for again.
        let images = Images {
            server: live.server_template.clone().unwrap_or_else(|| hop.to.clone()),
            agent: live.agent_template.clone().unwrap_or_else(|| hop.to.clone()),
        };
        Ok(Aim { chart: source(cx, "spire", version)?, images, phase })
    }
}

#[async_trait]
impl Body for Move {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        let live = Live::look(cx).await?;
        self.aim(cx, &live, Phase::Settled)?.check(cx).await
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        let live = Live::look(cx).await?;
        // The servers first, here too: the chart may move the port that the agents dial.
        let cluster = reach::cluster(cx).await?;
        let applied = self.aim(cx, &live, Phase::Servers)?.apply(cx).await?;
        half::roll_servers(cx, &cluster).await?;
        bundle_is_there(cx, &cluster, &applied.bundle_read).await?;
        self.aim(cx, &live, Phase::Settled)?.apply(cx).await?;
        Ok(())
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        let cluster = reach::cluster(cx).await?;
        let servers = half::roll_servers(cx, &cluster).await?;
        let live = Live::look(cx).await?;
        let images = self.aim(cx, &live, Phase::Settled)?.images;
        let agents = half::roll_agents(cx, &images.agent).await?;
        let chart = live.chart.map_or_else(String::new, |chart| chart.to_string());
        Ok(format!("chart spire {chart}: {servers}, agents {agents}"))
    }
}

/// Waits until agents that start now find the bundle where they will look for it.
async fn bundle_is_there(cx: &StepContext, cluster: &Cluster, place: &BundlePlace) -> Result<(), Failure> {
    loop {
        let map = cluster.get::<ConfigMap>(&place.namespace, &place.config_map).await?;
        let text = map.and_then(|map| map.data?.remove(&place.key)).unwrap_or_default();
        if !text.trim().is_empty() {
            return Ok(());
        }
        if cx.remaining() < Duration::from_secs(2) {
            return Err(Failure::timeout(format!("the servers have not written the trust bundle to {place}"))
                .fact("the agents were not touched: they would not start without it")
                .next("`coastal logs server` shows what the servers say"));
        }
        cx.progress(format!("waiting for the trust bundle in {place}"));
        cx.sleep(Duration::from_millis(500)).await?;
    }
}
