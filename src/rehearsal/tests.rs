//! The cluster seen through our own client code and through plain `kube`, in virtual time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{
    ConfigMap, Event, Namespace, Node, PersistentVolumeClaim, Pod, Secret, ServiceAccount,
};
use kube::api::{DeleteParams, ListParams, LogParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::core::DynamicObject;
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use super::api;
use super::clusters::Clusters;
use super::controllers::{self, Crash, ImageError, Kubelet, PodFate, Probe, Readiness};
use super::object::{set, text};
use super::store::{Key, Propagation, Store};
use crate::kube::{Cluster, Judgement, Patience, describe_pod, parse};
use crate::world::Connector;

/// Fates by the name of the pod's first container.
#[derive(Default)]
struct Fates(Mutex<BTreeMap<String, PodFate>>);

impl Fates {
    fn set(&self, container: &str, fate: PodFate) {
        self.0.lock().unwrap().insert(container.to_owned(), fate);
    }
}

impl Kubelet for Fates {
    fn start(&self, pod: &Value) -> PodFate {
        self.0.lock().unwrap().get(text(pod, "/spec/containers/0/name")).cloned().unwrap_or_default()
    }

    fn probe(&self, pod: &Value) -> Probe {
        if text(pod, "/metadata/annotations/serves") == "yes" { Probe::Ready } else { Probe::NotReady }
    }
}

struct World {
    store: Store,
    cluster: Cluster,
    client: kube::Client,
    fates: Arc<Fates>,
    cancel: CancellationToken,
    heard: Arc<Mutex<Vec<String>>>,
}

fn empty_store() -> Store {
    let (base, start) = (jiff::Timestamp::from_second(1_700_000_000).unwrap(), Instant::now());
    Store::new(move || base + start.elapsed())
}

/// A cluster whose nodes are ready.
async fn world() -> World {
    let store = empty_store();
    let fates = Arc::new(Fates::default());
    controllers::start(&store, Arc::clone(&fates) as Arc<dyn Kubelet>);
    controllers::seed_cluster(&store, "kind", &BTreeMap::new());
    let client = api::client(&store);
    tokio::time::sleep(Duration::from_secs(20)).await;
    let cluster = Cluster::new(client.clone());
    World { store, cluster, client, fates, cancel: CancellationToken::new(), heard: Arc::default() }
}

impl World {
    async fn patient<T>(&self, seconds: u64, what: impl AsyncFnOnce(&Patience<'_>) -> T) -> T {
        let heard = Arc::clone(&self.heard);
        let progress = move |line| heard.lock().unwrap().push(line);
        what(&Patience {
            deadline: Instant::now() + Duration::from_secs(seconds),
            cancel: &self.cancel,
            progress: &progress,
        })
        .await
    }

    async fn apply(&self, text: &str) {
        self.patient(30, async |patience| self.cluster.apply(&parse("test", text).unwrap(), patience).await)
            .await
            .unwrap();
    }

    async fn delete(&self, text: &str) {
        self.patient(60, async |patience| {
            self.cluster.delete(&parse("test", text).unwrap(), &|_| true, patience).await
        })
        .await
        .unwrap();
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), "default")
    }

    async fn pods(&self, selector: &str) -> Vec<Pod> {
        self.api::<Pod>().list(&ListParams::default().labels(selector)).await.unwrap().items
    }
}

fn deployment(name: &str, replicas: u32, cpu: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}, namespace: default}}\nspec:\n  replicas: {replicas}\n  \
         selector: {{matchLabels: {{app: {name}}}}}\n  template:\n    metadata: {{labels: {{app: {name}}}}}\n    \
         spec: {{containers: [{{name: {name}, image: 'x:1', resources: {{requests: {{cpu: {cpu}}}}}}}]}}\n"
    )
}

fn configmap(name: &str, namespace: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name, "namespace": namespace}, "data": {"k": "v"}})).unwrap()
}

