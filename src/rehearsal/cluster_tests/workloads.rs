//! What becomes of workloads.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, LogParams, Patch, PatchParams};
use kube::core::DynamicObject;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::time::{Duration, Instant};

use super::{Fates, deployment, empty_store, marked, world};
use crate::config::embedded;
use crate::kube::{Cluster, Difference, Judgement, describe_pod, parse};
use crate::rehearsal::controllers::{Crash, ImageError, PodFate, Readiness};
use crate::rehearsal::object::set;
use crate::rehearsal::store::Key;
use crate::rehearsal::{api, controllers};

#[tokio::test(start_paused = true)]
async fn a_deployment_is_applied_and_not_changed_by_the_same_apply() {
    let w = world().await;
    let text = deployment("web", 3, "0.1");
    w.apply(&text).await;
    w.patient(30, async |patience| {
        w.cluster
            .wait_one(w.api::<Deployment>(), "web", patience, |web| match web.and_then(|web| web.status.as_ref()) {
                Some(status) if status.available_replicas == Some(3) => Judgement::Good(()),
                status => Judgement::Waiting(format!("{:?}", status.and_then(|s| s.available_replicas))),
            })
            .await
    })
    .await
    .unwrap();
    let objects = parse("test", &text).unwrap();
    assert_eq!(w.cluster.difference(&objects).await.unwrap(), None, "0.1 and 100m are the same");
    let before = w.api::<Deployment>().get("web").await.unwrap();
    w.apply(&text).await;
    let after = w.api::<Deployment>().get("web").await.unwrap();
    assert_eq!(before.metadata, after.metadata);
    let changed = parse("test", &text.replace("x:1", "x:2")).unwrap();
    assert!(w.cluster.difference(&changed).await.unwrap().is_some());
    let uid = |pods: &[Pod]| pods.iter().filter_map(ResourceExt::uid).collect::<Vec<_>>();
    let old = uid(&w.pods("app=web").await);
    w.apply(&text.replace("x:1", "x:2")).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    let new = w.pods("app=web").await;
    assert_eq!(new.len(), 3);
    assert!(new.iter().all(|pod| pod.spec.as_ref().unwrap().containers[0].image.as_deref() == Some("x:2")));
    assert!(uid(&new).iter().all(|uid| !old.contains(uid)));
    assert_eq!(w.api::<Deployment>().get("web").await.unwrap().metadata.generation, Some(2));
    w.delete(&text).await;
    w.patient(30, async |patience| w.cluster.pods_gone("default", "app=web", patience).await).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn pods_that_do_not_fit_say_so_in_the_schedulers_words() {
    let w = world().await;
    w.apply(&deployment("big", 5, "500m")).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let pending: Vec<_> = w
        .pods("app=big")
        .await
        .into_iter()
        .filter(|pod| pod.status.as_ref().unwrap().phase.as_deref() == Some("Pending"))
        .collect();
    assert_eq!(pending.len(), 2);
    assert!(describe_pod(&pending[0]).ends_with(
        "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }. \
         preemption: 0/2 nodes are available: 1 No preemption victims found for incoming pod, 1 Preemption is not helpful for scheduling."
    ), "{}", describe_pod(&pending[0]));
    w.api::<Deployment>()
        .patch("big", &PatchParams::default(), &Patch::Merge(json!({"spec": {"replicas": 3}})))
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(w.pods("app=big").await.iter().all(|pod| pod.status.as_ref().unwrap().phase.as_deref() == Some("Running")));
}

#[tokio::test(start_paused = true)]
async fn a_stateful_set_rolls_in_order_and_stops_at_a_broken_pod() {
    let w = world().await;
    let text = |image: &str| {
        format!(
            "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {{name: db, namespace: default}}\nspec:\n  replicas: 3\n  serviceName: db\n  \
         selector: {{matchLabels: {{app: db}}}}\n  template:\n    metadata: {{labels: {{app: db}}}}\n    \
         spec: {{containers: [{{name: {image}, image: '{image}'}}]}}\n  \
         volumeClaimTemplates: [{{metadata: {{name: data}}, spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Gi}}}}}}}}]\n"
        )
    };
    w.fates.set(
        "bad",
        PodFate {
            crash: Some(Crash {
                container: "bad".into(),
                after: Duration::from_millis(100),
                code: 1,
                lines: vec!["schema is too new".into()],
            }),
            ..PodFate::default()
        },
    );
    w.apply(&text("good")).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(w.pods("app=db").await.len(), 1, "one after the other");
    tokio::time::sleep(Duration::from_secs(10)).await;
    let claims = w.api::<PersistentVolumeClaim>().list(&ListParams::default()).await.unwrap().items;
    let bound: Vec<_> =
        claims.iter().map(|claim| (claim.name_any(), claim.status.clone().unwrap().phase.unwrap())).collect();
    assert_eq!(bound, ["data-db-0", "data-db-1", "data-db-2"].map(|name| (name.to_owned(), "Bound".to_owned())));
    w.apply(&text("bad")).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let images = |pods: Vec<Pod>| {
        pods.iter().map(|pod| pod.spec.as_ref().unwrap().containers[0].name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(images(w.pods("app=db").await), ["good", "good", "bad"]);
    assert!(describe_pod(&w.pods("app=db").await[2]).contains("CrashLoopBackOff"));
    w.apply(&text("good")).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(images(w.pods("app=db").await), ["good", "good", "bad"], "the broken pod is kept");
    let logs = w.api::<Pod>().logs("db-2", &LogParams { previous: true, ..LogParams::default() }).await.unwrap();
    assert_eq!(logs, "schema is too new\n");
    w.api::<Pod>().delete("db-2", &DeleteParams::default()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert_eq!(images(w.pods("app=db").await), ["good", "good", "good"]);
    let status = w.api::<StatefulSet>().get("db").await.unwrap().status.unwrap();
    assert_eq!((status.ready_replicas, status.updated_replicas), (Some(3), Some(3)));
}

const DRIVER: &str = "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: csi, namespace: default}\nspec:\n  \
    selector: {matchLabels: {app: csi}}\n  template:\n    metadata: {labels: {app: csi}}\n    \
    spec: {containers: [{name: csi, image: 'x:1'}], volumes: [{name: d, hostPath: {path: /var/lib/kubelet/plugins/csi.spiffe.io}}]}\n";

#[tokio::test(start_paused = true)]
async fn pods_need_the_csi_driver_to_start_and_to_end() {
    let w = world().await;
    let mut objects = marked(&deployment("web", 1, "100m"));
    objects[0].data["spec"]["template"]["spec"]["volumes"] =
        json!([{"name": "spiffe", "csi": {"driver": "csi.spiffe.io"}}]);
    w.patient(30, async |patience| w.cluster.apply(&objects, patience).await).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(describe_pod(&w.pods("app=web").await[0]).ends_with("Pending, web: ContainerCreating"));
    let events =
        w.api::<Event>().list(&ListParams::default().fields("type=Warning,reason=FailedMount")).await.unwrap().items;
    assert!(
        events[0]
            .message
            .as_ref()
            .unwrap()
            .contains("driver name csi.spiffe.io not found in the list of registered CSI drivers")
    );
    w.apply(DRIVER).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(describe_pod(&w.pods("app=web").await[0]).ends_with("Running"));
    let nodes: Vec<_> =
        w.pods("app=csi").await.iter().map(|pod| pod.spec.clone().unwrap().node_name.unwrap()).collect();
    assert_eq!(nodes, ["kind-worker"], "the control plane is tainted");
    assert_eq!(w.api::<DaemonSet>().get("csi").await.unwrap().status.unwrap().number_ready, 1);
    w.delete(DRIVER).await;
    let failure = w
        .patient(60, async |patience| w.cluster.delete(&objects, &embedded().unwrap(), patience).await)
        .await
        .unwrap_err();
    assert!(failure.message.contains("held by foregroundDeletion"), "{}", failure.message);
    let failure =
        w.patient(60, async |patience| w.cluster.pods_gone("default", "app=web", patience).await).await.unwrap_err();
    assert!(failure.message.ends_with(": Terminating"), "{}", failure.message);
    w.apply(DRIVER).await;
    w.patient(60, async |patience| w.cluster.pods_gone("default", "app=web", patience).await).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_image_that_cannot_be_pulled_is_doom() {
    let w = world().await;
    let error =
        ImageError { container: "web".into(), reason: "ErrImagePull".into(), message: "dial tcp: no such host".into() };
    w.fates.set("web", PodFate { image_error: Some(error), ..PodFate::default() });
    w.apply(&deployment("web", 1, "100m")).await;
    let started = Instant::now();
    let failure = w.patient(300, async |patience| w.cluster.until_doomed(&[("default", "")], patience).await).await;
    assert!(started.elapsed() < Duration::from_secs(10));
    assert!(failure.message.contains("dial tcp: no such host"), "{}", failure.message);
    let explained = w.cluster.explain(failure, "default", "app=web").await;
    assert!(
        explained.facts.iter().any(|fact| fact.starts_with("event Failed: Failed to pull image \"x:1\"")),
        "{:?}",
        explained.facts
    );
    w.fates.set("web", PodFate::default());
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(describe_pod(&w.pods("app=web").await[0]).ends_with("Running"), "an image that arrives mends it");
}

#[tokio::test(start_paused = true)]
async fn configuration_that_is_missing_holds_a_pod_up() {
    let w = world().await;
    let mut objects = parse("test", &deployment("web", 1, "100m")).unwrap();
    let spec = &mut objects[0].data["spec"]["template"]["spec"];
    spec["volumes"] = json!([{"name": "certs", "secret": {"secretName": "certs"}}]);
    spec["containers"][0]["env"] = json!([{"name": "P", "valueFrom": {"secretKeyRef": {"name": "db", "key": "p"}}}]);
    w.patient(30, async |patience| w.cluster.apply(&objects, patience).await).await.unwrap();
    let secret =
        |name: &str| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"namespace": "default", "name": name}});
    for (made, state) in [
        (None, "Pending, web: ContainerCreating"),
        (Some("certs"), "Pending, web: CreateContainerConfigError (secret \"db\" not found)"),
        (Some("db"), "Running"),
    ] {
        if let Some(made) = made {
            w.store.upsert(secret(made));
        }
        tokio::time::sleep(Duration::from_secs(20)).await;
        let pod = describe_pod(&w.pods("app=web").await[0]);
        assert!(pod.ends_with(state), "{pod}");
    }
}

#[tokio::test(start_paused = true)]
async fn readiness_follows_probes() {
    let w = world().await;
    let probe = Readiness::Probe { first: Duration::from_secs(15), period: Duration::from_secs(60) };
    w.fates.set("web", PodFate { readiness: probe, ..PodFate::default() });
    w.apply(&deployment("web", 1, "100m")).await;
    let ready = async || controllers::is_ready(&serde_json::to_value(&w.pods("app=web").await[0]).unwrap());
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(!ready().await);
    let key = Key::pod("default", &w.pods("app=web").await[0].name_any());
    w.store.update(&key, |pod| set(pod, "/metadata/annotations/serves", "yes"));
    tokio::time::sleep(Duration::from_secs(50)).await;
    assert!(!ready().await, "not before the next probe");
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(ready().await);
    w.store.update(&key, |pod| set(pod, "/metadata/annotations/serves", "no"));
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert!(!ready().await);
}

#[tokio::test(start_paused = true)]
async fn jobs_complete_or_give_up() {
    let w = world().await;
    for (name, code) in [("good", 0), ("bad", 3)] {
        w.fates.set(name, PodFate { ends: Some((Duration::from_secs(2), code)), ..PodFate::default() });
        w.apply(&format!(
            "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: {name}, namespace: default}}\nspec:\n  backoffLimit: 1\n  template:\n    \
             spec: {{restartPolicy: Never, containers: [{{name: {name}, image: 'x:1'}}]}}\n")).await;
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    for (name, condition, pods) in [("good", "Complete", 1), ("bad", "Failed", 2)] {
        let job = w.api::<Job>().get(name).await.unwrap();
        assert!(
            job.status.unwrap().conditions.unwrap().iter().any(|c| c.type_ == condition && c.status == "True"),
            "{name}"
        );
        assert_eq!(w.pods(&format!("job-name={name}")).await.len(), pods);
    }
}

fn job(image: &str) -> String {
    format!(
        "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: check, namespace: default}}\nspec:\n  template:\n    \
         spec: {{restartPolicy: Never, containers: [{{name: check, image: '{image}'}}]}}\n"
    )
}

#[tokio::test(start_paused = true)]
async fn a_job_that_is_to_run_something_else_is_made_anew() {
    let w = world().await;
    w.apply(&job("x:1")).await;
    let first = w.api::<Job>().get("check").await.unwrap().uid();
    let wanted = marked(&job("x:2"));
    let difference = w.cluster.difference(&wanted).await.unwrap();
    assert_eq!(difference, Some(Difference::Changed("Job default/check would run something else now".into())));
    w.apply(&job("x:2")).await;
    assert_ne!(w.api::<Job>().get("check").await.unwrap().uid(), first);
    assert_eq!(w.cluster.difference(&wanted).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_job_of_somebody_else_is_left_alone() {
    let w = world().await;
    let theirs = parse("test", &job("x:1")).unwrap();
    w.patient(30, async |patience| w.cluster.apply(&theirs, patience).await).await.unwrap();
    let first = w.api::<Job>().get("check").await.unwrap().uid();
    let applied = w.patient(30, async |patience| w.cluster.apply(&marked(&job("x:2")), patience).await).await;
    let failure = applied.unwrap_err();
    assert!(
        failure.message.contains("field is immutable") && failure.facts[0].contains("somebody else's"),
        "{failure:?}"
    );
    assert_eq!(w.api::<Job>().get("check").await.unwrap().uid(), first);
}

#[tokio::test(start_paused = true)]
async fn a_kept_world_goes_on_where_it_was() {
    let w = world().await;
    w.apply(&deployment("web", 2, "100m")).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let kept = serde_json::to_string(&w.store.snapshot()).unwrap();
    let store = empty_store();
    store.restore(serde_json::from_str(&kept).unwrap());
    controllers::start(&store, Arc::new(Fates::default()));
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(
        serde_json::to_value(store.snapshot()).unwrap()["objects"],
        serde_json::from_str::<Value>(&kept).unwrap()["objects"]
    );
    let objects: Vec<DynamicObject> = parse("test", &deployment("web", 3, "100m")).unwrap();
    Cluster::new(api::client(&store)).apply_one(&objects[0], false).await.unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(store.list("v1", "Pod", Some("default")).iter().filter(|pod| controllers::is_ready(pod)).count(), 3);
}

#[test]
fn every_rehearsal_is_the_same() {
    let history = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let w = world().await;
            w.apply(&format!("{}---\n{}---\n{DRIVER}", deployment("web", 3, "100m"), deployment("big", 5, "500m")))
                .await;
            tokio::time::sleep(Duration::from_secs(30)).await;
            w.delete(&deployment("web", 3, "100m")).await;
            serde_json::to_string(&w.store.snapshot()).unwrap()
        })
    };
    assert_eq!(history(), history());
}
