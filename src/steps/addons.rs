//! cert-manager, its issuer, and contour: manifests that are applied, and asked whether they serve.

use std::time::Duration;

use async_trait::async_trait;
use futures::future::try_join_all;
use kube::ResourceExt;
use kube::core::DynamicObject;
use serde_json::Value;

use crate::config::Lab;
use crate::engine::{Body, StepContext};
use crate::error::{Failure, Kind};
use crate::kube::{Cluster, Difference, Judgement, Rollout, by_kubectl, label, look_if_late};
use crate::plan::Finding;
use crate::steps::fetch::{Which, manifest};
use crate::steps::{manifests, reach};

/// [`crate::plan::StepId::CertManager`].
pub struct CertManager;

#[async_trait]
impl Body for CertManager {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        let cluster = reach::cluster(cx).await?;
        let found = check_manifest(cx, &cluster, Which::CertManager).await?;
        if !found.is_satisfied() {
            return Ok(found);
        }
        Ok(match webhook_answers(cx, &cluster).await {
            Ok(()) => Finding::Satisfied("runs, and its webhook answers".into()),
            Err(failure) => Finding::Differs(failure.message),
        })
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        apply_manifest(cx, Which::CertManager).await
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        let cluster = reach::cluster(cx).await?;
        let proof = rolled_out(cx, &cluster, Which::CertManager).await?;
        cx.progress("waiting for the webhook to answer");
        loop {
            match webhook_answers(cx, &cluster).await {
                Ok(()) => return Ok(format!("{proof}; the webhook answers")),
                Err(failure) if cx.remaining() < Duration::from_secs(2) => {
                    return Err(Failure::timeout(format!(
                        "cert-manager's webhook does not answer: {}",
                        failure.message
                    ))
                    .next(by_kubectl("-n cert-manager logs deployment/cert-manager-webhook")));
                }
                Err(failure) => {
                    cx.progress(format!("waiting for the webhook to answer: {}", failure.message));
                    cx.sleep(Duration::from_millis(300)).await?;
                }
            }
        }
    }
}

/// A dry run asks the webhook, which is the only way to know whether the API server reaches it.
async fn webhook_answers(cx: &StepContext, cluster: &Cluster) -> Result<(), Failure> {
    for object in manifests::cluster_issuer(&cx.session.lab)? {
        cluster.apply_one(&object, true).await?;
    }
    Ok(())
}

/// [`crate::plan::StepId::ClusterIssuer`].
pub struct ClusterIssuer;

#[async_trait]
impl Body for ClusterIssuer {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        let cluster = reach::cluster(cx).await?;
        let objects = manifests::cluster_issuer(&cx.session.lab)?;
        Ok(found_by(cluster.difference(&objects).await?, || "the issuer exists".into()))
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        reach::cluster(cx).await?.apply(&manifests::cluster_issuer(&cx.session.lab)?, &cx.patience()).await
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        let cluster = reach::cluster(cx).await?;
        let patience = cx.patience();
        for object in manifests::cluster_issuer(&cx.session.lab)? {
            let name = object.name_any();
            let api = cluster.api_of(&object).await?;
            let ready = cluster.wait_one(api, &name, &patience, |issuer| {
                let ready = issuer
                    .and_then(|issuer| issuer.data.pointer("/status/conditions"))
                    .and_then(Value::as_array)
                    .and_then(|all| all.iter().find(|condition| condition["type"] == "Ready"));
                match ready {
                    Some(condition) if condition["status"] == "True" => Judgement::Good(()),
                    Some(condition) => Judgement::Waiting(format!("ClusterIssuer {name}: {}", condition["message"])),
                    None => Judgement::Waiting(format!("ClusterIssuer {name}: cert-manager has not looked at it yet")),
                }
            });
            look_if_late(ready.await, || format!("describe clusterissuer {name}"))?;
        }
        Ok("the issuer is ready".into())
    }
}

/// [`crate::plan::StepId::Contour`].
pub struct Contour;

#[async_trait]
impl Body for Contour {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        check_manifest(cx, &reach::cluster(cx).await?, Which::Contour).await
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        apply_manifest(cx, Which::Contour).await
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        rolled_out(cx, &reach::cluster(cx).await?, Which::Contour).await
    }
}

/// [`crate::plan::StepId::RemoveContour`].
pub struct RemoveContour;

#[async_trait]
impl Body for RemoveContour {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        leftovers(cx, Which::Contour, Vec::new()).await
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        remove(cx, objects(cx, Which::Contour)?).await
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        gone(self.check(cx).await?)
    }
}

/// [`crate::plan::StepId::RemoveCertManager`].
pub struct RemoveCertManager;

#[async_trait]
impl Body for RemoveCertManager {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        leftovers(cx, Which::CertManager, manifests::cluster_issuer(&cx.session.lab)?).await
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        // The issuer first: once its CRD and webhook are going, it could not be deleted.
        remove(cx, manifests::cluster_issuer(&cx.session.lab)?).await?;
        remove(cx, objects(cx, Which::CertManager)?).await
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        gone(self.check(cx).await?)
    }
}

