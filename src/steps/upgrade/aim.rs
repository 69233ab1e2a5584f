//! What the release is to be: a chart, two images, a phase; and how it becomes that.

use std::path::Path;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{DaemonSet, StatefulSet};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use semver::Version;
use serde_json::{Value, json};

use crate::config::ChartRef;
use crate::engine::StepContext;
use crate::error::Failure;
use crate::kube::{Cluster, api_failure};
use crate::plan::Finding;
use crate::spire::names;
use crate::spire::render::{BundlePlace, Rendered, immutable_changes, mismatches};
use crate::spire::values::known::{self, KnownKeys};
use crate::spire::values::lines::Line;
use crate::spire::values::{Images, Phase};
use crate::steps::chart_files::chart_texts;
use crate::steps::fetch::chart_path;
use crate::steps::release::Wanted;
use crate::steps::upgrade::source::version_of;
use crate::steps::{reach, values};

/// The annotation that names the release which something belongs to.
pub(super) const HELM_RELEASE: &str = "meta.helm.sh/release-name";

/// The release as it is to be.
pub(in crate::steps) struct Aim {
    pub(in crate::steps) chart: ChartRef,
    pub(in crate::steps) images: Images,
    pub(super) phase: Phase,
}

impl Aim {
    /// With nothing held back.
    pub(in crate::steps) fn settled(chart: ChartRef, images: Images) -> Self {
        Aim { chart, images, phase: Phase::Settled }
    }

    fn wanted<'a>(&'a self, cx: &'a StepContext, version: &Version) -> Result<Wanted<'a>, Failure> {
        let spire = &cx.session.lab.spire;
        Ok(Wanted {
            name: &spire.release,
            namespace: &spire.release_namespace,
            chart: &self.chart,
            values: values::spire_values(&cx.session.lab, version, &self.images, self.phase)?,
            watch: vec![&spire.server_namespace, &spire.system_namespace],
        })
    }

    /// Whether the release is that already.
    ///
    /// # Errors
    /// As [`Wanted::check`]; the chart is not at hand.
    pub(in crate::steps) async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        self.wanted(cx, &version_of(cx, &self.chart)?)?.check(cx).await
    }

    /// Makes it that; first what would be applied is rendered and held against what is meant, and what Kubernetes
    /// would not let helm change is taken away. Returns what was applied.
    ///
    /// # Errors
    /// The chart does not render, what it renders is not what is meant, or helm fails.
    pub(in crate::steps) async fn apply(&self, cx: &StepContext) -> Result<Rendered, Failure> {
        let (lab, spire) = (&cx.session.lab, &cx.session.lab.spire);
        let path = chart_path(cx, &self.chart);
        let version = version_of(cx, &self.chart)?;
        check_users_values(cx, &path, &version)?;
        let wanted = self.wanted(cx, &version)?;
        let command = reach::helm(cx).template(wanted.name, wanted.namespace, &path, wanted.values.to_string());
        let output = cx.run(&command).await.map_err(|error| {
            Failure::from(error).context(format!("chart spire {version} does not render with the lab's values"))
        })?;
        let rendered = Rendered::read(lab, &output.stdout)?;
        let wrong = mismatches(lab, &version, &self.images, self.phase, &rendered);
        if !wrong.is_empty() {
            return Err(Failure::refused(format!(
                "what chart spire {version} makes of the lab's values would not work"
            ))
            .facts(wrong)
            .next("nothing was changed; `[spire] values` in lab.toml names a file that is merged over coastal's own"));
        }
        let cluster = reach::cluster(cx).await?;
        let (servers, agents) = (names::server(spire), names::agent(spire));
        make_way::<StatefulSet>(cx, &cluster, &spire.server_namespace, &servers, &rendered.stateful_set).await?;
        make_way::<DaemonSet>(cx, &cluster, &spire.system_namespace, &agents, &rendered.daemon_set).await?;
        hand_over_bundle(cx, &cluster, &rendered).await?;
        wanted.install(cx).await?;
        Ok(rendered)
    }
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
pub(super) fn helms(release: &str, namespace: &str) -> Value {
    json!({"metadata": {
        "labels": {"app.kubernetes.io/managed-by": "Helm"},
        "annotations": {HELM_RELEASE: release, "meta.helm.sh/release-namespace": namespace},
    }})
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
