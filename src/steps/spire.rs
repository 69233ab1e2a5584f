//! SPIRE: its release, its servers, its agents, Tornjak; the chart's tests; and the way back.

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::try_join_all;
use futures::stream::{self, StreamExt};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, Preconditions};
use semver::Version;

use crate::config::SpireSpec;
use crate::engine::{Body, StepContext};
use crate::error::{Failure, Kind};
use crate::kube::{Cluster, Judgement, Rollout, api_failure, by_kubectl, describe_pod, doom_of, is_ready};
use crate::plan::Finding;
use crate::spire::cli::Bundle;
use crate::spire::names;
use crate::spire::values::{Images, Phase};
use crate::steps::addons::gone;
use crate::steps::identity::server_json_of;
use crate::steps::live::{Live, pods};
use crate::steps::release::{self, Wanted};
use crate::steps::{reach, rekey, unfinished, values};

fn wanted(cx: &StepContext) -> Result<Wanted<'_>, Failure> {
    let lab = &cx.session.lab;
    let spire = &lab.spire;
    let chart = values::spire_chart_version(lab)?;
    Ok(Wanted {
        name: &spire.release,
        namespace: &spire.release_namespace,
        chart: &spire.chart,
        values: values::spire_values(lab, &chart, &Images::of(lab), Phase::Settled)?,
        watch: vec![&spire.server_namespace, &spire.system_namespace],
    })
}

/// [`crate::plan::StepId::Spire`].
pub struct Install;

#[async_trait]
impl Body for Install {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        let found = wanted(cx)?.check(cx).await?;
        if matches!(found, Finding::Differs(_)) {
            refuse_version_change(cx).await?;
        }
        if !found.is_satisfied() {
            unfinished::refuse(cx).await?;
        }
        Ok(found)
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        wanted(cx)?.install(cx).await
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        match wanted(cx)?.check(cx).await? {
            Finding::Satisfied(proof) => Ok(proof),
            other => {
                let spire = &cx.session.lab.spire;
                Err(Failure::tool(format!("helm said that it was done, and yet {}", other.detail())).next(format!(
                    "`helm -n {} history {}` shows more (`eval \"$(coastal env)\"` points helm at the lab)",
                    spire.release_namespace, spire.release
                )))
            }
        }
    }
}

/// `up` never moves a running SPIRE version: that needs the order, the gates and the backup of `upgrade`.
async fn refuse_version_change(cx: &StepContext) -> Result<(), Failure> {
    let spire = &cx.session.lab.spire;
    let running = Live::look(cx).await?;
    let other = |found: &[Version], wanted: &Version| found.iter().find(|version| *version != wanted).cloned();
    for (what, found, wanted) in [
        ("servers", running.server_versions(), &spire.server_version),
        ("agents", running.agent_versions(), &spire.agent_version),
    ] {
        if let Some(version) = other(&found, wanted) {
            return Err(Failure::refused(format!(
                "SPIRE {what} run {version}, lab.toml says {wanted}: `up` does not move a running version"
            ))
            .fact("servers and agents must be moved one after the other, one minor version at a time")
            .next(format!("`coastal upgrade --to {wanted}` moves it along legal hops, up or down"))
            .next(format!("or set the version in [spire] of lab.toml to what runs: {version}")));
        }
    }
    Ok(())
}

/// [`crate::plan::StepId::SpireServers`].
pub struct Servers;

/// Asks every server for its bundle: that is SPIRE's own health check, whose answer `healthcheck` may give a minute late
/// (`CheckHealth` in pkg/server/server.go; pkg/common/health).
///
/// # Errors
/// The first that is not healthy.
pub async fn healthy(cx: &StepContext) -> Result<String, Failure> {
    let spire = &cx.session.lab.spire;
    try_join_all(names::server_pods(spire).into_iter().map(|pod| async move {
        server_json_of::<Bundle>(cx, &pod, &["bundle", "show"]).await.map_err(|failure| {
            failure.context(format!("{pod} is not healthy")).first("`coastal logs server` shows what the servers say")
        })
    }))
    .await?;
    Ok(format!("{} of {} servers healthy", spire.servers, spire.servers))
}