fn status_of<T: std::fmt::Debug>(result: Result<T, kube::Error>) -> (u16, String, String) {
    match result.unwrap_err() {
        kube::Error::Api(status) => (status.code, status.reason.clone(), status.message.clone()),
        other => panic!("{other}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_fresh_cluster_has_ready_nodes_and_serves_its_kinds() {
    let w = world().await;
    let nodes = Api::<Node>::all(w.client.clone()).list(&ListParams::default()).await.unwrap().items;
    let ids: Vec<_> = nodes.iter().map(|node| node.spec.clone().unwrap().provider_id.unwrap()).collect();
    assert_eq!(ids, ["kind://docker/kind/kind-control-plane", "kind://docker/kind/kind-worker"]);
    assert_eq!(w.client.apiserver_version().await.unwrap().git_version, "v1.32.3");
    let system = Api::<Deployment>::namespaced(w.client.clone(), "kube-system").get("coredns").await.unwrap();
    assert_eq!(system.status.unwrap().ready_replicas, Some(2));
    assert!(w.api::<ServiceAccount>().get_opt("default").await.unwrap().is_some());
}

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
async fn refusals_in_the_servers_words() {
    let w = world().await;
    let api = w.api::<ConfigMap>();
    api.create(&PostParams::default(), &configmap("a", "default")).await.unwrap();
    assert_eq!(
        status_of(api.create(&PostParams::default(), &configmap("a", "default")).await),
        (409, "AlreadyExists".into(), "configmaps \"a\" already exists".into())
    );
    assert_eq!(status_of(api.get("b").await), (404, "NotFound".into(), "configmaps \"b\" not found".into()));
    let elsewhere = Api::<ConfigMap>::namespaced(w.client.clone(), "no");
    assert_eq!(
        status_of(elsewhere.create(&PostParams::default(), &configmap("a", "no")).await),
        (404, "NotFound".into(), "namespaces \"no\" not found".into())
    );
    let stale = api.get("a").await.unwrap();
    api.patch("a", &PatchParams::default(), &Patch::Merge(json!({"data": {"k": "w"}}))).await.unwrap();
    let (code, reason, message) = status_of(api.replace("a", &PostParams::default(), &stale).await);
    assert_eq!((code, reason.as_str()), (409, "Conflict"));
    assert_eq!(
        message,
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again"
    );
    w.apply(&deployment("web", 1, "100m")).await;
    let (code, reason, message) = status_of(w.api::<Deployment>().patch("web", &PatchParams::default(),
        &Patch::Merge(json!({"spec": {"selector": {"matchLabels": {"app": "other"}}, "template": {"metadata": {"labels": {"app": "other"}}}}}))).await);
    assert_eq!((code, reason.as_str()), (422, "Invalid"));
    assert!(message.starts_with("Deployment.apps \"web\" is invalid: spec.selector: Invalid value: "), "{message}");
    let unknown = w
        .client
        .request::<Value>(http::Request::get("/api/v1/namespaces/default/podtemplates").body(vec![]).unwrap())
        .await;
    let (code, _, message) = status_of(unknown);
    assert_eq!(
        (code, message.as_str()),
        (501, "the rehearsal does not know GET /api/v1/namespaces/default/podtemplates")
    );
    let strict = Patch::Apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "dat": {}}));
    let (_, _, message) = status_of(api.patch("a", &PatchParams::apply("coastal").validation_strict(), &strict).await);
    assert_eq!(
        message,
        "failed to create typed patch object (default/a; v1, Kind=ConfigMap): .dat: field not declared in schema"
    );
}

#[tokio::test(start_paused = true)]
async fn server_side_apply_owns_what_it_applied() {
    let w = world().await;
    let api = w.api::<ConfigMap>();
    let apply = |manager: &'static str, data: Value, force: bool| {
        let params = if force { PatchParams::apply(manager).force() } else { PatchParams::apply(manager) };
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data});
        let api = api.clone();
        async move { api.patch("a", &params, &Patch::Apply(object)).await }
    };
    apply("one", json!({"a": "1", "b": "2"}), false).await.unwrap();
    apply("two", json!({"c": "3"}), false).await.unwrap();
    let (code, _, message) = status_of(apply("two", json!({"a": "9", "c": "3"}), false).await);
    assert_eq!((code, message.as_str()), (409, "Apply failed with 1 conflict: conflict with \"one\": .data.a"));
    let after = apply("one", json!({"a": "1"}), false).await.unwrap();
    assert_eq!(
        after.data.unwrap().into_iter().collect::<Vec<_>>(),
        [("a".into(), "1".into()), ("c".into(), "3".into())]
    );
    let dry = api
        .patch("a", &PatchParams::apply("one").dry_run().force(), &Patch::Apply(configmap("a", "default")))
        .await
        .unwrap();
    assert!(dry.data.unwrap().contains_key("k"));
    assert!(!api.get("a").await.unwrap().data.unwrap().contains_key("k"), "a dry run changes nothing");
    let secrets = w.api::<Secret>();
    let plain = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"p": "x"}});
    let secret = secrets.patch("s", &PatchParams::apply("one"), &Patch::Apply(plain)).await.unwrap();
    assert_eq!(secret.data.unwrap()["p"].0, b"x");
}

