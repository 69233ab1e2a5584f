//! Controllers that own pods: Deployment, ReplicaSet, StatefulSet, DaemonSet, Job.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Duration;

use super::{pods, scheduler};
use crate::rehearsal::api::defaults::replicas;
use crate::rehearsal::object::{condition, items, number, set, set_condition, text, unset};
use crate::rehearsal::store::{Key, Propagation, Store};

/// A pod that the server refused is tried again after this long.
const RETRY: Duration = Duration::from_secs(1);
/// A job waits this long before its second pod, and twice as long before each further one.
const JOB_BACKOFF_SECONDS: i64 = 10;
/// Marks the pods of a revision of a StatefulSet or DaemonSet.
const REVISION_LABEL: &str = "controller-revision-hash";

/// Writes the status, with the generation that it is about.
fn report(store: &Store, key: &Key, object: &Value, status: &[(&str, i64)], more: impl FnOnce(&mut Value)) {
    store.update(key, |live| {
        set(live, "/status/observedGeneration", object["metadata"]["generation"].clone());
        for (field, value) in status {
            let path = format!("/status/{field}");
            if *value == 0 && field.to_lowercase().contains("unavailable") {
                // Left out by the real controllers too.
                drop(unset(live, &path));
            } else {
                set(live, &path, *value);
            }
        }
        more(live);
    });
}

fn count(pods: &[Arc<Value>], which: impl Fn(&Value) -> bool) -> i64 {
    i64::try_from(pods.iter().filter(|pod| which(pod)).count()).unwrap_or(i64::MAX)
}