/// The manifest as the lab applies it: labelled, and with the lab's pull policy.
fn objects(cx: &StepContext, which: Which) -> Result<Vec<DynamicObject>, Failure> {
    let lab = &cx.session.lab;
    let mut objects = manifest(cx, which)?;
    for object in &mut objects {
        label(object, lab);
        set_pull_policy(&mut object.data, lab);
    }
    Ok(objects)
}

fn set_pull_policy(data: &mut Value, lab: &Lab) {
    for path in ["/spec/template/spec/initContainers", "/spec/template/spec/containers"] {
        let Some(containers) = data.pointer_mut(path).and_then(Value::as_array_mut) else { continue };
        for container in containers.iter_mut().filter_map(Value::as_object_mut) {
            container.insert("imagePullPolicy".into(), lab.images.pull.as_kubernetes().into());
        }
    }
}

fn kind_of(object: &DynamicObject) -> &str {
    object.types.as_ref().map_or("", |types| types.kind.as_str())
}

/// What has pods that stay.
fn rollouts(objects: &[DynamicObject]) -> Vec<(Rollout, String, String)> {
    objects
        .iter()
        .filter_map(|object| {
            let what = match kind_of(object) {
                "Deployment" => Rollout::Deployment,
                "StatefulSet" => Rollout::StatefulSet,
                "DaemonSet" => Rollout::DaemonSet,
                _ => return None,
            };
            Some((what, object.namespace().unwrap_or_else(|| "default".into()), object.name_any()))
        })
        .collect()
}

async fn check_manifest(cx: &StepContext, cluster: &Cluster, which: Which) -> Result<Finding, Failure> {
    // Jobs have run: contour's deletes itself afterwards, which is no reason to run it again.
    let lasting: Vec<_> = objects(cx, which)?.into_iter().filter(|object| kind_of(object) != "Job").collect();
    let found = found_by(cluster.difference(&lasting).await?, || format!("{} objects are as wanted", lasting.len()));
    if !found.is_satisfied() {
        return Ok(found);
    }
    for (what, namespace, name) in rollouts(&lasting) {
        if let Err(missing) = cluster.rollout_state(what, &namespace, &name).await? {
            return Ok(Finding::Differs(missing));
        }
    }
    Ok(found)
}

async fn apply_manifest(cx: &StepContext, which: Which) -> Result<(), Failure> {
    let objects = objects(cx, which)?;
    cx.progress(format!("applying {} objects", objects.len()));
    reach::cluster(cx).await?.apply(&objects, &cx.patience()).await
}

async fn rolled_out(cx: &StepContext, cluster: &Cluster, which: Which) -> Result<String, Failure> {
    let objects = objects(cx, which)?;
    let rollouts = rollouts(&objects);
    let patience = cx.patience();
    let waiting = try_join_all(
        rollouts.iter().map(|(what, namespace, name)| cluster.rolled_out(*what, namespace, name, &patience)),
    );
    // What rolls out may wait for what a job makes (contour's certificates), without a word about it.
    let jobs: Vec<(String, String)> = objects
        .iter()
        .filter(|object| kind_of(object) == "Job")
        .map(|job| (job.namespace().unwrap_or_else(|| "default".into()), format!("job-name={}", job.name_any())))
        .collect();
    let places: Vec<_> = jobs.iter().map(|(namespace, selector)| (namespace.as_str(), selector.as_str())).collect();
    let mut failure = tokio::select! {
        proofs = waiting => return Ok(proofs?.join(", ")),
        doom = cluster.until_doomed(&places, &patience) => doom,
    };
    if failure.kind != Kind::Interrupted {
        for (namespace, selector) in places {
            failure = cluster.explain(failure, namespace, selector).await;
        }
    }
    Err(failure)
}

async fn remove(cx: &StepContext, objects: Vec<DynamicObject>) -> Result<(), Failure> {
    let cluster = reach::cluster(cx).await?;
    cluster.delete(&objects, &cx.session.lab, &cx.patience()).await
}

async fn leftovers(cx: &StepContext, which: Which, more: Vec<DynamicObject>) -> Result<Finding, Failure> {
    let Some(cluster) = reach::cluster_if_any(cx).await? else {
        return Ok(Finding::Satisfied("there is no cluster".into()));
    };
    let mut all = more;
    all.extend(objects(cx, which)?);
    let left = cluster.those_of(&all, &cx.session.lab).await?;
    Ok(match left.first() {
        None => Finding::Satisfied("nothing of it is there".into()),
        Some(first) => Finding::Differs(format!("{} objects are there, {first} among them", left.len())),
    })
}

/// After a removal: a finding that is not "nothing there" is a failure.
///
/// # Errors
/// Something is still there.
pub fn gone(finding: Finding) -> Result<String, Failure> {
    match finding {
        Finding::Satisfied(proof) => Ok(proof),
        other => Err(Failure::tool(format!("still there after the removal: {}", other.detail()))
            .next("somebody made it anew, or it goes slowly: run the same command again")),
    }
}

/// A difference as a finding.
#[must_use]
pub fn found_by(difference: Option<Difference>, satisfied: impl FnOnce() -> String) -> Finding {
    match difference {
        None => Finding::Satisfied(satisfied()),
        Some(Difference::Missing(what)) => Finding::Missing(format!("{what} is not there")),
        Some(Difference::Changed(what)) => Finding::Differs(what),
    }
}