#[tokio::test(start_paused = true)]
async fn watches_follow_selections_resume_and_expire() {
    let w = world().await;
    let api = w.api::<ConfigMap>();
    let version = api.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let mut labelled = configmap("a", "default");
    labelled.metadata.labels = Some(BTreeMap::from([("app".into(), "x".into())]));
    api.create(&PostParams::default(), &labelled).await.unwrap();
    api.create(&PostParams::default(), &configmap("b", "default")).await.unwrap();
    let relabel = json!({"metadata": {"labels": {"app": "y"}}});
    api.patch("a", &PatchParams::default(), &Patch::Merge(relabel)).await.unwrap();
    let params = WatchParams::default().labels("app=x").timeout(200);
    let seen: Vec<_> = api
        .watch(&params, &version)
        .await
        .unwrap()
        .map_ok(|event| match event {
            WatchEvent::Added(o) => format!("added {}", o.name_any()),
            WatchEvent::Deleted(o) => format!("deleted {}", o.name_any()),
            WatchEvent::Bookmark(_) => "bookmark".into(),
            other => format!("{other:?}"),
        })
        .try_collect()
        .await
        .unwrap();
    assert_eq!(
        seen,
        ["added a", "deleted a", "bookmark", "bookmark", "bookmark"],
        "and the server ended the watch in time"
    );
    w.store.compact();
    w.store.upsert(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "default", "name": "c"}}));
    let mut old = Box::pin(api.watch(&WatchParams::default(), &version).await.unwrap());
    match old.next().await.unwrap().unwrap() {
        WatchEvent::Error(status) => assert_eq!((status.code, status.reason.as_str()), (410, "Expired")),
        other => panic!("{other:?}"),
    }
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        let mut events = Box::pin(watcher(api.clone(), config));
        let mut names = Vec::new();
        loop {
            match events.try_next().await.unwrap().unwrap() {
                watcher::Event::InitApply(object) => names.push(object.name_any()),
                watcher::Event::InitDone => break,
                _ => {}
            }
        }
        assert_eq!(names, ["a", "b", "c", "kube-root-ca.crt"]);
        api.patch("b", &PatchParams::default(), &Patch::Merge(json!({"data": {"k": names.len().to_string()}})))
            .await
            .unwrap();
        w.store.update(&Key::new("v1", "ConfigMap", "default", "b"), |b| set(b, "/data/k", "again"));
        let watcher::Event::Apply(object) = events.try_next().await.unwrap().unwrap() else { panic!("not an apply") };
        assert_eq!(object.name_any(), "b");
    }
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
    let mut objects = parse("test", &deployment("web", 1, "100m")).unwrap();
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
    let failure =
        w.patient(60, async |patience| w.cluster.delete(&objects, &|_| true, patience).await).await.unwrap_err();
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
    let failure = w.patient(300, async |patience| w.cluster.until_doomed(&["default"], patience).await).await;
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

