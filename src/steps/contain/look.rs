//! What a SPIFFE id or a namespace comes down to: entries, the pods that they are for, and what makes those pods.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;
use kube::api::ListParams;
use kube::core::{DynamicObject, GroupVersionKind};
use serde_json::{Value, json};

use crate::config::Lab;
use crate::engine::StepContext;
use crate::error::Failure;
use crate::kube::{Cluster, api_failure, by_kubectl, describe_pod};
use crate::spire::audit::Lifetimes;
use crate::spire::entries::Entry;
use crate::spire::incident::{Action, Holder, How, Incident, Owner, Registered};
use crate::steps::{inspect, reach, registrations};

/// What is to be contained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A SPIFFE id, whole.
    Id(String),
    /// Everything of a namespace.
    Namespace(String),
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Target::Id(name) | Target::Namespace(name)) = self;
        f.write_str(name)
    }
}

/// Looks what stands behind the target. Changes nothing.
///
/// # Errors
/// Nothing stands behind it; it is SPIRE or Kubernetes itself; or what makes its pods cannot be stopped.
pub async fn look(cx: &StepContext, target: &Target, delete: bool) -> Result<Incident, Failure> {
    let cluster = reach::cluster(cx).await?;
    let now = cx.session.world.clock.now();
    let list = cluster.all::<Pod>().list(&ListParams::default()).await;
    let mut pods = list.map_err(|error| api_failure("could not list pods", &error))?.items;
    pods.retain(|pod| inspect::seen(pod, now).runs);
    let entries = entries(cx, target, &pods).await?;
    pods.retain(|pod| is_meant(pod, target, &entries));
    if entries.is_empty() && pods.is_empty() {
        return Err(nothing(cx, target).await);
    }
    spare_the_foundations(&pods, &cx.session.lab)?;
    let lifetimes = inspect::lifetimes(cx, &cluster).await.unwrap_or_else(|_| Lifetimes::default());
    let mut actions = BTreeMap::new();
    for pod in &pods {
        let action = action(&cluster, pod, delete).await?;
        actions.entry(action.owner.clone()).or_insert(action);
    }
    Ok(Incident {
        schema: Incident::SCHEMA,
        id: format!("contain-{}", now.strftime("%Y%m%dT%H%M%S%3fZ")),
        target: target.to_string(),
        coastal: env!("CARGO_PKG_VERSION").to_owned(),
        started_at: now,
        valid_until: entries.iter().map(|entry| lifetimes.until(entry, now)).max().unwrap_or(now),
        entries: entries.iter().map(registered).collect(),
        holders: pods.iter().map(holder).collect(),
        actions: actions.into_values().collect(),
        timeline: Vec::new(),
        entries_gone_at: None,
        undone_at: None,
    })
}

/// The entries that are meant.
async fn entries(cx: &StepContext, target: &Target, pods: &[Pod]) -> Result<Vec<Entry>, Failure> {
    let namespace = match target {
        Target::Id(id) => return registrations::of_id(cx, id).await,
        Target::Namespace(namespace) => namespace.clone(),
    };
    let inside: Vec<String> =
        pods.iter().filter(|pod| pod.namespace().as_deref() == Some(&namespace)).filter_map(ResourceExt::uid).collect();
    let found = Arc::new(Mutex::new(Vec::new()));
    let into = Arc::clone(&found);
    registrations::each(cx, move |entry| {
        let by_pod = entry.pod_uid().any(|uid| inside.iter().any(|inside| inside == uid));
        if by_pod || entry.values("ns").any(|selected| selected == namespace) {
            into.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
        }
    })
    .await?;
    Ok(std::mem::take(&mut *found.lock().unwrap_or_else(PoisonError::into_inner)))
}

/// Whether a pod is one that the target is about.
fn is_meant(pod: &Pod, target: &Target, entries: &[Entry]) -> bool {
    let namespace = pod.namespace().unwrap_or_default();
    if let Target::Namespace(wanted) = target {
        return *wanted == namespace;
    }
    let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone()).unwrap_or_default();
    let selected = |entry: &Entry| {
        let mut narrow = false;
        for (name, value) in [
            ("pod-uid", pod.uid().unwrap_or_default()),
            ("pod-name", pod.name_any()),
            ("ns", namespace.clone()),
            ("sa", account.clone()),
        ] {
            if entry.values(name).any(|wanted| wanted != value) {
                return false;
            }
            // A namespace alone is not enough to stop everything in it.
            narrow |= name != "ns" && entry.values(name).next().is_some();
        }
        narrow
    };
    entries.iter().any(selected)
}

/// SPIRE cannot be contained with SPIRE's help, and nothing else without Kubernetes.
fn spare_the_foundations(pods: &[Pod], lab: &Lab) -> Result<(), Failure> {
    let spire = &lab.spire;
    let spared = [spire.server_namespace.as_str(), spire.system_namespace.as_str(), "kube-system"];
    let hit: Vec<&Pod> =
        pods.iter().filter(|pod| spared.contains(&pod.namespace().unwrap_or_default().as_str())).collect();
    if hit.is_empty() {
        return Ok(());
    }
    Err(Failure::refused("that would stop SPIRE or Kubernetes itself, and with it every identity in the cluster")
        .facts(hit.into_iter().take(10).map(describe_pod))
        .next("`coastal agents ban ID` cuts off one node; a compromised server needs new keys on all of them"))
}