/// Rolls from the old ReplicaSets to the one of the present template.
pub fn deployment(store: &Store, key: &Key, object: &Value) -> Option<Duration> {
    let hash = pods::template_hash(object);
    let wanted = replicas(object);
    let name = format!("{}-{hash}", key.name);
    let sets = pods::owned(store, object, "apps/v1", "ReplicaSet");
    let status = |set: &Value, field: &str| number(set, &format!("/status/{field}"), 0);
    let rolling = text(object, "/spec/strategy/type") != "Recreate";
    let strategy = &object["spec"]["strategy"]["rollingUpdate"];
    let surge = pods::share(strategy.get("maxSurge"), wanted, true, "25%");
    let mut missing_allowed = pods::share(strategy.get("maxUnavailable"), wanted, false, "25%");
    if surge == 0 && missing_allowed == 0 {
        missing_allowed = 1;
    }
    let (new, old): (Vec<_>, Vec<_>) = sets.iter().partition(|set| text(set, "/metadata/name") == name);
    let all: i64 = sets.iter().map(|set| replicas(set).max(status(set, "replicas"))).sum();
    let scale = |set: &Value, to: i64| {
        if replicas(set) != to {
            store.update(&Key::of(set), |set| self::set(set, "/spec/replicas", to));
        }
    };
    let room = if rolling {
        wanted + surge - all
    } else {
        wanted - old.iter().map(|set| status(set, "replicas")).sum::<i64>()
    };
    match new.first() {
        Some(set) if replicas(set) > wanted => scale(set, wanted),
        Some(set) if replicas(set) < wanted && (rolling && room > 0 || !rolling && room >= wanted) => {
            scale(set, wanted.min(replicas(set) + room));
        }
        Some(_) => {}
        None => {
            let mut template = object["spec"]["template"].clone();
            let mut selector = object["spec"]["selector"].clone();
            set(&mut template, "/metadata/labels/pod-template-hash", hash.as_str());
            set(&mut selector, "/matchLabels/pod-template-hash", hash.as_str());
            let first = if rolling { room.clamp(0, wanted) } else { 0 };
            store.upsert(json!({
                "apiVersion": "apps/v1", "kind": "ReplicaSet",
                "metadata": {
                    "namespace": key.namespace, "name": name, "labels": template["metadata"]["labels"],
                    "ownerReferences": [pods::reference_to(object)],
                },
                "spec": {"replicas": first, "selector": selector, "template": template},
            }));
            return None;
        }
    }
    let ready: i64 = sets.iter().map(|set| status(set, "readyReplicas")).sum();
    // Old pods go as new ones become ready; those that are not ready are no loss.
    let mut spare = if rolling { ready - (wanted - missing_allowed) } else { i64::MAX };
    for set in &old {
        let unready = replicas(set) - status(set, "readyReplicas");
        let fewer = (spare.max(0).saturating_add(unready.max(0))).min(replicas(set));
        spare -= (fewer - unready.max(0)).max(0);
        scale(set, replicas(set) - fewer);
    }
    let total: i64 = sets.iter().map(|set| status(set, "replicas")).sum();
    let updated = new.iter().map(|set| status(set, "replicas")).sum();
    let enough = ready >= wanted - missing_allowed;
    let done = updated == wanted && total == wanted && ready == wanted;
    let now = store.timestamp();
    let numbers = [
        ("replicas", total),
        ("updatedReplicas", updated),
        ("readyReplicas", ready),
        ("availableReplicas", ready),
        ("unavailableReplicas", (wanted - ready).max(0)),
    ];
    report(store, key, object, &numbers, |live| {
        let (reason, message) = if enough {
            ("MinimumReplicasAvailable", "Deployment has minimum availability.")
        } else {
            ("MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
        };
        set_condition(live, "Available", enough, reason, message, &now);
        let (reason, does) = if done {
            ("NewReplicaSetAvailable", "has successfully progressed")
        } else {
            ("ReplicaSetUpdated", "is progressing")
        };
        set_condition(live, "Progressing", true, reason, &format!("ReplicaSet \"{name}\" {does}."), &now);
    });
    None
}

/// Keeps the wanted number of pods.
pub fn replica_set(store: &Store, key: &Key, object: &Value) -> Option<Duration> {
    pods::adopt(store, object, |_| true);
    let mut own = pods::owned(store, object, "v1", "Pod");
    own.retain(|pod| !pods::is_going(pod) && !pods::has_ended(pod));
    let wanted = replicas(object);
    let have = count(&own, |_| true);
    let mut again = None;
    for _ in have..wanted {
        let name = pods::fresh_name(store, object);
        if !pods::create(store, object, &object["spec"]["template"], &name, &[], |_| {}) {
            again = Some(RETRY);
            break;
        }
    }
    // Pods that are not ready go first.
    own.sort_by_key(|pod| pods::is_ready(pod));
    for pod in own.iter().take(usize::try_from(have - wanted).unwrap_or_default()) {
        store.delete(&pods::key(pod), Propagation::Background);
    }
    let own = pods::owned(store, object, "v1", "Pod");
    let active = |pod: &Value| !pods::is_going(pod) && !pods::has_ended(pod);
    let ready = count(&own, |pod| active(pod) && pods::is_ready(pod));
    let total = count(&own, active);
    report(store, key, object, &[("replicas", total), ("readyReplicas", ready), ("availableReplicas", ready)], |_| {});
    again
}

/// Ordered pods with claims of their own. A pod that is not ready stops everything behind it (`OrderedReady`):
/// a broken pod of an old revision is therefore kept for ever, and the update behind it waits for it.
pub fn stateful_set(store: &Store, key: &Key, object: &Value) -> Option<Duration> {
    let wanted = replicas(object);
    let update = format!("{}-{}", key.name, pods::template_hash(object));
    store.upsert(json!({
        "apiVersion": "apps/v1", "kind": "ControllerRevision",
        "metadata": {"namespace": key.namespace, "name": update, "ownerReferences": [pods::reference_to(object)]},
        "data": {"spec": {"template": object["spec"]["template"]}},
    }));
    let current = match text(object, "/status/currentRevision") {
        "" => update.clone(),
        current => current.to_owned(),
    };
    let partition = number(object, "/spec/updateStrategy/rollingUpdate/partition", 0);
    pods::adopt(store, object, |pod| ordinal_in(&key.name, pod).is_some());
    let own = pods::owned(store, object, "v1", "Pod");
    let revision = |pod: &Value| text(pod, &format!("/metadata/labels/{REVISION_LABEL}")).to_owned();
    let ready = count(&own, |pod| pods::is_ready(pod) && !pods::is_going(pod));
    let of_current = count(&own, |pod| revision(pod) == current && !pods::is_going(pod));
    let of_update = count(&own, |pod| revision(pod) == update && !pods::is_going(pod));
    let done = of_update == wanted && ready == wanted;
    let numbers = [
        ("replicas", count(&own, |_| true)),
        ("readyReplicas", ready),
        ("availableReplicas", ready),
        ("updatedReplicas", of_update),
        ("currentReplicas", if done { of_update } else { of_current }),
    ];
    report(store, key, object, &numbers, |live| {
        set(live, "/status/updateRevision", update.as_str());
        set(live, "/status/currentRevision", if done { update.as_str() } else { current.as_str() });
    });
    let find = |ordinal: i64| {
        let name = format!("{}-{ordinal}", key.name);
        own.iter().find(|pod| text(pod, "/metadata/name") == name)
    };
    let ordered = text(object, "/spec/podManagementPolicy") == "OrderedReady";
    for ordinal in 0..wanted {
        match find(ordinal) {
            None => {
                // Below the partition a pod comes back as it was; all others are of the newest template at once.
                let name = if ordinal < partition { &current } else { &update };
                if !ordinal_pod(store, object, ordinal, name) {
                    return Some(RETRY);
                }
            }
            Some(pod) if pods::has_ended(pod) => drop(store.delete(&pods::key(pod), Propagation::Background)),
            Some(pod) if pods::is_ready(pod) && !pods::is_going(pod) => continue,
            Some(_) => {}
        }
        if ordered {
            return None;
        }
    }
    let ordinal_of = |pod: &Value| ordinal_in(&key.name, pod).unwrap_or(0);
    if let Some(last) = own.iter().filter(|pod| ordinal_of(pod) >= wanted).max_by_key(|pod| ordinal_of(pod)) {
        store.delete(&pods::key(last), Propagation::Background);
        return None;
    }
    if text(object, "/spec/updateStrategy/type") == "RollingUpdate" {
        for pod in (partition..wanted).rev().filter_map(find) {
            if revision(pod) != update {
                store.delete(&pods::key(pod), Propagation::Background);
                return None;
            }
            if !pods::is_ready(pod) {
                return None;
            }
        }
    }
    None
}

/// 2 of `spire-server-2`, if the set is `spire-server`.
fn ordinal_in(set: &str, pod: &Value) -> Option<i64> {
    text(pod, "/metadata/name").strip_prefix(set)?.strip_prefix('-')?.parse().ok()
}

fn ordinal_pod(store: &Store, object: &Value, ordinal: i64, revision: &str) -> bool {
    let (namespace, owner) = (text(object, "/metadata/namespace"), text(object, "/metadata/name"));
    let name = format!("{owner}-{ordinal}");
    let kept = store.get(&Key::new("apps/v1", "ControllerRevision", namespace, revision));
    let template =
        kept.map_or_else(|| object["spec"]["template"].clone(), |kept| kept["data"]["spec"]["template"].clone());
    let mut volumes: Vec<Value> = items(&template, "/spec/volumes").cloned().collect();
    for claim in items(object, "/spec/volumeClaimTemplates") {
        let volume = text(claim, "/metadata/name");
        let claim_name = format!("{volume}-{name}");
        let there = store.get(&Key::new("v1", "PersistentVolumeClaim", namespace, &claim_name));
        // The controller waits for one that is on its way out.
        if there.as_ref().is_some_and(pods::is_going) {
            return false;
        }
        if there.is_none() {
            store.upsert(json!({
                "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "metadata": {"namespace": namespace, "name": claim_name, "labels": object["spec"]["selector"]["matchLabels"]},
                "spec": claim["spec"],
            }));
        }
        volumes.push(json!({"name": volume, "persistentVolumeClaim": {"claimName": claim_name}}));
    }
    let index = ordinal.to_string();
    let labels = [
        (REVISION_LABEL, revision),
        ("statefulset.kubernetes.io/pod-name", &name),
        ("apps.kubernetes.io/pod-index", &index),
    ];
    pods::create(store, object, &template, &name, &labels, |pod| {
        set(pod, "/spec/volumes", volumes);
        set(pod, "/spec/hostname", name.as_str());
        set(pod, "/spec/subdomain", object["spec"]["serviceName"].clone());
    })
}

/// One pod on each node that allows it.
pub fn daemon_set(store: &Store, key: &Key, object: &Value) -> Option<Duration> {
    let mut template = object["spec"]["template"].clone();
    let mut tolerations: Vec<Value> = items(&template, "/spec/tolerations").cloned().collect();
    for (taint, effect) in [
        ("not-ready", "NoExecute"),
        ("unreachable", "NoExecute"),
        ("disk-pressure", "NoSchedule"),
        ("memory-pressure", "NoSchedule"),
        ("pid-pressure", "NoSchedule"),
        ("unschedulable", "NoSchedule"),
    ] {
        tolerations.push(json!({"key": format!("node.kubernetes.io/{taint}"), "operator": "Exists", "effect": effect}));
    }
    set(&mut template, "/spec/tolerations", tolerations);
    let revision = pods::template_hash(object);
    let nodes = store.list_shared("v1", "Node", None);
    let eligible: Vec<&str> = nodes
        .iter()
        .filter(|node| {
            scheduler::untolerated(node, &template["spec"]).is_none() && scheduler::wants(node, &template["spec"])
        })
        .map(|node| text(node, "/metadata/name"))
        .collect();
    pods::adopt(store, object, |_| true);
    let mut own = pods::owned(store, object, "v1", "Pod");
    let pinned = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/matchFields/0/values/0";
    let current = |pod: &Value| text(pod, &format!("/metadata/labels/{REVISION_LABEL}")) == revision;
    let mut again = None;
    for node in &eligible {
        let here = own.iter().filter(|pod| text(pod, pinned) == *node).collect::<Vec<_>>();
        if here.is_empty() {
            let name = pods::fresh_name(store, object);
            if !pods::create(store, object, &template, &name, &[(REVISION_LABEL, &revision)], |pod| {
                scheduler::pin(pod, node);
            }) {
                again = Some(RETRY);
            }
        }
    }
    for pod in own.iter().filter(|pod| !pods::is_going(pod)) {
        if pods::has_ended(pod) || !eligible.contains(&text(pod, pinned)) {
            store.delete(&pods::key(pod), Propagation::Background);
        }
    }
    let desired = i64::try_from(eligible.len()).unwrap_or(i64::MAX);
    if text(object, "/spec/updateStrategy/type") == "RollingUpdate" {
        let allowed =
            pods::share(object.pointer("/spec/updateStrategy/rollingUpdate/maxUnavailable"), desired, true, "1");
        let mut missing = desired - count(&own, |pod| pods::is_ready(pod) && !pods::is_going(pod));
        for pod in own.iter().filter(|pod| !current(pod) && !pods::is_going(pod)) {
            // An old pod that is not ready is missing already.
            missing += i64::from(pods::is_ready(pod));
            if missing <= allowed.max(1) {
                store.delete(&pods::key(pod), Propagation::Background);
            }
        }
    }
    own = pods::owned(store, object, "v1", "Pod");
    own.retain(|pod| !pods::is_going(pod));
    let ready = count(&own, pods::is_ready);
    let numbers = [
        ("desiredNumberScheduled", desired),
        ("currentNumberScheduled", count(&own, |_| true)),
        ("updatedNumberScheduled", count(&own, current)),
        ("numberReady", ready),
        ("numberAvailable", ready),
        ("numberUnavailable", desired - ready),
        ("numberMisscheduled", 0),
    ];
    report(store, key, object, &numbers, |_| {});
    again
}

/// Runs pods until enough of them have succeeded, or too many have failed.
pub fn job(store: &Store, key: &Key, object: &Value) -> Option<Duration> {
    let finished = condition(object, "Complete") || condition(object, "Failed");
    let now = store.now();
    let since = |when: &str| when.parse::<Timestamp>().map_or(0, |then| now.as_second() - then.as_second());
    if finished {
        let ttl = object.pointer("/spec/ttlSecondsAfterFinished").and_then(Value::as_i64)?;
        let left = ttl - items(object, "/status/conditions").map(|c| since(text(c, "/lastTransitionTime"))).max()?;
        if left > 0 {
            return u64::try_from(left).ok().map(Duration::from_secs);
        }
        store.delete(key, Propagation::Background);
        return None;
    }
    let own = pods::owned(store, object, "v1", "Pod");
    let succeeded = count(&own, |pod| text(pod, "/status/phase") == "Succeeded");
    let failed = count(&own, |pod| text(pod, "/status/phase") == "Failed");
    let active = count(&own, |pod| !pods::has_ended(pod) && !pods::is_going(pod));
    let (completions, parallelism) = (number(object, "/spec/completions", 1), number(object, "/spec/parallelism", 1));
    let exhausted = failed > number(object, "/spec/backoffLimit", 6);
    let mut again = None;
    if !exhausted && active < parallelism.min(completions - succeeded) {
        let ended =
            own.iter().filter(|pod| pods::has_ended(pod)).map(|pod| since(text(pod, "/status/finishedAt"))).min();
        let backoff = if failed == 0 { 0 } else { JOB_BACKOFF_SECONDS << (failed - 1).min(5) };
        let left = backoff - ended.unwrap_or(backoff);
        if left > 0 {
            again = u64::try_from(left).ok().map(Duration::from_secs);
        } else {
            let uid = text(object, "/metadata/uid");
            let labels =
                [("job-name", key.name.as_str()), ("batch.kubernetes.io/job-name", &key.name), ("controller-uid", uid)];
            let name = pods::fresh_name(store, object);
            if !pods::create(store, object, &object["spec"]["template"], &name, &labels, |_| {}) {
                again = Some(RETRY);
            }
        }
    }
    let stamp = store.timestamp();
    report(store, key, object, &[("active", active), ("succeeded", succeeded), ("failed", failed)], |job| {
        crate::rehearsal::object::set_default(job, "/status/startTime", stamp.as_str());
        if succeeded >= completions {
            set(job, "/status/completionTime", stamp.as_str());
            set_condition(
                job,
                "Complete",
                true,
                "CompletionsReached",
                "Reached expected number of succeeded pods",
                &stamp,
            );
        } else if exhausted {
            let message = "Job has reached the specified backoff limit";
            set_condition(job, "Failed", true, "BackoffLimitExceeded", message, &stamp);
        }
    });
    again
}