#[tokio::test(start_paused = true)]
async fn a_namespace_takes_its_content_and_admits_nothing_meanwhile() {
    let w = world().await;
    w.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: lab}\n").await;
    w.apply(&deployment("web", 2, "100m").replace("namespace: default", "namespace: lab")).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let namespaces = Api::<Namespace>::all(w.client.clone());
    namespaces.delete("lab", &DeleteParams::default()).await.unwrap();
    assert_eq!(namespaces.get("lab").await.unwrap().status.unwrap().phase.as_deref(), Some("Terminating"));
    let inside = Api::<ConfigMap>::namespaced(w.client.clone(), "lab");
    assert_eq!(
        status_of(inside.create(&PostParams::default(), &configmap("a", "lab")).await),
        (403, "Forbidden".into(), "configmaps \"a\" is forbidden: unable to create new content in namespace lab because it is being terminated".into())
    );
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(namespaces.get_opt("lab").await.unwrap().is_none());
    assert!(w.store.select(|key, _| key.namespace() == "lab").is_empty());
}

const CRD: &str = "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: clusterspiffeids.spire.spiffe.io}\n\
    spec:\n  group: spire.spiffe.io\n  scope: Cluster\n  names: {kind: ClusterSPIFFEID, plural: clusterspiffeids}\n  versions: [{name: v1alpha1, served: true, storage: true}]\n";
const SPIFFE_ID: &str =
    "apiVersion: spire.spiffe.io/v1alpha1\nkind: ClusterSPIFFEID\nmetadata: {name: d}\nspec: {className: x}\n";

