//! Looks at everything that checks judge, once and side by side.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use futures::future::join_all;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use kube::api::ListParams;
use kube::core::GroupVersionKind;
use semver::Version;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::evidence::{BundleMap, Evidence, Files, Known, ReleaseValues, Svid, There};
use crate::config::Provider;
use crate::engine::StepContext;
use crate::error::Failure;
use crate::kube::{Cluster, api_failure};
use crate::observe;
use crate::plan::{Finding, Goal, StepId};
use crate::session::Session;
use crate::spire::bundles::{Keys, PEM_KEY, SPIFFE_KEY};
use crate::spire::names;
use crate::spire::values::known::KnownKeys;
use crate::spire::values::lines::Line;
use crate::spire::values::{self, Images, Phase};
use crate::steps::chart_files::chart_texts;
use crate::steps::live::Live;
use crate::steps::reach::{self, Presence};
use crate::steps::{audit, database, monitoring, probe, release, workload};
use crate::tools::{Tool, docker, helm, versions};

/// Looks. With `host_only` at nothing but the machine, and whether there is a cluster.
pub async fn gather(session: &Arc<Session>, host_only: bool, cancel: &CancellationToken) -> Evidence {
    let moment = session.at_one_moment();
    let evidence = look(&moment, host_only, cancel).await;
    if let Some(cluster) = moment.cluster.get() {
        let _ = session.cluster.set(cluster.clone());
    }
    evidence
}

async fn look(session: &Arc<Session>, host_only: bool, cancel: &CancellationToken) -> Evidence {
    let cx = &observe::looking(session, cancel);
    let host = async {
        let (tools, info) = tokio::join!(tools(cx), docker_info(cx));
        (tools, info, files(cx), session.world.host.look(&ports(cx), session.paths.state()))
    };
    let inside = async {
        let (there, cluster) = presence(cx).await;
        match cluster {
            Some(cluster) if !host_only => inside(session, cx, &cluster, there, cancel).await,
            _ => {
                let why = match &there {
                    Ok(There::Absent) => "there is no cluster".to_owned(),
                    Ok(There::HalfMade) => "the cluster is half-made".to_owned(),
                    Ok(There::Running) => "it was not looked at".to_owned(),
                    Err(why) => why.clone(),
                };
                Evidence::without_cluster(session.lab.clone(), session.world.clock.now(), there, &why)
            }
        }
    };
    let ((tools, docker, files, host), evidence) = tokio::join!(host, Box::pin(inside));
    Evidence { tools, docker, host, files, ..evidence }
}

async fn presence(cx: &StepContext) -> (Known<There>, Option<Cluster>) {
    match reach::presence(cx).await {
        Ok(Presence::Absent) => (Ok(There::Absent), None),
        Ok(Presence::Unfinished) => (Ok(There::HalfMade), None),
        Ok(Presence::Ours(cluster)) => {
            let _ = cx.session.cluster.set(cluster.clone());
            (Ok(There::Running), Some(cluster))
        }
        Err(failure) => (Err(failure.in_one_line()), None),
    }
}

async fn tools(cx: &StepContext) -> BTreeMap<Tool, Result<Version, crate::tools::CommandError>> {
    let needed: &[Tool] = if cx.session.lab.is_kind() { &Tool::ALL } else { &[Tool::Helm, Tool::Kubectl] };
    let asked = needed.iter().map(|tool| async move {
        let said = cx.run(&versions::ask(*tool)).await;
        (*tool, said.and_then(|output| versions::read(*tool, &output)))
    });
    join_all(asked).await.into_iter().collect()
}

async fn docker_info(cx: &StepContext) -> Known<docker::Info> {
    if !cx.session.lab.is_kind() {
        return Err("this lab needs no Docker".to_owned());
    }
    let read = cx.run(&docker::info()).await.and_then(|output| docker::parse_info(&output));
    read.map_err(|error| docker::explain_daemon_trouble(&error).map_or_else(|| error.to_string(), |told| told.message))
}

fn ports(cx: &StepContext) -> Vec<u16> {
    match &cx.session.lab.cluster.provider {
        Provider::Kind { http_port, https_port, .. } => vec![*http_port, *https_port],
        Provider::Existing { .. } => Vec::new(),
    }
}

fn files(cx: &StepContext) -> Files {
    let paths = &cx.session.paths;
    let wanted = [(paths.state().to_owned(), 0o700), (paths.kubeconfig(), 0o600)];
    let bits = |path: &Path| Some(std::fs::metadata(path).ok()?.permissions().mode() & 0o777);
    Files { modes: wanted.into_iter().filter_map(|(path, most)| Some((path.clone(), bits(&path)?, most))).collect() }
}

