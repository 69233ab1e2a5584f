//! Helm releases: as wanted or not, made so, and mended when an earlier helm was cut off.

use std::time::Duration;

use serde_json::Value;

use k8s_openapi::api::core::v1::Secret;

use crate::config::ChartRef;
use crate::engine::StepContext;
use crate::error::Failure;
use crate::kube::{Cluster, differs};
use crate::plan::Finding;
use crate::steps::fetch::{chart_path, read_chart};
use crate::steps::reach;
use crate::tools::helm::{self, Release};

/// A release as the lab wants it.
pub struct Wanted<'a> {
    /// Release name.
    pub name: &'a str,
    /// The release's namespace.
    pub namespace: &'a str,
    /// The chart.
    pub chart: &'a ChartRef,
    /// All values; nothing is reused from an earlier revision.
    pub values: Value,
    /// Namespaces whose pods are watched while helm runs (it waits for hooks, which may never start).
    pub watch: Vec<&'a str>,
}

impl Wanted<'_> {
    /// Compares with what is deployed.
    ///
    /// # Errors
    /// Helm cannot tell, or the chart is not readable.
    pub async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        reach::cluster(cx).await?;
        let Some(release) = current(cx, self.name, self.namespace).await? else {
            return Ok(Finding::Missing(format!("there is no release {}", self.name)));
        };
        if release.status != helm::ReleaseStatus::Deployed {
            return Ok(Finding::Differs(format!("release {} is {}", self.name, release.status)));
        }
        let chart = read_chart(&chart_path(cx, self.chart))?;
        let wanted = format!("{}-{}", chart.name, chart.version);
        if release.chart != wanted {
            return Ok(Finding::Differs(format!("release {} is of chart {}, not {wanted}", self.name, release.chart)));
        }
        let deployed = helm::parse_values(&cx.run(&reach::helm(cx).get_values(self.name, self.namespace)).await?)?;
        // Both ways: a value that was taken out of lab.toml must go, too.
        if let Some(path) = differs(&self.values, &deployed).or_else(|| differs(&deployed, &self.values)) {
            return Ok(Finding::Differs(format!("release {} has another value at {path}", self.name)));
        }
        Ok(Finding::Satisfied(format!("{} revision {} ({wanted})", self.name, release.revision)))
    }

    /// Installs or upgrades.
    ///
    /// # Errors
    /// Helm fails, or a pod that it waits for can never start.
    pub async fn install(&self, cx: &StepContext) -> Result<(), Failure> {
        let cluster = reach::cluster(cx).await?;
        settle(cx, &cluster, self.name, self.namespace).await?;
        let chart = chart_path(cx, self.chart);
        // JSON is YAML.
        let command =
            reach::helm(cx).upgrade_install(self.name, self.namespace, &chart, self.values.to_string(), cx.remaining());
        let places: Vec<(&str, &str)> = self.watch.iter().map(|namespace| (*namespace, "")).collect();
        watched(cx, &cluster, &places, &command)
            .await
            .map_err(|failure| failure.context(format!("could not install release {}", self.name)))
    }
}

/// Runs a helm command while the pods of `places` are watched: one that can never start ends helm at once
/// instead of at its time limit.
///
/// # Errors
/// The pod's doom, or helm's failure.
pub async fn watched(
    cx: &StepContext,
    cluster: &Cluster,
    places: &[(&str, &str)],
    command: &crate::tools::Command,
) -> Result<(), Failure> {
    let stop = cx.cancel.child_token();
    let mut stoppable = cx.clone();
    stoppable.cancel = stop.clone();
    let patience = cx.patience();
    let mut helm = std::pin::pin!(stoppable.run(command));
    tokio::select! {
        result = &mut helm => result.map(|_| ()).map_err(Failure::from),
        doom = cluster.until_doomed(places, &patience) => {
            stop.cancel();
            // Helm marks its release as failed when it is interrupted; that must not be cut off.
            let _ = helm.await;
            Err(doom)
        }
    }
}

/// The newest revision, if there is a release.
///
/// # Errors
/// Helm cannot tell.
pub async fn current(cx: &StepContext, name: &str, namespace: &str) -> Result<Option<Release>, Failure> {
    let output = cx.run(&reach::helm(cx).list(namespace)).await?;
    Ok(helm::parse_list(&output)?.into_iter().find(|release| release.name == name))
}

/// Brings a pending release to rest: a helm that may still run is waited for; one that is overdue was cut off,
/// and its revision is removed, for helm refuses every change while it is there.
async fn settle(cx: &StepContext, cluster: &Cluster, name: &str, namespace: &str) -> Result<(), Failure> {
    loop {
        let Some(release) = current(cx, name, namespace).await? else { return Ok(()) };
        if !release.status.is_pending() {
            return Ok(());
        }
        let limit = cx.session.lab.timeouts.rollout;
        let now = cx.session.world.clock.now();
        let age =
            release.updated.and_then(|updated| Duration::try_from(now.duration_since(updated)).ok()).unwrap_or(limit);
        if age >= limit {
            let secret = format!("sh.helm.release.v1.{name}.v{}", release.revision);
            cx.progress(format!(
                "removing revision {} of {name}, {} since {} s",
                release.revision,
                release.status,
                age.as_secs()
            ));
            return cluster
                .delete_named::<Secret>(
                    cluster.namespaced(namespace),
                    &secret,
                    &format!("Secret {namespace}/{secret}"),
                    &cx.patience(),
                )
                .await;
        }
        let left = limit.saturating_sub(age);
        cx.progress(format!(
            "release {name} is {}: another helm may be at work; waiting up to {} s for it",
            release.status,
            left.as_secs()
        ));
        cx.sleep(left.min(Duration::from_secs(2))).await?;
    }
}

/// Uninstalls; no release is fine.
///
/// # Errors
/// Helm fails.
pub async fn uninstall(cx: &StepContext, name: &str, namespace: &str) -> Result<(), Failure> {
    if current(cx, name, namespace).await?.is_none() {
        return Ok(());
    }
    cx.run(&reach::helm(cx).uninstall(name, namespace, cx.remaining())).await?;
    Ok(())
}
