//! Marks on the servers' namespace: what was begun that must not be left half done, and how far it has come. In the
//! cluster itself, so that the next run goes on from there whatever became of the last one and of the machine that it
//! ran on, and so that a new cluster knows of none.

use k8s_openapi::api::core::v1::Namespace;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::engine::StepContext;
use crate::error::Failure;
use crate::kube::{Cluster, api_failure};

/// The mark of that name, if it is there.
///
/// # Errors
/// The cluster does not answer, or somebody has changed the annotation.
pub(super) async fn read<T: DeserializeOwned>(
    cx: &StepContext,
    cluster: &Cluster,
    key: &str,
) -> Result<Option<T>, Failure> {
    let name = &cx.session.lab.spire.server_namespace;
    let namespace = cluster.all::<Namespace>().get_opt(name).await;
    let namespace = namespace.map_err(|error| api_failure(&format!("could not read the namespace {name}"), &error))?;
    let Some(text) = namespace.and_then(|namespace| namespace.annotations().get(key).cloned()) else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|error| {
        Failure::refused(format!("the annotation {key} of namespace {name} cannot be read: {error}"))
            .fact(format!("it says `{text}`"))
            .next("it says how far a change has come; remove it yourself if you know that none is under way")
    })
}

/// Sets the mark of that name; with nothing, takes it away.
///
/// # Errors
/// The cluster does not take it.
pub(super) async fn write<T: Serialize>(
    cx: &StepContext,
    cluster: &Cluster,
    key: &str,
    mark: Option<&T>,
) -> Result<(), Failure> {
    let name = &cx.session.lab.spire.server_namespace;
    let text = mark.map(serde_json::to_string).transpose();
    let text = text.map_err(|error| Failure::unexpected(error.to_string()))?;
    let patch = json!({"metadata": {"annotations": {(key): text}}});
    let patched = cluster.all::<Namespace>().patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await;
    patched.map(drop).map_err(|error| api_failure("could not write down how far the change has come", &error))
}
