//! The chart: where each version of it comes from, its CRDs, and the hop that moves the release onto another version
//! of it while the images stay.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{DaemonSet, StatefulSet};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::ResourceExt;
use kube::api::{ListParams, Patch, PatchParams};
use semver::Version;
use serde_json::{Value, json};

use crate::config::ChartRef;
use crate::engine::{Body, StepContext};
use crate::error::Failure;
use crate::kube::{Cluster, api_failure};
use crate::plan::Finding;
use crate::spire::names;
use crate::spire::render::{BundlePlace, Rendered, immutable_changes, mismatches};
use crate::spire::values::known::{self, KnownKeys};
use crate::spire::values::lines::Line;
use crate::spire::values::{Images, Phase};
use crate::steps::chart_files::chart_texts;
use crate::steps::fetch::{self, chart_path, read_chart};
use crate::steps::live::Live;
use crate::steps::release::Wanted;
use crate::steps::upgrade::images;
use crate::steps::upgrade::{change, hop};
use crate::steps::{reach, values};

/// The archived repository that the lab began with; it ends at [`LAST_ARCHIVED`].
const ARCHIVED: &str = "spiffe.github.io/helm-charts";
/// Where the chart lives on, with all older versions.
const HARDENED: (&str, &str) = ("spiffe-hardened", "https://spiffe.github.io/helm-charts-hardened/");
const LAST_ARCHIVED: Version = Version::new(0, 13, 0);

/// Release and chart of the CRDs, from chart line 0.14 on.
const CRDS: &str = "spire-crds";

/// The annotation that names the release which something belongs to.
const HELM_RELEASE: &str = "meta.helm.sh/release-name";

/// The chart that the release is of now.
///
/// # Errors
/// There is no release, or its chart's version is at hand nowhere.
pub(super) fn current(cx: &StepContext, live: &Live) -> Result<ChartRef, Failure> {
    let version = live.chart.as_ref().ok_or_else(|| {
        Failure::prerequisite(format!("there is no release {} of chart spire", cx.session.lab.spire.release))
            .next("`coastal spire-install` makes it")
    })?;
    source(cx, "spire", version)
}

/// Where a version of a chart comes from: lab.toml if it is the very one that it names, else the archives of
/// `--charts`, else beside the archive that lab.toml names, else the repository.
pub(in crate::steps) fn source(cx: &StepContext, chart: &str, version: &Version) -> Result<ChartRef, Failure> {
    let lab = &cx.session.lab;
    let named = [Some(&lab.spire.chart), lab.spire.crds_chart.as_ref()];
    for named in named.into_iter().flatten() {
        if let ChartRef::Repo { chart: name, version: pinned, .. } = named
            && name == chart
            && pinned == version
        {
            return Ok(named.clone());
        }
        if let ChartRef::Path(path) = named
            && is_of(path, chart, version)
        {
            return Ok(named.clone());
        }
    }
    let places = change(cx).ok().and_then(|change| change.charts.clone()).into_iter().chain(beside(&lab.spire.chart));
    let mut looked = Vec::new();
    for place in places {
        for path in [place.join(format!("{chart}-{version}.tgz")), place.join(format!("{chart}-{version}"))] {
            if is_of(&path, chart, version) {
                return Ok(ChartRef::Path(path));
            }
            looked.push(path);
        }
    }
    if let ChartRef::Repo { repo_name, url, .. } = &lab.spire.chart {
        let archived = url.trim_end_matches('/').ends_with(ARCHIVED);
        let (name, url) = if archived && (*version > LAST_ARCHIVED || chart == CRDS) {
            (HARDENED.0.to_owned(), HARDENED.1.to_owned())
        } else {
            (repo_name.clone(), url.clone())
        };
        return Ok(ChartRef::Repo { repo_name: name, url, chart: chart.to_owned(), version: version.clone() });
    }
    Err(Failure::prerequisite(format!("chart {chart} {version} is not at hand"))
        .facts(looked.iter().map(|path| format!("not there: {}", path.display())))
        .next(format!("put `{chart}-{version}.tgz` into a directory and name it: `--charts DIRECTORY`")))
}

fn beside(chart: &ChartRef) -> Option<PathBuf> {
    match chart {
        ChartRef::Path(path) => path.parent().map(Path::to_owned),
        ChartRef::Repo { .. } => None,
    }
}

