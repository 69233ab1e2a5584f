//! The workload: pods that hold SVIDs and show them.

use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use kube::api::{ListParams, LogParams};
use kube::core::DynamicObject;

use crate::engine::{Body, StepContext};
use crate::error::{Failure, Kind};
use crate::kube::{Cluster, api_failure, describe_pod};
use crate::plan::Finding;
use crate::spire::names;
use crate::steps::addons::{found_by, gone};
use crate::steps::images::{self, Program};
use crate::steps::{capacity, manifests, probe, reach};
use crate::workload::record::{Update, updates_in};

/// [`crate::plan::StepId::Workload`].
pub struct Up;

#[async_trait]
impl Body for Up {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        let cluster = reach::cluster(cx).await?;
        let found = found_by(cluster.difference(&objects(cx)?).await?, String::new);
        if !found.is_satisfied() {
            return Ok(found);
        }
        let holders = holders(cx, &cluster).await?;
        Ok(match judge(&holders, cx) {
            Ok(proof) => Finding::Satisfied(proof),
            Err(missing) => Finding::Differs(missing),
        })
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        let cluster = reach::cluster(cx).await?;
        let nodes = cluster.all::<Node>().list(&ListParams::default()).await;
        let pods = cluster.all::<Pod>().list(&ListParams::default()).await;
        let unread = |error: kube::Error| api_failure("could not add up what the nodes have room for", &error);
        capacity::fits(&cx.session.lab.workload, &nodes.map_err(unread)?.items, &pods.map_err(unread)?.items)?;
        cluster.apply(&objects(cx)?, &cx.patience()).await
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        let cluster = reach::cluster(cx).await?;
        let workload = &cx.session.lab.workload;
        let selector = selector(cx);
        let waiting = async {
            loop {
                let holders = holders(cx, &cluster).await?;
                match judge(&holders, cx) {
                    Ok(proof) => return Ok(proof),
                    Err(missing) if cx.remaining() < Duration::from_secs(2) => return Err(Failure::timeout(missing)),
                    Err(missing) => cx.progress(missing),
                }
                cx.sleep(Duration::from_millis(500)).await?;
            }
        };
        let patience = cx.patience();
        let places = [(workload.namespace.as_str(), selector.as_str())];
        let result = tokio::select! {
            result = waiting => result,
            doom = cluster.until_doomed(&places, &patience) => Err(doom),
        };
        match result {
            Err(failure) if failure.kind != Kind::Interrupted => {
                let failure = cluster.explain(failure, &workload.namespace, &selector).await;
                Err(failure.next("`coastal logs workload` shows what the pods say; `coastal status` what SPIRE does"))
            }
            other => other,
        }
    }
}

/// [`crate::plan::StepId::RemoveWorkload`].
pub struct Down;

#[async_trait]
impl Body for Down {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        let Some(cluster) = reach::cluster_if_any(cx).await? else {
            return Ok(Finding::Satisfied("there is no cluster".into()));
        };
        let left = cluster.those_of(&manifests::workload(&cx.session.lab)?, &cx.session.lab).await?;
        if let Some(first) = left.first() {
            return Ok(Finding::Differs(format!("{first} is there")));
        }
        let pods = pods(cx, &cluster).await?;
        Ok(match pods.first().or(probe::leftovers(cx, &cluster).await?.first()) {
            None => Finding::Satisfied("nothing of it is there".into()),
            Some(pod) => Finding::Differs(describe_pod(pod)),
        })
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        let cluster = reach::cluster(cx).await?;
        // A probe uses the workload's service account.
        probe::clear(cx, &cluster).await?;
        cluster.delete(&manifests::workload(&cx.session.lab)?, &cx.session.lab, &cx.patience()).await?;
        cluster.pods_gone(&cx.session.lab.workload.namespace, &selector(cx), &cx.patience()).await
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        gone(self.check(cx).await?)
    }
}

/// A workload pod and the last SVID that it logged.
pub struct Holder {
    /// The pod.
    pub pod: Pod,
    /// Its newest update, if it logged any.
    pub update: Option<Update>,
}

/// All workload pods that are not going away, with their SVIDs.
///
/// # Errors
/// The pods cannot be listed.
pub async fn holders(cx: &StepContext, cluster: &Cluster) -> Result<Vec<Holder>, Failure> {
    let namespace = &cx.session.lab.workload.namespace;
    let api = cluster.namespaced::<Pod>(namespace);
    let pods = pods(cx, cluster).await?.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
    // An update with its PEM chain is some 40 lines; four of them are more than enough for the newest.
    let params = LogParams { tail_lines: Some(200), ..LogParams::default() };
    Ok(join_all(pods.map(|pod| async {
        // A container that has not started has no log: that is "no SVID yet", not an error.
        let text = api.logs(&pod.name_any(), &params).await.unwrap_or_default();
        let update = updates_in(&text).pop();
        Holder { pod, update }
    }))
    .await)
}

/// Whether every pod the lab wants holds a valid SVID of the right name: the proof.
///
/// # Errors
/// What is missing, in words.
pub fn judge(holders: &[Holder], cx: &StepContext) -> Result<String, String> {
    let lab = &cx.session.lab;
    let expected = names::workload_id(&lab.spire.trust_domain, &lab.workload.namespace, &lab.workload.name);
    let now = cx.session.world.clock.now();
    let wanted = lab.workload.replicas as usize;
    let good =
        holders.iter().filter(|holder| holder.update.as_ref().is_some_and(|u| is_good(u, &expected, now))).count();
    if good == wanted && holders.len() == wanted {
        return Ok(format!("{good} pods hold SVIDs of {expected}"));
    }
    let lacking = holders.iter().find(|holder| !holder.update.as_ref().is_some_and(|u| is_good(u, &expected, now)));
    let state = match lacking {
        None => format!("{} of {wanted} pods exist", holders.len()),
        Some(Holder { pod, update: None }) => format!("{}, no SVID yet", describe_pod(pod)),
        Some(Holder { pod, update: Some(update) }) if update.spiffe_id != expected => {
            format!("{} holds {}", pod.name_any(), update.spiffe_id)
        }
        Some(Holder { pod, update: Some(update) }) => {
            format!("the SVID of {} expired at {}", pod.name_any(), update.not_after)
        }
    };
    Err(format!("{good} of {wanted} pods hold an SVID; {state}"))
}

fn is_good(update: &Update, expected: &str, now: Timestamp) -> bool {
    update.spiffe_id == expected && update.is_valid_at(now)
}

/// Selects the workload's pods in its namespace.
pub(super) fn selector(cx: &StepContext) -> String {
    format!("app={}", cx.session.lab.workload.name)
}

/// All of the workload's pods, also those that are going away.
///
/// # Errors
/// They cannot be listed.
pub(super) async fn pods(cx: &StepContext, cluster: &Cluster) -> Result<Vec<Pod>, Failure> {
    let namespace = &cx.session.lab.workload.namespace;
    let list = cluster.namespaced::<Pod>(namespace).list(&ListParams::default().labels(&selector(cx))).await;
    Ok(list.map_err(|error| api_failure("could not list the workload's pods", &error))?.items)
}

/// The manifests, with the program that the pods can run.
fn objects(cx: &StepContext) -> Result<Vec<DynamicObject>, Failure> {
    let lab = &cx.session.lab;
    match images::program()? {
        Program::Coastal => manifests::workload(lab),
        Program::AgentWatch(_) => manifests::watching_workload(lab),
    }
}