/// Starts a server's pod anew, and waits until its successor serves. Its keys stay on its claim.
///
/// # Errors
/// It does not come back.
pub async fn restart_server(cx: &StepContext, cluster: &Cluster, pod: &str) -> Result<(), Failure> {
    let api = cluster.namespaced::<Pod>(&cx.session.lab.spire.server_namespace);
    let found = api.get_opt(pod).await.map_err(|error| api_failure(&format!("could not read pod {pod}"), &error))?;
    let before = found.and_then(|found| found.uid());
    let exactly = Preconditions { uid: before.clone(), resource_version: None };
    let params = DeleteParams { preconditions: Some(exactly), ..DeleteParams::default() };
    match api.delete(pod, &params).await {
        Ok(_) => {}
        // Somebody was faster.
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {}
        Err(error) => return Err(api_failure(&format!("could not restart {pod}"), &error)),
    }
    let patience = cx.patience();
    let back = cluster.wait_one(api, pod, &patience, |found: Option<&Pod>| match found {
        Some(found) if found.uid() == before => Judgement::Waiting(format!("{pod} is ending")),
        Some(found) if is_ready(found) => Judgement::Good(()),
        Some(found) => match doom_of(found) {
            Some(doom) => Judgement::Hopeless(doom.failure(None)),
            None => Judgement::Waiting(describe_pod(found)),
        },
        None => Judgement::Waiting(format!("{pod} is to be made anew")),
    });
    back.await.map_err(|failure| failure.context(format!("{pod} does not come back")))?;
    healthy(cx).await.map(drop)
}

#[async_trait]
impl Body for Servers {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        let spire = &cx.session.lab.spire;
        let cluster = reach::cluster(cx).await?;
        let state = cluster.rollout_state(Rollout::StatefulSet, &spire.server_namespace, &names::server(spire)).await?;
        let found = match state {
            Err(missing) => Finding::Missing(missing),
            Ok(_) => match healthy(cx).await {
                Ok(proof) => Finding::Satisfied(proof),
                Err(failure) => Finding::Differs(failure.message),
            },
        };
        if !found.is_satisfied() {
            // They may be down on purpose, and waited for in vain.
            unfinished::refuse(cx).await?;
        }
        Ok(found)
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        let spire = &cx.session.lab.spire;
        let cluster = reach::cluster(cx).await?;
        cluster
            .rolled_out(Rollout::StatefulSet, &spire.server_namespace, &names::server(spire), &cx.patience())
            .await
            .map_err(|failure| match failure.kind {
                Kind::Interrupted => failure,
                _ => failure
                    .context("the SPIRE servers do not come up")
                    .next("`coastal logs server` shows what the servers say"),
            })?;
        healthy(cx).await
    }
}

/// [`crate::plan::StepId::SpireAgents`].
pub struct Agents;

impl Agents {
    /// Asks each agent whether it serves the Workload API; how many of how many do.
    async fn ask(cx: &StepContext, cluster: &Cluster) -> Result<(usize, usize, String), Failure> {
        let spire = &cx.session.lab.spire;
        let name = names::agent(spire);
        let daemon_set: Option<DaemonSet> = cluster.get(&spire.system_namespace, &name).await?;
        let desired = daemon_set.and_then(|set| set.status).map_or(0, |status| status.desired_number_scheduled);
        let pods = pods(cluster, &spire.system_namespace, names::AGENT_SELECTOR).await?;
        let asked = pods.iter().map(|pod| {
            let (pod, socket) = (pod.name_any(), socket_of(pod));
            async move {
                let argv = ["/opt/spire/bin/spire-agent", "healthcheck", "-socketPath", socket];
                reach::exec(cx, &spire.system_namespace, &pod, names::AGENT_CONTAINER, &argv).await
            }
        });
        let answers: Vec<_> = stream::iter(asked.collect::<Vec<_>>()).buffered(reach::AT_ONCE).collect().await;
        let serving = answers.iter().filter(|answer| answer.is_ok()).count();
        let trouble = pods
            .iter()
            .zip(&answers)
            .find(|(_, answer)| answer.is_err())
            .map_or_else(|| format!("{name}: not on every node yet"), |(pod, _)| describe_pod(pod));
        // At least one: a DaemonSet that its controller has not seen yet wants none.
        Ok((serving, usize::try_from(desired).unwrap_or(0).max(pods.len()).max(1), trouble))
    }
}

/// Where the agent of that pod has its socket. By what is mounted, for while a chart moves pods of two charts run.
pub(super) fn socket_of(pod: &Pod) -> &'static str {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let mounts = containers
        .filter(|container| container.name == names::AGENT_CONTAINER)
        .flat_map(|c| c.volume_mounts.iter().flatten());
    let is_mounted =
        |socket: &str| mounts.clone().any(|mount| Path::new(socket).parent() == Some(Path::new(&mount.mount_path)));
    if is_mounted(names::AGENT_SOCKET_SINCE_0_17_2) { names::AGENT_SOCKET_SINCE_0_17_2 } else { names::AGENT_SOCKET }
}