fn is_of(path: &Path, chart: &str, version: &Version) -> bool {
    path.exists() && read_chart(path).is_ok_and(|meta| meta.name == chart && meta.version == version.to_string())
}

/// Installs the release; first what it would apply is rendered and held against what is meant, and what Kubernetes
/// would not let helm change is taken away. Returns what was applied.
///
/// # Errors
/// The chart does not render, what it renders is not what is meant, or helm fails.
pub(in crate::steps) async fn install(
    cx: &StepContext,
    wanted: &Wanted<'_>,
    images: &Images,
    phase: Phase,
) -> Result<Rendered, Failure> {
    let lab = &cx.session.lab;
    let path = chart_path(cx, wanted.chart);
    let version = images::chart_version(cx, wanted.chart)?;
    check_users_values(cx, &path, &version)?;
    let command = reach::helm(cx).template(wanted.name, wanted.namespace, &path, wanted.values.to_string());
    let output = cx.run(&command).await.map_err(|error| {
        Failure::from(error).context(format!("chart spire {version} does not render with the lab's values"))
    })?;
    let rendered = Rendered::read(lab, &output.stdout)?;
    let wrong = mismatches(lab, &version, images, phase, &rendered);
    if !wrong.is_empty() {
        return Err(Failure::refused(format!("what chart spire {version} makes of the lab's values would not work"))
            .facts(wrong)
            .next("nothing was changed; `[spire] values` in lab.toml names a file that is merged over coastal's own"));
    }
    let cluster = reach::cluster(cx).await?;
    make_way::<StatefulSet>(
        cx,
        &cluster,
        &lab.spire.server_namespace,
        &names::server(&lab.spire),
        &rendered.stateful_set,
    )
    .await?;
    make_way::<DaemonSet>(cx, &cluster, &lab.spire.system_namespace, &names::agent(&lab.spire), &rendered.daemon_set)
        .await?;
    hand_over_bundle(cx, &cluster, &rendered).await?;
    wanted.install(cx).await?;
    Ok(rendered)
}

/// The ConfigMap of the trust bundle leaves the release at chart 0.26, where the servers make it themselves, and is a
/// part of it before. On the way down it is there already, and helm would refuse what does not say that it is its own.
async fn hand_over_bundle(cx: &StepContext, cluster: &Cluster, rendered: &Rendered) -> Result<(), Failure> {
    if !rendered.makes_bundle {
        return Ok(());
    }
    let BundlePlace { namespace, config_map, .. } = &rendered.bundle_read;
    let Some(live) = cluster.get::<ConfigMap>(namespace, config_map).await? else { return Ok(()) };
    let spire = &cx.session.lab.spire;
    if live.annotations().contains_key(HELM_RELEASE) {
        return Ok(());
    }
    let patch = helms(&spire.release, &spire.release_namespace);
    let api = cluster.namespaced::<ConfigMap>(namespace);
    let patched = api.patch(config_map, &PatchParams::default(), &Patch::Merge(&patch)).await;
    patched
        .map_err(|error| api_failure(&format!("could not hand ConfigMap {namespace}/{config_map} to helm"), &error))?;
    Ok(())
}