#[tokio::test(start_paused = true)]
async fn definitions_add_kinds_and_take_their_instances_with_them() {
    let w = world().await;
    let failure = w.cluster.apply_one(&parse("test", SPIFFE_ID).unwrap()[0], false).await.unwrap_err();
    assert!(failure.message.contains("does not know the kind ClusterSPIFFEID"), "{}", failure.message);
    w.apply(&format!("{CRD}---\n{SPIFFE_ID}")).await;
    assert_eq!(w.store.list("spire.spiffe.io/v1alpha1", "ClusterSPIFFEID", None).len(), 1);
    w.delete(CRD).await;
    assert!(w.store.list("spire.spiffe.io/v1alpha1", "ClusterSPIFFEID", None).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_webhook_refuses_until_its_server_answers() {
    let w = world().await;
    w.apply(CRD).await;
    w.apply("apiVersion: v1\nkind: Service\nmetadata: {name: hook, namespace: default}\nspec: {clusterIP: 10.96.9.9, selector: {app: hook}, ports: [{port: 443, targetPort: 9443}]}\n---\n\
        apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingWebhookConfiguration\nmetadata: {name: hook}\nwebhooks:\n\
        - name: vclusterspiffeid.kb.io\n  failurePolicy: Fail\n  clientConfig: {service: {name: hook, namespace: default, path: /validate}}\n  \
        rules: [{apiGroups: [spire.spiffe.io], apiVersions: [v1alpha1], operations: [CREATE, UPDATE], resources: [clusterspiffeids]}]\n").await;
    let object = &parse("test", SPIFFE_ID).unwrap()[0];
    let failure = w.cluster.apply_one(object, true).await.unwrap_err();
    assert!(failure.message.ends_with(
        "Internal error occurred: failed calling webhook \"vclusterspiffeid.kb.io\": failed to call webhook: Post \"https://hook.default.svc:443/validate?timeout=10s\": dial tcp 10.96.9.9:443: connect: connection refused"
    ), "{}", failure.message);
    w.apply(&deployment("hook", 1, "100m")).await;
    let ready =
        async || w.pods("app=hook").await.iter().any(|pod| controllers::is_ready(&serde_json::to_value(pod).unwrap()));
    while !ready().await {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(w.cluster.apply_one(object, true).await.is_err(), "Ready, and not answering yet");
    tokio::time::sleep(Duration::from_secs(4)).await;
    w.cluster.apply_one(object, true).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_restricted_namespace_refuses_pods_that_want_more() {
    let w = world().await;
    w.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: strict, labels: {pod-security.kubernetes.io/enforce: restricted}}\n").await;
    w.apply(&deployment("web", 1, "100m").replace("namespace: default", "namespace: strict")).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let events = Api::<Event>::namespaced(w.client.clone(), "strict")
        .list(&ListParams::default().fields("reason=FailedCreate"))
        .await
        .unwrap();
    let message = events.items[0].message.clone().unwrap();
    assert!(
        message.contains(
            "violates PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false (container \"web\" must set"
        ),
        "{message}"
    );
}

#[tokio::test(start_paused = true)]
async fn deletion_propagates_as_asked() {
    let w = world().await;
    let rs = |name: &str| Key::new("apps/v1", "Deployment", "default", name);
    for (name, propagation, left) in [
        ("orphaned", Propagation::Orphan, 1),
        ("background", Propagation::Background, 0),
        ("foreground", Propagation::Foreground, 0),
    ] {
        w.apply(&deployment(name, 1, "10m")).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        w.store.delete(&rs(name), propagation);
        assert_eq!(w.store.get(&rs(name)).is_some(), propagation == Propagation::Foreground, "{name}");
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(w.store.get(&rs(name)).is_none());
        assert_eq!(w.pods(&format!("app={name}")).await.len(), left, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn logs_are_followed_filtered_and_refused() {
    let w = world().await;
    w.apply(&deployment("web", 1, "100m")).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (name, api) = (w.pods("app=web").await[0].name_any(), w.api::<Pod>());
    for line in ["one", "two", "three"] {
        w.store.append_log("default", &name, "web", line);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let tail =
        api.logs(&name, &LogParams { tail_lines: Some(1), timestamps: true, ..LogParams::default() }).await.unwrap();
    assert_eq!(tail, "2023-11-14T22:13:47.000000000Z three\n");
    let mut follow = {
        use futures::AsyncBufReadExt;
        let params = LogParams { follow: true, tail_lines: Some(1), ..LogParams::default() };
        Box::pin(api.log_stream(&name, &params).await.unwrap().lines())
    };
    assert_eq!(follow.next().await.unwrap().unwrap(), "three");
    w.store.append_log("default", &name, "web", "four");
    assert_eq!(follow.next().await.unwrap().unwrap(), "four");
    let (code, _, message) =
        status_of(api.logs(&name, &LogParams { container: Some("x".into()), ..LogParams::default() }).await);
    assert_eq!((code, message), (400, format!("container x is not valid for pod {name}")));
}

#[tokio::test(start_paused = true)]
async fn the_connector_reaches_only_clusters_that_are_there() {
    let clusters = Clusters::default();
    let connector = api::RehearsalConnector::new(clusters.clone());
    let kubeconfig = "apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: 'https://127.0.0.1:40001'}}]\n\
        contexts: [{name: kind-kind, context: {cluster: c, user: u}}]\nusers: [{name: u, user: {}}]\n";
    assert!(connector.connect(kubeconfig, "other").await.is_err());
    let client = connector.connect(kubeconfig, "kind-kind").await.unwrap();
    let reach = async || {
        Cluster::new(client.clone())
            .difference(&parse("x", "apiVersion: v1\nkind: Namespace\nmetadata: {name: default}\n").unwrap())
            .await
    };
    let refused = reach().await.unwrap_err().message;
    assert!(refused.contains("Connection refused"), "{refused}");
    let store = empty_store();
    controllers::seed_cluster(&store, "kind", &BTreeMap::new());
    clusters.insert("https://127.0.0.1:40001", store);
    assert_eq!(reach().await.unwrap(), None);
    let nodes = Api::<Node>::all(client.clone());
    let mut watch = Box::pin(nodes.watch(&WatchParams::default(), "0").await.unwrap());
    watch.next().await.unwrap().unwrap();
    watch.next().await.unwrap().unwrap();
    clusters.remove("https://127.0.0.1:40001");
    assert!(watch.next().await.is_none_or(|event| event.is_err()), "the connection breaks");
    assert!(reach().await.is_err());
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

#[tokio::test(start_paused = true)]
async fn a_value_of_the_wrong_type_is_refused() {
    let w = world().await;
    let mut objects = parse("test", &deployment("web", 1, "100m")).unwrap();
    objects[0].data["spec"]["template"]["spec"]["volumes"] =
        json!([{"name": "c", "configMap": {"name": "c", "defaultMode": "0644"}}]);
    let failure = w.cluster.apply_one(&objects[0], true).await.unwrap_err();
    assert!(
        failure
            .message
            .contains("failed to create typed patch object (default/web; apps/v1, Kind=Deployment): invalid type"),
        "{}",
        failure.message
    );
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