#[async_trait]
impl Body for Agents {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        let cluster = reach::cluster(cx).await?;
        let (serving, wanted, trouble) = Agents::ask(cx, &cluster).await?;
        Ok(if serving == wanted {
            Finding::Satisfied(format!("{serving} of {wanted} agents serve the Workload API"))
        } else {
            Finding::Missing(trouble)
        })
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        serving(cx, &reach::cluster(cx).await?).await
    }
}

/// Whether every agent serves the Workload API now.
///
/// # Errors
/// The agents cannot be listed.
pub async fn agents_serve(cx: &StepContext) -> Result<bool, Failure> {
    let (serving, wanted, _) = Agents::ask(cx, &reach::cluster(cx).await?).await?;
    Ok(serving == wanted)
}

/// Waits until every agent serves the Workload API.
///
/// # Errors
/// An agent cannot start, or it takes too long.
pub async fn serving(cx: &StepContext, cluster: &Cluster) -> Result<String, Failure> {
    let spire = &cx.session.lab.spire;
    // The servers too: agents wait for them, and what keeps those down keeps these down.
    let places = [
        (spire.server_namespace.as_str(), names::SERVER_SELECTOR),
        (spire.system_namespace.as_str(), names::AGENT_SELECTOR),
    ];
    let waiting = async {
        loop {
            let (serving, wanted, trouble) = Agents::ask(cx, cluster).await?;
            if serving == wanted {
                return Ok(format!("{serving} of {wanted} agents serve the Workload API"));
            }
            cx.progress(trouble.clone());
            if cx.remaining() < Duration::from_secs(2) {
                return Err(Failure::timeout(format!(
                    "{serving} of {wanted} agents serve the Workload API; {trouble}"
                )));
            }
            cx.sleep(Duration::from_millis(700)).await?;
        }
    };
    let patience = cx.patience();
    let result = tokio::select! {
        result = waiting => result,
        doom = cluster.until_doomed(&places, &patience) => Err(doom),
    };
    match result {
        Err(failure) if failure.kind != Kind::Interrupted => Err(explain_agents(cx, cluster, failure).await),
        other => other,
    }
}

/// Adds what the agents' pods say; before that, if no server is up, that they wait for one, and what those say.
pub async fn explain_agents(cx: &StepContext, cluster: &Cluster, mut failure: Failure) -> Failure {
    let spire = &cx.session.lab.spire;
    let servers = pods(cluster, &spire.server_namespace, names::SERVER_SELECTOR).await.unwrap_or_default();
    let next = if servers.iter().any(is_ready) {
        failure = failure.context("the SPIRE agents do not come up");
        "`coastal logs agent` shows what the agents say"
    } else {
        failure = failure.context("the agents wait for a SPIRE server, and none comes up");
        failure = cluster.explain(failure, &spire.server_namespace, names::SERVER_SELECTOR).await;
        "`coastal logs server` shows what the servers say"
    };
    cluster.explain(failure, &spire.system_namespace, names::AGENT_SELECTOR).await.next(next)
}

/// [`crate::plan::StepId::Tornjak`].
pub struct Tornjak;

#[async_trait]
impl Body for Tornjak {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        let spire = &cx.session.lab.spire;
        let cluster = reach::cluster(cx).await?;
        let name = names::tornjak_frontend(spire);
        let state = cluster.rollout_state(Rollout::Deployment, &spire.server_namespace, &name).await?;
        Ok(state.map_or_else(Finding::Missing, Finding::Satisfied))
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        let spire = &cx.session.lab.spire;
        let name = names::tornjak_frontend(spire);
        reach::cluster(cx).await?.rolled_out(Rollout::Deployment, &spire.server_namespace, &name, &cx.patience()).await
    }
}

/// [`crate::plan::StepId::RemoveSpire`].
pub struct Uninstall;

