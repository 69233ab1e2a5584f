//! The pirate ship: a workload that nobody expects, and that SPIRE gives an identity all the same.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::ResourceExt;
use kube::api::ListParams;

use crate::config::{Lab, MaliciousSpec};
use crate::engine::{Body, StepContext};
use crate::error::Failure;
use crate::kube::{Cluster, Rollout, api_failure, by_kubectl, describe_pod};
use crate::plan::Finding;
use crate::spire::names;
use crate::steps::addons::{found_by, gone};
use crate::steps::{manifests, reach, registrations};

const NAMESPACE: &str = MaliciousSpec::NAMESPACE;
const NAME: &str = MaliciousSpec::NAME;

/// [`crate::plan::StepId::Malicious`].
pub struct Up;

#[async_trait]
impl Body for Up {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        let cluster = reach::cluster(cx).await?;
        let found = found_by(cluster.difference(&manifests::malicious(&cx.session.lab)?).await?, String::new);
        if !found.is_satisfied() {
            return Ok(found);
        }
        if let Err(missing) = cluster.rollout_state(Rollout::Deployment, NAMESPACE, NAME).await? {
            return Ok(Finding::Differs(missing));
        }
        Ok(registered(cx, &cluster).await?.map_or_else(Finding::Differs, Finding::Satisfied))
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        let cluster = reach::cluster(cx).await?;
        if let Some(namespace) = namespace(&cluster).await? {
            if namespace.labels().get(Lab::LABEL) != Some(&cx.session.lab.name) {
                return Err(Failure::refused(format!("namespace {NAMESPACE} is there and is not this lab's"))
                    .fact(format!("it does not carry {}={}", Lab::LABEL, cx.session.lab.name))
                    .next(by_kubectl(&format!("describe namespace {NAMESPACE}"))));
            }
            if namespace.metadata.deletion_timestamp.is_some() {
                let what = format!("namespace {NAMESPACE}");
                cluster.delete_named::<Namespace>(cluster.all(), NAMESPACE, &what, &cx.patience()).await?;
            }
        }
        cluster.apply(&manifests::malicious(&cx.session.lab)?, &cx.patience()).await
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        let cluster = reach::cluster(cx).await?;
        cluster.rolled_out(Rollout::Deployment, NAMESPACE, NAME, &cx.patience()).await.map_err(|failure| {
            failure.next("`image` of [malicious] in lab.toml may be any image that the nodes have, or can pull")
        })?;
        loop {
            match registered(cx, &cluster).await? {
                Ok(proof) => return Ok(proof),
                Err(missing) if cx.remaining() < Duration::from_secs(2) => {
                    return Err(Failure::timeout(format!("the pirate ship sails, and has no identity: {missing}"))
                        .fact("a ClusterSPIFFEID that selects its pod would give it one")
                        .next(by_kubectl("get clusterspiffeids -o yaml")));
                }
                Err(missing) => cx.progress(missing),
            }
            cx.sleep(Duration::from_millis(500)).await?;
        }
    }
}

/// [`crate::plan::StepId::RemoveMalicious`].
pub struct Down;

#[async_trait]
impl Body for Down {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        let Some(cluster) = reach::cluster_if_any(cx).await? else {
            return Ok(Finding::Satisfied("there is no cluster".into()));
        };
        let left = cluster.those_of(&manifests::malicious(&cx.session.lab)?, &cx.session.lab).await?;
        Ok(match left.first() {
            None => Finding::Satisfied("nothing of it is there".into()),
            Some(first) => Finding::Differs(format!("{first} is there")),
        })
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        let cluster = reach::cluster(cx).await?;
        // The namespace takes everything with it, so nothing of anybody else's may be in it.
        let foreign: Vec<String> = pods(&cluster)
            .await?
            .iter()
            .filter(|pod| pod.labels().get(Lab::LABEL) != Some(&cx.session.lab.name))
            .map(describe_pod)
            .collect();
        if !foreign.is_empty() {
            let holds = format!("namespace {NAMESPACE} holds {} pods that are not this lab's", foreign.len());
            return Err(Failure::refused(holds)
                .facts(foreign)
                .next("remove them, or move them elsewhere, then run this again"));
        }
        cluster.delete(&manifests::malicious(&cx.session.lab)?, &cx.session.lab, &cx.patience()).await
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        gone(self.check(cx).await?)
    }
}

async fn namespace(cluster: &Cluster) -> Result<Option<Namespace>, Failure> {
    let found = cluster.all::<Namespace>().get_opt(NAMESPACE).await;
    found.map_err(|error| api_failure(&format!("could not read namespace {NAMESPACE}"), &error))
}

async fn pods(cluster: &Cluster) -> Result<Vec<Pod>, Failure> {
    let list = cluster.namespaced::<Pod>(NAMESPACE).list(&ListParams::default()).await;
    Ok(list.map_err(|error| api_failure(&format!("could not list the pods of {NAMESPACE}"), &error))?.items)
}

/// Whether each of its pods has a registration entry; `Ok(Err(..))` says which has none.
async fn registered(cx: &StepContext, cluster: &Cluster) -> Result<Result<String, String>, Failure> {
    let id = names::workload_id(&cx.session.lab.spire.trust_domain, NAMESPACE, NAME);
    let pods: Vec<Pod> =
        pods(cluster).await?.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect();
    let entries = registrations::of_id(cx, &id).await?;
    let registered: BTreeSet<&str> = entries.iter().flat_map(crate::spire::entries::Entry::pod_uid).collect();
    let without = pods.iter().find(|pod| !pod.uid().is_some_and(|uid| registered.contains(uid.as_str())));
    Ok(match without {
        Some(pod) => Err(format!("{} has no registration entry yet", describe_pod(pod))),
        None if pods.is_empty() => Err("it has no pod".to_owned()),
        None => Ok(format!("SPIRE gives it {id}")),
    })
}
