//! Stopping what makes the pods.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::ResourceExt;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use super::look::gvk;
use super::{LOOK, containment, note, record};
use crate::config::Lab;
use crate::engine::{Body, StepContext};
use crate::error::Failure;
use crate::kube::{Cluster, api_failure, by_kubectl, describe_pod};
use crate::plan::Finding;
use crate::spire::incident::{Action, CONTAINED, Holder, How, Owner};
use crate::steps::{inspect, reach};

/// [`crate::plan::StepId::CutOff`].
pub struct CutOff;

#[async_trait]
impl Body for CutOff {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        let holders = containment(cx)?.incident().holders.clone();
        Ok(match holders.as_slice() {
            [] => Finding::Satisfied("no pod can present it".to_owned()),
            [one] => Finding::Differs(format!("{}/{} can present it", one.namespace, one.name)),
            all => Finding::Differs(format!("{} pods can present it", all.len())),
        })
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        let cluster = reach::cluster(cx).await?;
        let actions = containment(cx)?.incident().actions.clone();
        for (at, action) in actions.iter().enumerate() {
            note(cx, action.words())?;
            carry_out(&cluster, action).await?;
            let now = cx.session.world.clock.now();
            record(cx, |incident| {
                if let Some(action) = incident.actions.get_mut(at) {
                    action.done_at = Some(now);
                }
            })?;
        }
        Ok(())
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        let cluster = reach::cluster(cx).await?;
        let (holders, owners): (Vec<Holder>, BTreeSet<String>) = {
            let incident = containment(cx)?.incident();
            (incident.holders.clone(), incident.actions.iter().map(|action| action.owner.namespace.clone()).collect())
        };
        let uids: BTreeSet<&str> = holders.iter().map(|holder| holder.uid.as_str()).collect();
        loop {
            let mut left = Vec::new();
            for namespace in &owners {
                let list = cluster.namespaced::<Pod>(namespace).list(&ListParams::default()).await;
                let list =
                    list.map_err(|error| api_failure(&format!("could not list the pods of {namespace}"), &error))?;
                // One on its way out may still use what it holds, until it is gone.
                left.extend(list.items.into_iter().filter(|pod| is_one_of(pod, &uids)));
            }
            let Some(first) = left.first() else { break };
            if cx.remaining() < Duration::from_secs(2) {
                return Err(Failure::timeout(format!("{} pods are still there", left.len()))
                    .facts(left.iter().take(10).map(describe_pod))
                    .next(by_kubectl(&format!(
                        "-n {} describe pod {}",
                        first.namespace().unwrap_or_default(),
                        first.name_any()
                    ))));
            }
            cx.progress(describe_pod(first));
            cx.sleep(LOOK).await?;
        }
        let gone =
            if holders.len() == 1 { "the pod is gone".to_owned() } else { format!("{} pods are gone", holders.len()) };
        note(cx, gone.clone())?;
        Ok(gone)
    }
}

fn is_one_of(pod: &Pod, uids: &BTreeSet<&str>) -> bool {
    let seen = inspect::seen(pod, jiff::Timestamp::UNIX_EPOCH);
    uids.contains(seen.uid.as_str())
}

/// The API of an owner's kind, if the cluster still knows it.
pub(super) async fn api_of(cluster: &Cluster, owner: &Owner) -> Result<Option<Api<DynamicObject>>, Failure> {
    cluster.dynamic(&gvk(&owner.api_version, &owner.kind)?, Some(&owner.namespace)).await
}

/// The owner as it is now, if it is the same one.
pub(super) async fn now(api: &Api<DynamicObject>, owner: &Owner) -> Result<Option<DynamicObject>, Failure> {
    let found =
        api.get_opt(&owner.name).await.map_err(|error| api_failure(&format!("could not read {owner}"), &error))?;
    Ok(found.filter(|found| found.uid().as_deref() == Some(&owner.uid)))
}

/// Patches an owner.
pub(super) async fn patch(api: &Api<DynamicObject>, owner: &Owner, patch: &Value) -> Result<(), Failure> {
    let params = PatchParams { field_manager: Some(Lab::FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let patched = api.patch(&owner.name, &params, &Patch::Merge(patch)).await;
    patched.map(|_| ()).map_err(|error| api_failure(&format!("could not change {owner}"), &error))
}

/// Does it; what is gone, or another one by now, needs nothing.
async fn carry_out(cluster: &Cluster, action: &Action) -> Result<(), Failure> {
    let owner = &action.owner;
    let Some(api) = api_of(cluster, owner).await? else { return Ok(()) };
    if now(&api, owner).await?.is_none() {
        return Ok(());
    }
    match &action.how {
        How::Scale { .. } => patch(&api, owner, &json!({"spec": {"replicas": 0}})).await,
        How::Unschedule => {
            let nowhere = json!({"spec": {"template": {"spec": {"nodeSelector": {CONTAINED: "true"}}}}});
            patch(&api, owner, &nowhere).await
        }
        How::Suspend => {
            patch(&api, owner, &json!({"spec": {"suspend": true}})).await?;
            end_pods(cluster, owner).await
        }
        How::DeletePod { .. } | How::Delete => match api.delete(&owner.name, &DeleteParams::foreground()).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(api_failure(&format!("could not delete {owner}"), &error)),
        },
    }
}

/// What a suspended maker of jobs has started runs on: its jobs are suspended, too. A suspended job ends its pods.
async fn end_pods(cluster: &Cluster, owner: &Owner) -> Result<(), Failure> {
    if owner.kind != "CronJob" {
        return Ok(());
    }
    let Some(api) = cluster.dynamic(&gvk("batch/v1", "Job")?, Some(&owner.namespace)).await? else { return Ok(()) };
    let list = api.list(&ListParams::default()).await;
    let jobs = list.map_err(|error| api_failure(&format!("could not list the jobs of {owner}"), &error))?;
    for job in jobs.items.iter().filter(|job| job.owner_references().iter().any(|reference| reference.uid == owner.uid))
    {
        let job = Owner {
            api_version: "batch/v1".into(),
            kind: "Job".into(),
            namespace: owner.namespace.clone(),
            name: job.name_any(),
            uid: job.uid().unwrap_or_default(),
        };
        patch(&api, &job, &json!({"spec": {"suspend": true}})).await?;
    }
    Ok(())
}