#[async_trait]
impl Body for Uninstall {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        let Some(cluster) = reach::cluster_if_any(cx).await? else {
            return Ok(Finding::Satisfied("there is no cluster".into()));
        };
        let spire = &cx.session.lab.spire;
        if let Some(release) = release::current(cx, &spire.release, &spire.release_namespace).await? {
            return Ok(Finding::Differs(format!("release {} is {}", spire.release, release.status)));
        }
        let claims = claims(&cluster, spire).await?;
        Ok(match claims.first() {
            None => Finding::Satisfied(format!("there is no release {}", spire.release)),
            Some(first) => Finding::Differs(format!("the servers' claims are there, {first} among them")),
        })
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        let spire = &cx.session.lab.spire;
        let cluster = reach::cluster(cx).await?;
        let mounting = mounting_csi(&cluster, spire).await?;
        if !mounting.is_empty() {
            let mut failure = Failure::refused(format!(
                "{} pods still mount SPIRE's CSI driver; without it they could never be unmounted and would stay Terminating",
                mounting.len()
            ));
            failure = failure.facts(mounting.iter().map(describe_pod));
            return Err(
                failure.next("remove them first (the lab's own: `coastal delete-workload`, `coastal delete-malicious`), then run this again")
            );
        }
        release::uninstall(cx, &spire.release, &spire.release_namespace).await?;
        let patience = cx.patience();
        let selector = format!("app.kubernetes.io/instance={}", spire.release);
        for namespace in [&spire.server_namespace, &spire.system_namespace] {
            // Pods of finished chart tests are nobody's: helm leaves them.
            for pod in pods(&cluster, namespace, &selector).await? {
                if pod.labels().get("app.kubernetes.io/component").is_some_and(|component| component == "test")
                    || pod.name_any().ends_with("-test-connection")
                {
                    let what = format!("pod {namespace}/{}", pod.name_any());
                    cluster
                        .delete_named::<Pod>(cluster.namespaced(namespace), &pod.name_any(), &what, &patience)
                        .await?;
                }
            }
            cluster.pods_gone(namespace, &selector, &patience).await?;
        }
        for claim in claims(&cluster, spire).await? {
            let api = cluster.namespaced::<PersistentVolumeClaim>(&spire.server_namespace);
            cluster.delete_named(api, &claim, &format!("claim {}/{claim}", spire.server_namespace), &patience).await?;
        }
        // With the claims the keys are gone that were to be replaced.
        rekey::marker::write(cx, &cluster, None).await
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        gone(self.check(cx).await?)
    }
}

async fn claims(cluster: &Cluster, spire: &SpireSpec) -> Result<Vec<String>, Failure> {
    let prefix = format!("spire-data-{}-", names::server(spire));
    let list = cluster.namespaced::<PersistentVolumeClaim>(&spire.server_namespace).list(&ListParams::default()).await;
    let list = list.map_err(|error| api_failure("could not list the servers' claims", &error))?;
    Ok(list.items.iter().map(ResourceExt::name_any).filter(|name| name.starts_with(&prefix)).collect())
}

/// Pods, of whomever, whose volumes only the CSI driver can unmount.
pub(super) async fn mounting_csi(cluster: &Cluster, spire: &SpireSpec) -> Result<Vec<Pod>, Failure> {
    let list = cluster.all::<Pod>().list(&ListParams::default()).await;
    let list = list.map_err(|error| api_failure("could not list pods", &error))?;
    let mounts = |pod: &Pod| {
        let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.clone()).unwrap_or_default();
        volumes.iter().any(|volume| volume.csi.as_ref().is_some_and(|csi| csi.driver == names::CSI_DRIVER))
    };
    let of_release = |pod: &Pod| pod.labels().get("app.kubernetes.io/instance") == Some(&spire.release);
    Ok(list.items.into_iter().filter(|pod| mounts(pod) && !of_release(pod)).collect())
}

/// [`crate::plan::StepId::ChartTests`].
pub struct ChartTests;

#[async_trait]
impl Body for ChartTests {
    async fn check(&self, _cx: &StepContext) -> Result<Finding, Failure> {
        Ok(Finding::Missing("tests run each time".into()))
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        let spire = &cx.session.lab.spire;
        let cluster = reach::cluster(cx).await?;
        let limit = cx.remaining();
        let command = reach::helm(cx).test(&spire.release, &spire.release_namespace, limit);
        let places = [(spire.server_namespace.as_str(), "")];
        match release::watched(cx, &cluster, &places, &command).await {
            Ok(()) => Ok(()),
            Err(failure) if failure.kind == Kind::Interrupted => Err(failure),
            Err(failure) => {
                let failure = Failure { kind: Kind::CheckFailed, ..failure }.context("the chart's tests do not pass");
                Err(self.what_they_said(&cluster, &spire.server_namespace, failure).await)
            }
        }
    }

    async fn verify(&self, _cx: &StepContext) -> Result<String, Failure> {
        Ok("all of the chart's tests passed".into())
    }
}

impl ChartTests {
    async fn what_they_said(&self, cluster: &Cluster, namespace: &str, failure: Failure) -> Failure {
        let Ok(list) = cluster.namespaced::<Pod>(namespace).list(&ListParams::default()).await else { return failure };
        let tests = list
            .items
            .iter()
            .filter(|pod| pod.annotations().get("helm.sh/hook").is_some_and(|hook| hook.contains("test")));
        let tests: Vec<&Pod> = tests.collect();
        let failure = match tests.first() {
            Some(test) => failure.next(by_kubectl(&format!("-n {namespace} describe pod {}", test.name_any()))),
            None => failure,
        };
        failure.facts(tests.into_iter().map(describe_pod))
    }
}
