//! Servers down, and servers up: by the number that their StatefulSet asks for.

use k8s_openapi::api::apps::v1::StatefulSet;

use crate::engine::StepContext;
use crate::error::Failure;
use crate::kube::Cluster;
use crate::plan::Finding;
use crate::spire::names;
use crate::steps::live;

async fn set(cx: &StepContext, cluster: &Cluster) -> Result<Option<StatefulSet>, Failure> {
    let spire = &cx.session.lab.spire;
    cluster.get::<StatefulSet>(&spire.server_namespace, &names::server(spire)).await
}

/// Whether no server runs, and none is asked for.
///
/// # Errors
/// The cluster does not answer.
pub(super) async fn down(cx: &StepContext, cluster: &Cluster) -> Result<Finding, Failure> {
    let namespace = &cx.session.lab.spire.server_namespace;
    let pods = live::pods(cluster, namespace, names::SERVER_SELECTOR).await?.len();
    let asked = set(cx, cluster).await?.map_or(0, |set| set.spec.replicas.unwrap_or(1));
    Ok(if pods == 0 && asked == 0 {
        Finding::Satisfied("no server runs".into())
    } else {
        Finding::Differs(format!("{pods} servers run"))
    })
}

/// Stops them, and waits until the last is gone.
///
/// # Errors
/// One does not end.
pub(super) async fn stop(cx: &StepContext, cluster: &Cluster) -> Result<(), Failure> {
    let spire = &cx.session.lab.spire;
    if set(cx, cluster).await?.is_some() {
        cluster.scale(&spire.server_namespace, &names::server(spire), 0).await?;
    }
    cluster.pods_gone(&spire.server_namespace, names::SERVER_SELECTOR, &cx.patience()).await
}

/// Asks for as many as the lab has.
///
/// # Errors
/// The cluster does not take it.
pub(super) async fn start(cx: &StepContext, cluster: &Cluster) -> Result<(), Failure> {
    let spire = &cx.session.lab.spire;
    cluster.scale(&spire.server_namespace, &names::server(spire), spire.servers).await
}