async fn inside(
    session: &Arc<Session>,
    cx: &StepContext,
    cluster: &Cluster,
    there: Known<There>,
    cancel: &CancellationToken,
) -> Evidence {
    let lab = &session.lab;
    let spire = &lab.spire;
    let (server_namespace, system_namespace) = (spire.server_namespace.as_str(), spire.system_namespace.as_str());
    let objects = async {
        tokio::join!(
            all(cluster.all(), "nodes"),
            all(cluster.all(), "pods"),
            all(cluster.all(), "services"),
            all(cluster.all(), "claims"),
            all(cluster.all(), "namespaces"),
            all(cluster.all(), "storage classes"),
            all(cluster.all(), "CSI drivers"),
            all(cluster.all(), "webhooks"),
            all(cluster.namespaced(system_namespace), "DaemonSets"),
        )
    };
    let of_spire = async {
        let spiffe_id = GroupVersionKind::gvk("spire.spiffe.io", "v1alpha1", "ClusterSPIFFEID");
        let server = names::server(spire);
        // Its ConfigMap (facts, section 2).
        let manager = format!("{}-controller-manager", spire.release);
        tokio::join!(
            cluster.get(server_namespace, &server),
            config(cluster, server_namespace, &server, "server.conf"),
            config(cluster, server_namespace, &manager, "controller-manager-config.yaml"),
            bundle_maps(cluster, [system_namespace, server_namespace]),
            custom(cluster, &spiffe_id),
            monitoring::pod_monitors(cluster),
        )
    };
    let processes = async {
        tokio::join!(
            Live::look(cx),
            database::login(cx),
            database::migrations(cx),
            Box::pin(audit::audited(cx)),
            workload::holders(cx, cluster),
            releases(cx),
            release_values(cx),
            probe::leftovers(cx, cluster),
        )
    };
    let drift = observe::plan(session, Goal::Up, cancel);
    let (objects, of_spire, processes, drift) =
        tokio::join!(Box::pin(objects), Box::pin(of_spire), Box::pin(processes), Box::pin(drift));
    let (nodes, pods, services, claims, namespaces, storage_classes, csi_drivers, webhooks, daemon_sets) = objects;
    let (server_set, server_conf, manager_conf, bundle_maps, spiffe_ids, monitors) = of_spire;
    let (live, login, row, audited, holders, releases, values, leftovers) = processes;
    let svid = |holder: workload::Holder| Svid { pod: holder.pod.name_any(), update: holder.update };
    Evidence {
        nodes,
        pods,
        services,
        claims,
        namespaces,
        storage_classes,
        csi_drivers,
        webhooks,
        daemon_sets,
        server_set: server_set.map_err(|failure| failure.in_one_line()),
        server_conf,
        manager_conf,
        bundle_maps,
        spiffe_ids,
        monitors: monitors.map_err(|failure| failure.in_one_line()),
        live: live.map_err(|failure| failure.in_one_line()),
        login: Ok(login.map_err(|failure| failure.in_one_line())),
        row: row.map_err(|failure| failure.in_one_line()),
        audited: audited.map_err(|failure| failure.in_one_line()),
        svids: holders.map(|all| all.into_iter().map(svid).collect()).map_err(|failure| failure.in_one_line()),
        releases: releases.map_err(|failure| failure.in_one_line()),
        values,
        leftovers: leftovers
            .map(|pods| pods.iter().map(ResourceExt::name_any).collect())
            .map_err(|failure| failure.in_one_line()),
        drift: drift.map(seen).map_err(|failure| failure.in_one_line()),
        ..Evidence::without_cluster(lab.clone(), session.world.clock.now(), there, "it was not looked at")
    }
}

fn seen(plan: crate::plan::Plan) -> Vec<(StepId, Finding)> {
    plan.steps.into_iter().filter_map(|step| Some((step.id, step.finding?))).collect()
}

async fn all<K>(api: kube::Api<K>, what: &str) -> Known<Vec<K>>
where
    K: Clone + std::fmt::Debug + DeserializeOwned,
{
    let list = api.list(&ListParams::default()).await;
    list.map(|list| list.items)
        .map_err(|error| api_failure(&format!("could not list the {what}"), &error).in_one_line())
}

/// All objects of a kind that a chart brings; none if the kind is not there.
async fn custom(cluster: &Cluster, kind: &GroupVersionKind) -> Known<Vec<Value>> {
    let Some(api) = cluster.dynamic(kind, None).await.map_err(|failure| failure.in_one_line())? else {
        return Ok(Vec::new());
    };
    let objects = all(api, &format!("objects of kind {}", kind.kind)).await?;
    objects.into_iter().map(|object| serde_json::to_value(object).map_err(|error| error.to_string())).collect()
}

