//! kube-prometheus-stack, and the PodMonitors that show it SPIRE.

use async_trait::async_trait;
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::{Secret, Service};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::ResourceExt;
use kube::api::ListParams;
use kube::core::{DynamicObject, GroupVersionKind};
use serde_json::Value;

use crate::config::MonitoringSpec;
use crate::engine::{Body, StepContext};
use crate::error::Failure;
use crate::kube::{Cluster, Patience, Rollout, api_failure, by_kubectl};
use crate::plan::Finding;
use crate::steps::addons::{found_by, gone};
use crate::steps::release::{self, Wanted};
use crate::steps::values;
use crate::steps::{manifests, reach};

/// [`crate::plan::StepId::Prometheus`].
pub struct Prometheus;

fn spec(cx: &StepContext) -> Result<&MonitoringSpec, Failure> {
    let spec = cx.session.lab.monitoring.as_ref();
    spec.ok_or_else(|| Failure::unexpected("monitoring is switched off in this lab"))
}

fn wanted(cx: &StepContext) -> Result<Wanted<'_>, Failure> {
    let spec = spec(cx)?;
    Ok(Wanted {
        name: &spec.release,
        namespace: &spec.namespace,
        chart: &spec.chart,
        values: values::prometheus_values(&cx.session.lab)?,
        watch: vec![&spec.namespace],
    })
}

/// The chart cuts `RELEASE-kube-prometheus-stack` to 26 characters.
fn full_name(spec: &MonitoringSpec) -> String {
    let full: String = format!("{}-kube-prometheus-stack", spec.release).chars().take(26).collect();
    full.trim_end_matches('-').to_owned()
}

/// Selects the pods of this release's Prometheus, and of no other that the operator made.
#[must_use]
pub fn prometheus_selector(spec: &MonitoringSpec) -> String {
    format!("app.kubernetes.io/name=prometheus,prometheus={}-prometheus", full_name(spec))
}

/// What must serve: Prometheus itself (its readiness probe asks it), the operator that makes it, and Grafana.
fn rollouts(spec: &MonitoringSpec) -> Vec<(Rollout, String)> {
    let full = full_name(spec);
    vec![
        (Rollout::Deployment, format!("{full}-operator")),
        (Rollout::Deployment, format!("{}-grafana", spec.release)),
        (Rollout::StatefulSet, format!("prometheus-{full}-prometheus")),
    ]
}

#[async_trait]
impl Body for Prometheus {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        let found = wanted(cx)?.check(cx).await?;
        if !found.is_satisfied() {
            return Ok(found);
        }
        let cluster = reach::cluster(cx).await?;
        let spec = spec(cx)?;
        for (what, name) in rollouts(spec) {
            if let Err(missing) = cluster.rollout_state(what, &spec.namespace, &name).await? {
                return Ok(Finding::Differs(missing));
            }
        }
        Ok(found)
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        wanted(cx)?.install(cx).await
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        let cluster = reach::cluster(cx).await?;
        let spec = spec(cx)?;
        let patience = cx.patience();
        // The operator makes Prometheus' StatefulSet only after it has started itself.
        let (operator, rest) = (rollouts(spec)[0].clone(), rollouts(spec).split_off(1));
        let first = cluster.rolled_out(operator.0, &spec.namespace, &operator.1, &patience).await?;
        let proofs =
            try_join_all(rest.iter().map(|(what, name)| cluster.rolled_out(*what, &spec.namespace, name, &patience)))
                .await?;
        Ok(std::iter::once(first).chain(proofs).collect::<Vec<_>>().join(", "))
    }
}

/// [`crate::plan::StepId::Monitors`].
pub struct Monitors;

#[async_trait]
impl Body for Monitors {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        let cluster = reach::cluster(cx).await?;
        let wanted = manifests::monitors(&cx.session.lab)?;
        Ok(found_by(cluster.difference(&wanted).await?, || {
            "the PodMonitors and the dashboard are as wanted".to_owned()
        }))
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        reach::cluster(cx).await?.apply(&manifests::monitors(&cx.session.lab)?, &cx.patience()).await
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        match self.check(cx).await? {
            Finding::Satisfied(proof) => Ok(proof),
            other => Err(Failure::tool(format!("applied, and yet {}", other.detail()))
                .next(by_kubectl("get podmonitors --all-namespaces -o yaml"))),
        }
    }
}