/// The marks by which helm knows what is a release's own.
fn helms(release: &str, namespace: &str) -> Value {
    json!({"metadata": {
        "labels": {"app.kubernetes.io/managed-by": "Helm"},
        "annotations": {HELM_RELEASE: release, "meta.helm.sh/release-namespace": namespace},
    }})
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

/// Keys of the user's values file that the chart does not know are settings that silently would not be made.
fn check_users_values(cx: &StepContext, chart: &Path, version: &Version) -> Result<(), Failure> {
    let Some(users) = values::user_spire_values(&cx.session.lab)? else { return Ok(()) };
    let files = chart_texts(chart)?;
    let known = KnownKeys::read(files.iter().map(|(path, text)| (path.as_str(), text.as_str())))?;
    let unknown = known.unknown(&users, Line::from(version));
    let file = cx.session.lab.spire.values.as_ref().map_or_else(String::new, |file| file.display().to_string());
    if unknown.is_empty() { Ok(()) } else { Err(known::failure(&file, &format!("spire {version}"), &unknown)) }
}

/// Deletes the live object if the rendered one differs in what Kubernetes lets nobody change: helm would fail on it
/// (selectors at charts 0.12 and 0.19). Claims stay.
async fn make_way<K>(
    cx: &StepContext,
    cluster: &Cluster,
    namespace: &str,
    name: &str,
    rendered: &Value,
) -> Result<(), Failure>
where
    K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned + serde::Serialize + Send + 'static,
{
    let Some(live) = cluster.get::<K>(namespace, name).await? else { return Ok(()) };
    let live = serde_json::to_value(live).map_err(|error| Failure::unexpected(error.to_string()))?;
    let changes = immutable_changes(&live, rendered);
    if changes.is_empty() {
        return Ok(());
    }
    let what = format!("{} {namespace}/{name}", K::kind(&()));
    cx.progress(format!("{what} is made anew: {}", changes.join("; ")));
    cluster.delete_named::<K>(cluster.namespaced(namespace), name, &what, &cx.patience()).await
}

/// [`crate::plan::HopPart::Fetch`].
pub(super) struct Fetch(pub(super) u16);

/// Brings charts that are not at hand into the lab's cache.
///
/// # Errors
/// Their repository does not answer, or does not have them.
pub(in crate::steps) async fn bring(cx: &StepContext, sources: &[ChartRef]) -> Result<(), Failure> {
    let repositories = sources.iter().filter_map(|source| match source {
        ChartRef::Repo { repo_name, url, .. } => Some((repo_name.clone(), url.clone())),
        ChartRef::Path(_) => None,
    });
    fetch::add_repositories(cx, repositories.collect()).await?;
    fetch::pull(cx, sources).await
}

impl Fetch {
    fn sources(&self, cx: &StepContext) -> Result<Vec<ChartRef>, Failure> {
        let hop = hop(cx, self.0)?;
        let chart = hop.chart.as_ref().or(hop.chart_from.as_ref());
        let wanted = chart.map(|version| ("spire", version)).into_iter().chain(hop.crds.as_ref().map(|v| (CRDS, v)));
        wanted.map(|(chart, version)| source(cx, chart, version)).collect()
    }
}

#[async_trait]
impl Body for Fetch {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        fetch::at_hand(cx, &self.sources(cx)?)
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        bring(cx, &self.sources(cx)?).await
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        match self.check(cx).await? {
            Finding::Satisfied(proof) => Ok(proof),
            other => Err(Failure::tool(format!("helm said that it was done, and yet: {}", other.detail()))),
        }
    }
}

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
    fn wanted(&self, cx: &StepContext, live: &Live) -> Result<(ChartRef, Images), Failure> {
        let hop = hop(cx, self.0)?;
        let version = hop.chart.as_ref().ok_or_else(|| Failure::unexpected("a chart hop without a chart"))?;
        // The images stay: whatever the plan said, what the templates ask for is what is asked for again.
        let images = Images {
            server: live.server_template.clone().unwrap_or_else(|| hop.to.clone()),
            agent: live.agent_template.clone().unwrap_or_else(|| hop.to.clone()),
        };
        Ok((source(cx, "spire", version)?, images))
    }
}

#[async_trait]
impl Body for Move {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        let live = Live::look(cx).await?;
        let (chart, images) = self.wanted(cx, &live)?;
        images::release(cx, &images, &chart, Phase::Settled)?.check(cx).await
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        let live = Live::look(cx).await?;
        let (chart, images) = self.wanted(cx, &live)?;
        // The servers first, here too: the chart may move the port that the agents dial.
        let cluster = reach::cluster(cx).await?;
        let applied =
            install(cx, &images::release(cx, &images, &chart, Phase::Servers)?, &images, Phase::Servers).await?;
        images::roll_servers(cx, &cluster).await?;
        bundle_is_there(cx, &cluster, &applied.bundle_read).await?;
        install(cx, &images::release(cx, &images, &chart, Phase::Settled)?, &images, Phase::Settled).await?;
        Ok(())
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        let cluster = reach::cluster(cx).await?;
        let servers = images::roll_servers(cx, &cluster).await?;
        let live = Live::look(cx).await?;
        let (_, images) = self.wanted(cx, &live)?;
        let agents = images::roll_agents(cx, &images.agent).await?;
        let chart = live.chart.map_or_else(String::new, |chart| chart.to_string());
        Ok(format!("chart spire {chart}: {servers}, agents {agents}"))
    }
}