/// A configuration in a ConfigMap: JSON, or YAML, of which it is a part.
async fn config(cluster: &Cluster, namespace: &str, name: &str, key: &str) -> Known<Value> {
    let map: Option<ConfigMap> = cluster.get(namespace, name).await.map_err(|failure| failure.in_one_line())?;
    let map = map.ok_or_else(|| format!("there is no ConfigMap {namespace}/{name}"))?;
    let text = map.data.and_then(|mut data| data.remove(key));
    let text = text.ok_or_else(|| format!("ConfigMap {namespace}/{name} has no key {key}"))?;
    serde_yaml::from_str(&text).map_err(|error| format!("{key} of ConfigMap {namespace}/{name}: {error}"))
}

const BUNDLE: &str = "spire-bundle";

async fn bundle_maps(cluster: &Cluster, namespaces: [&str; 2]) -> Known<Vec<BundleMap>> {
    let mut maps = Vec::new();
    for namespace in BTreeSet::from(namespaces) {
        let map: Option<ConfigMap> = cluster.get(namespace, BUNDLE).await.map_err(|failure| failure.in_one_line())?;
        if let Some(map) = map {
            let texts = map.data.unwrap_or_default();
            let text = |key: &str| texts.get(key).map(String::as_str);
            let keys = Keys::of_config_map(text(PEM_KEY), text(SPIFFE_KEY))
                .map_err(|why| format!("ConfigMap {namespace}/{BUNDLE}: {why}"))?;
            maps.push(BundleMap { namespace: namespace.to_owned(), x509: keys.x509.into_keys().collect() });
        }
    }
    Ok(maps)
}

async fn releases(cx: &StepContext) -> Result<Vec<helm::Release>, Failure> {
    let lab = &cx.session.lab;
    let mut wanted = vec![(&lab.spire.release, &lab.spire.release_namespace)];
    wanted.extend(lab.monitoring.iter().map(|monitoring| (&monitoring.release, &monitoring.namespace)));
    let found = join_all(wanted.into_iter().map(|(name, namespace)| release::current(cx, name, namespace))).await;
    found.into_iter().filter_map(Result::transpose).collect()
}

async fn release_values(cx: &StepContext) -> Known<Option<ReleaseValues>> {
    let spire = &cx.session.lab.spire;
    let current = release::current(cx, &spire.release, &spire.release_namespace)
        .await
        .map_err(|failure| failure.in_one_line())?;
    let Some(current) = current else { return Ok(None) };
    let output = cx.run(&reach::helm(cx).get_values(&spire.release, &spire.release_namespace)).await;
    let deployed =
        output.and_then(|output| helm::parse_values(&output)).map_err(|error| Failure::from(error).in_one_line())?;
    let mut passwords = Vec::new();
    plain_passwords(&deployed, "", &mut passwords);
    let chart = current.chart.strip_prefix("spire-").and_then(|text| text.parse::<Version>().ok());
    let unread = chart.map(|chart| {
        let archive = cx.session.paths.downloads().join(helm::archive_name("spire", &chart));
        let local = match &spire.chart {
            crate::config::ChartRef::Path(path) if !archive.exists() => path.clone(),
            _ => archive,
        };
        let files = chart_texts(&local).map_err(|failure| failure.in_one_line())?;
        let known = KnownKeys::read(files.iter().map(|(path, text)| (path.as_str(), text.as_str())))
            .map_err(|failure| failure.in_one_line())?;
        let line = Line::from(&chart);
        // What coastal itself writes for every chart of a line is no surprise, even where this one does not ask for it.
        let lab = &cx.session.lab;
        let ours = values::spire_values(lab, &chart, &Images::of(lab), Phase::Settled).unwrap_or_default();
        let ours: Vec<String> = known.unknown(&ours, line).into_iter().map(|key| key.path).collect();
        let mut unread = known.unknown(&deployed, line);
        unread.retain(|key| !ours.contains(&key.path));
        Ok(unread)
    });
    Ok(Some(ReleaseValues { unread, passwords }))
}

/// Where a password stands in plain text. The password itself goes nowhere.
fn plain_passwords(values: &Value, path: &str, found: &mut Vec<String>) {
    let Value::Object(table) = values else { return };
    for (key, value) in table {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let named = key.to_lowercase().ends_with("password");
        if named && value.as_str().is_some_and(|text| !text.is_empty()) {
            found.push(path);
        } else {
            plain_passwords(value, &path, found);
        }
    }
}

#[cfg(test)]
mod tests {

    use serde_json::json;

    use super::*;

    #[test]
    fn passwords_are_found_and_not_shown() {
        let values = json!({
            "spire-server": {"dataStore": {"sql": {"password": "hunter2", "externalSecret": {"key": "password"}}}},
            "grafana": {"adminPassword": "", "other": {"rootPassword": "x"}},
        });
        let mut found = Vec::new();
        plain_passwords(&values, "", &mut found);
        assert_eq!(found, ["spire-server.dataStore.sql.password", "grafana.other.rootPassword"]);
    }
}