/// Every PodMonitor, as its namespace and spec; none if nobody has brought the kind.
///
/// # Errors
/// They cannot be listed.
pub async fn pod_monitors(cluster: &Cluster) -> Result<Vec<(String, Value)>, Failure> {
    let kind = GroupVersionKind::gvk("monitoring.coreos.com", "v1", "PodMonitor");
    let Some(api) = cluster.dynamic(&kind, None).await? else { return Ok(Vec::new()) };
    let list = api.list(&ListParams::default()).await;
    let list = list.map_err(|error| api_failure("could not list the PodMonitors", &error))?;
    let seen = |object: DynamicObject| (object.namespace().unwrap_or_default(), object.data["spec"].clone());
    Ok(list.items.into_iter().map(seen).collect())
}

/// [`crate::plan::StepId::RemoveMonitors`].
pub struct RemoveMonitors;

#[async_trait]
impl Body for RemoveMonitors {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        let Some(cluster) = reach::cluster_if_any(cx).await? else {
            return Ok(Finding::Satisfied("there is no cluster".into()));
        };
        let left = cluster.those_of(&manifests::monitors(&cx.session.lab)?, &cx.session.lab).await?;
        Ok(if left.is_empty() {
            Finding::Satisfied("none is there".into())
        } else {
            Finding::Differs(format!("{} there", left.join(", ")))
        })
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        reach::cluster(cx).await?.delete(&manifests::monitors(&cx.session.lab)?, &cx.session.lab, &cx.patience()).await
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        gone(self.check(cx).await?)
    }
}

/// [`crate::plan::StepId::RemovePrometheus`].
pub struct Uninstall;

#[async_trait]
impl Body for Uninstall {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        if reach::cluster_if_any(cx).await?.is_none() {
            return Ok(Finding::Satisfied("there is no cluster".into()));
        }
        let spec = spec(cx)?;
        Ok(match release::current(cx, &spec.release, &spec.namespace).await? {
            None => Finding::Satisfied(format!("there is no release {}", spec.release)),
            Some(release) => Finding::Differs(format!("release {} is {}", spec.release, release.status)),
        })
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        let spec = spec(cx)?;
        let cluster = reach::cluster(cx).await?;
        release::uninstall(cx, &spec.release, &spec.namespace).await?;
        let patience = cx.patience();
        let selector = format!("release={}", spec.release);
        cluster.pods_gone(&spec.namespace, &selector, &patience).await?;
        // What the webhook's job and the operator made, helm does not know.
        let full = full_name(spec);
        let admission = format!("{full}-admission");
        cluster
            .delete_named::<Secret>(
                cluster.namespaced(&spec.namespace),
                &admission,
                &format!("Secret {admission}"),
                &patience,
            )
            .await?;
        let kubelet = format!("{full}-kubelet");
        cluster
            .delete_named::<Service>(
                cluster.namespaced("kube-system"),
                &kubelet,
                &format!("Service {kubelet}"),
                &patience,
            )
            .await?;
        if cx.session.lab.is_kind() {
            // The cluster is the lab's, so its CRDs are, too; elsewhere somebody else's objects may hang on them.
            let crds = cluster.all::<CustomResourceDefinition>().list(&ListParams::default()).await;
            let crds = crds.map_err(|error| api_failure("could not list the CRDs", &error))?;
            let names: Vec<String> = crds
                .iter()
                .filter(|crd| crd.spec.group == "monitoring.coreos.com")
                .map(ResourceExt::name_any)
                .collect();
            try_join_all(names.iter().map(|name| remove_crd(&cluster, name, &patience))).await?;
        }
        Ok(())
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        gone(self.check(cx).await?)
    }
}

async fn remove_crd(cluster: &Cluster, name: &str, patience: &Patience<'_>) -> Result<(), Failure> {
    cluster.delete_named::<CustomResourceDefinition>(cluster.all(), name, &format!("CRD {name}"), patience).await
}
