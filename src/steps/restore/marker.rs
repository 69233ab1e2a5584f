//! How far a restore has come: written into the cluster itself, on the servers' namespace, so that the next run goes on
//! from there whatever became of the last one, and a new cluster knows of none.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::engine::StepContext;
use crate::error::Failure;
use crate::kube::{Cluster, api_failure};
use crate::steps::reach;

/// The annotation.
const KEY: &str = "coastal-containers.example/restore";

/// A restore that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// Which backup: see [`crate::plan::Restoration::id`].
    pub backup: String,
    /// The archive, as it was named.
    pub file: String,
    /// The archive with what was there before, if anything was.
    pub aside: Option<String>,
    /// What is done.
    pub phase: Phase,
    /// Agents that hold another bundle have not been restarted yet.
    pub agents_begin_anew: bool,
    /// Since when.
    pub since: Timestamp,
}

/// What is done of a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// What was there is kept.
    Aside,
    /// The database is back.
    Database,
    /// The keys are back, too.
    Keys,
}

/// The restore that is under way, if one is.
///
/// # Errors
/// The cluster does not answer, or somebody has changed the annotation.
pub async fn read(cx: &StepContext, cluster: &Cluster) -> Result<Option<Marker>, Failure> {
    let name = &cx.session.lab.spire.server_namespace;
    let namespace = cluster.all::<Namespace>().get_opt(name).await;
    let namespace = namespace.map_err(|error| api_failure(&format!("could not read the namespace {name}"), &error))?;
    let Some(text) = namespace.and_then(|namespace| namespace.annotations().get(KEY).cloned()) else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|error| {
        Failure::refused(format!("the annotation {KEY} of namespace {name} cannot be read: {error}"))
            .fact(format!("it says `{text}`"))
            .next("it says how far a restore has come; remove it yourself if you know that none is under way")
    })
}

/// Whether no restore was cut off: while one was, database and keys need not belong together, and servers that are
/// started on them would make new authorities.
///
/// # Errors
/// One was.
pub async fn none_is_open(cx: &StepContext) -> Result<(), Failure> {
    let Some(marker) = read(cx, &reach::cluster(cx).await?).await? else { return Ok(()) };
    Err(Failure::refused("a restore was cut off: what is there now is part old, part new")
        .fact(format!("begun {:.0}, from {}", marker.since, marker.file))
        .next(format!("`coastal restore {}` goes on with it", marker.file)))
}

/// Writes down how far it has come; with nothing, that none is under way.
///
/// # Errors
/// The cluster does not take it.
pub async fn write(cx: &StepContext, cluster: &Cluster, marker: Option<&Marker>) -> Result<(), Failure> {
    let name = &cx.session.lab.spire.server_namespace;
    let text = marker.map(serde_json::to_string).transpose();
    let text = text.map_err(|error| Failure::unexpected(error.to_string()))?;
    let patch = json!({"metadata": {"annotations": {(KEY): text}}});
    let patched = cluster.all::<Namespace>().patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await;
    patched.map(drop).map_err(|error| api_failure("could not write down how far the restore has come", &error))
}
