//! How sets roll, what stops them, and what they take over.

use k8s_openapi::api::apps::v1::{DaemonSet, StatefulSet};
use k8s_openapi::api::core::v1::{Event, PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PropagationPolicy};
use serde_json::{Value, json};
use tokio::time::Duration;

use super::{World, status_of, world};

/// A set of three with a label of its own beside the one that it selects by.
fn set(image: &str, label: &str, partition: u32) -> String {
    format!(
        "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {{name: db, namespace: default}}\nspec:\n  replicas: 3\n  serviceName: db\n  \
         selector: {{matchLabels: {{{label}: db}}}}\n  updateStrategy: {{type: RollingUpdate, rollingUpdate: {{partition: {partition}}}}}\n  \
         template:\n    metadata: {{labels: {{app: db, {label}: db}}}}\n    spec: {{containers: [{{name: {image}, image: '{image}'}}]}}\n  \
         volumeClaimTemplates: [{{metadata: {{name: data}}, spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Gi}}}}}}}}]\n"
    )
}

impl World {
    async fn images(&self) -> Vec<String> {
        let image = |pod: &Pod| pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap();
        self.pods("app=db").await.iter().map(image).collect()
    }

    async fn uids(&self) -> Vec<String> {
        self.pods("app=db").await.iter().map(|pod| pod.uid().unwrap()).collect()
    }

    async fn patch_set(&self, patch: Value) {
        let sets = self.api::<StatefulSet>();
        sets.patch("db", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    async fn delete_set(&self, propagation: PropagationPolicy) {
        let how = DeleteParams { propagation_policy: Some(propagation), ..DeleteParams::default() };
        self.api::<StatefulSet>().delete("db", &how).await.unwrap();
    }
}

fn seconds(seconds: u64) -> tokio::time::Sleep {
    tokio::time::sleep(Duration::from_secs(seconds))
}

#[tokio::test(start_paused = true)]
async fn a_partition_holds_the_lower_ordinals() {
    let w = world().await;
    w.apply(&set("one", "tier", 0)).await;
    seconds(20).await;
    w.apply(&set("two", "tier", 2)).await;
    seconds(20).await;
    assert_eq!(w.images().await, ["one", "one", "two"]);
    // Below it a pod comes back as it was, above it as it is to be.
    for pod in ["db-0", "db-2"] {
        w.api::<Pod>().delete(pod, &DeleteParams::default()).await.unwrap();
    }
    seconds(20).await;
    assert_eq!(w.images().await, ["one", "one", "two"]);
    w.patch_set(json!({"spec": {"updateStrategy": {"rollingUpdate": {"partition": 0}}}})).await;
    seconds(30).await;
    assert_eq!(w.images().await, ["two", "two", "two"]);
}

#[tokio::test(start_paused = true)]
async fn in_the_middle_of_a_rollout_a_deleted_pod_comes_back_new() {
    let w = world().await;
    w.apply(&set("one", "tier", 0)).await;
    seconds(20).await;
    // Nothing gets beyond db-2, which never is ready.
    w.fates.set(
        "two",
        crate::rehearsal::controllers::PodFate {
            readiness: crate::rehearsal::controllers::Readiness::Never,
            ..Default::default()
        },
    );
    w.apply(&set("two", "tier", 0)).await;
    seconds(60).await;
    assert_eq!(w.images().await, ["one", "one", "two"]);
    w.api::<Pod>().delete("db-0", &DeleteParams::default()).await.unwrap();
    seconds(20).await;
    assert_eq!(w.images().await, ["two", "one", "two"]);
}

#[tokio::test(start_paused = true)]
async fn orphaned_pods_are_taken_over_by_a_set_that_selects_them() {
    let w = world().await;
    w.apply(&set("one", "tier", 0)).await;
    seconds(20).await;
    let before = w.uids().await;
    w.delete_set(PropagationPolicy::Orphan).await;
    seconds(20).await;
    assert_eq!(w.uids().await, before);
    w.apply(&set("one", "tier", 0)).await;
    seconds(20).await;
    assert_eq!(w.uids().await, before, "same template, same pods");
    let set_now = w.api::<StatefulSet>().get("db").await.unwrap();
    assert_eq!(set_now.status.unwrap().ready_replicas, Some(3));

    // Facts, section 2: orphaned pods that lack a new label block the set that comes after them.
    w.delete_set(PropagationPolicy::Orphan).await;
    w.apply(&set("one", "component", 0)).await;
    seconds(20).await;
    assert_eq!(w.uids().await, before);
    let events = w.api::<Event>().list(&ListParams::default()).await.unwrap().items;
    let blocked = |event: &Event| event.message.as_deref() == Some("Error creating: pods \"db-0\" already exists");
    assert!(events.iter().any(blocked));
    for pod in ["db-0", "db-1", "db-2"] {
        w.api::<Pod>().delete(pod, &DeleteParams::default()).await.unwrap();
    }
    seconds(30).await;
    assert_eq!(w.pods("component=db").await.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn plain_deletion_takes_the_pods_and_leaves_the_claims() {
    let w = world().await;
    w.apply(&set("one", "tier", 0)).await;
    seconds(20).await;
    w.delete_set(PropagationPolicy::Background).await;
    seconds(20).await;
    assert!(w.pods("app=db").await.is_empty());
    let claims = w.api::<PersistentVolumeClaim>().list(&ListParams::default()).await.unwrap().items;
    assert_eq!(claims.len(), 3);
    let uids: Vec<String> = claims.iter().filter_map(ResourceExt::uid).collect();
    w.apply(&set("two", "component", 0)).await;
    seconds(20).await;
    assert_eq!(w.images().await, ["two", "two", "two"]);
    let again = w.api::<PersistentVolumeClaim>().list(&ListParams::default()).await.unwrap().items;
    assert_eq!(again.iter().filter_map(ResourceExt::uid).collect::<Vec<_>>(), uids);
}

#[tokio::test(start_paused = true)]
async fn selectors_are_for_ever() {
    let w = world().await;
    w.apply(&set("one", "tier", 0)).await;
    let patch = json!({"spec": {"selector": {"matchLabels": {"component": "db"}}, "template": {"metadata": {"labels": {"component": "db"}}}}});
    let sets = w.api::<StatefulSet>();
    let (code, reason, message) =
        status_of(sets.patch("db", &PatchParams::default(), &Patch::Merge(patch.clone())).await);
    assert_eq!((code, reason.as_str()), (422, "Invalid"));
    assert!(
        message.starts_with(
            "StatefulSet.apps \"db\" is invalid: spec: Forbidden: updates to statefulset spec for fields other than"
        ),
        "{message}"
    );
    w.apply("apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: everywhere, namespace: default}\nspec: {selector: {matchLabels: {app: e}}, template: {metadata: {labels: {app: e}}, spec: {containers: [{name: c, image: 'x:1'}]}}}\n").await;
    let sets = w.api::<DaemonSet>();
    let (code, _, message) = status_of(sets.patch("everywhere", &PatchParams::default(), &Patch::Merge(patch)).await);
    assert_eq!(code, 422);
    assert!(
        message.starts_with("DaemonSet.apps \"everywhere\" is invalid: spec.selector: Invalid value: ")
            && message.ends_with(": field is immutable"),
        "{message}"
    );
}