async fn nothing(cx: &StepContext, target: &Target) -> Failure {
    let failure = match target {
        Target::Id(id) => Failure::prerequisite(format!("no registration entry gives {id}")),
        Target::Namespace(name) => {
            Failure::prerequisite(format!("namespace {name} has neither pods nor registration entries"))
        }
    };
    let wanted = target.to_string();
    let nearest: Arc<Mutex<Option<(f64, String)>>> = Arc::default();
    let into = Arc::clone(&nearest);
    let looked = registrations::each(cx, move |entry| {
        let id = entry.spiffe_id.to_string();
        let likeness = strsim::jaro_winkler(&id, &wanted);
        let mut nearest = into.lock().unwrap_or_else(PoisonError::into_inner);
        if likeness > 0.9 && nearest.as_ref().is_none_or(|(best, _)| likeness > *best) {
            *nearest = Some((likeness, id));
        }
    })
    .await;
    let nearest = nearest.lock().unwrap_or_else(PoisonError::into_inner).take();
    let failure = match (looked, nearest) {
        (Ok(count), Some((_, id))) => failure.fact(format!("of {count} entries, {id} comes nearest")),
        (Ok(count), None) => failure.fact(format!("there are {count} entries")),
        (Err(_), _) => failure,
    };
    failure.next("`coastal audit` shows what nobody expects, `coastal entries` all of them")
}

fn registered(entry: &Entry) -> Registered {
    Registered {
        id: entry.id.clone(),
        spiffe_id: entry.spiffe_id.to_string(),
        parent_id: entry.parent_id.to_string(),
        selectors: entry.selectors.iter().map(ToString::to_string).collect(),
        by_pod: entry.pod_uid().next().is_some(),
    }
}

fn holder(pod: &Pod) -> Holder {
    Holder {
        namespace: pod.namespace().unwrap_or_default(),
        name: pod.name_any(),
        uid: pod.uid().unwrap_or_default(),
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
    }
}

fn controller(references: Option<&Vec<OwnerReference>>) -> Option<OwnerReference> {
    references?.iter().find(|reference| reference.controller == Some(true)).cloned()
}

/// What has to be done so that the pod goes and does not come back: to the one at the top, whose wish it is.
async fn action(cluster: &Cluster, pod: &Pod, delete: bool) -> Result<Action, Failure> {
    let namespace = pod.namespace().unwrap_or_default();
    let mut top: Option<(Owner, DynamicObject)> = None;
    let mut next = controller(pod.metadata.owner_references.as_ref());
    while let Some(reference) = next.take() {
        let gvk = gvk(&reference.api_version, &reference.kind)?;
        let what = format!("{} {namespace}/{}", reference.kind, reference.name);
        let Some(api) = cluster.dynamic(&gvk, Some(&namespace)).await? else { break };
        let found = api.get_opt(&reference.name).await;
        let Some(object) = found.map_err(|error| api_failure(&format!("could not read {what}"), &error))? else {
            break;
        };
        next = controller(object.metadata.owner_references.as_ref());
        let owner = Owner {
            api_version: reference.api_version,
            kind: reference.kind,
            namespace: namespace.clone(),
            name: reference.name,
            uid: reference.uid,
        };
        top = Some((owner, object));
    }
    let Some((owner, object)) = top else {
        let owner = Owner {
            api_version: "v1".into(),
            kind: "Pod".into(),
            namespace,
            name: pod.name_any(),
            uid: pod.uid().unwrap_or_default(),
        };
        return Ok(Action { owner, how: How::DeletePod { manifest: again(pod)? }, done_at: None });
    };
    let how = if delete { How::Delete } else { how(&owner, &object)? };
    Ok(Action { owner, how, done_at: None })
}

pub(super) fn gvk(api_version: &str, kind: &str) -> Result<GroupVersionKind, Failure> {
    let types = kube::core::TypeMeta { api_version: api_version.to_owned(), kind: kind.to_owned() };
    GroupVersionKind::try_from(&types)
        .map_err(|error| Failure::unexpected(format!("`{api_version}` is no apiVersion: {error}")))
}

fn how(owner: &Owner, object: &DynamicObject) -> Result<How, Failure> {
    if let Some(replicas) = object.data.pointer("/spec/replicas").and_then(Value::as_i64) {
        return Ok(How::Scale { replicas });
    }
    match owner.kind.as_str() {
        "DaemonSet" => Ok(How::Unschedule),
        "Job" | "CronJob" => Ok(How::Suspend),
        kind => Err(Failure::refused(format!("{owner} makes the pods, and it is not known how a {kind} is stopped"))
            .fact("it has no `spec.replicas`")
            .next(by_kubectl(&format!("-n {} describe {} {}", owner.namespace, kind.to_lowercase(), owner.name)))
            .next("stop it in its own way, then run this again; or `--delete` deletes it")),
    }
}

/// The pod's manifest without what the cluster has written into it.
fn again(pod: &Pod) -> Result<Value, Failure> {
    let mut manifest = serde_json::to_value(pod).map_err(|error| Failure::unexpected(error.to_string()))?;
    if let Some(fields) = manifest.as_object_mut() {
        fields.remove("status");
        fields.insert("apiVersion".to_owned(), json!("v1"));
        fields.insert("kind".to_owned(), json!("Pod"));
    }
    let metadata = ["uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "ownerReferences"];
    for (table, fields) in [("/metadata", &metadata[..]), ("/spec", &["nodeName"][..])] {
        if let Some(table) = manifest.pointer_mut(table).and_then(Value::as_object_mut) {
            for field in fields {
                table.remove(*field);
            }
        }
    }
    Ok(manifest)
}
