//! What the API server answers.

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Node, Pod, Secret, ServiceAccount};
use kube::api::{DeleteParams, ListParams, LogParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tokio::time::Duration;

use super::{configmap, deployment, empty_store, status_of, world};
use crate::kube::{Cluster, parse};
use crate::rehearsal::clusters::Clusters;
use crate::rehearsal::object::set;
use crate::rehearsal::store::{Key, Propagation};
use crate::rehearsal::{api, controllers};
use crate::world::Connector;

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

/// As recorded: no `Status`, but a page for people.
#[tokio::test(start_paused = true)]
async fn a_path_that_is_not_served_is_a_bare_page() {
    let w = world().await;
    let ask = |path: &str| w.client.request_text(http::Request::get(path).body(Vec::new()).unwrap());
    let kube::Error::Api(status) = ask("/apis/no-such.example/v1/things/one").await.unwrap_err() else {
        panic!("served")
    };
    assert_eq!((status.code, status.message.as_str()), (404, "404 page not found"));
    assert_ne!(status.reason, "NotFound", "only the server's own Status says so");
    let kube::Error::Api(status) = ask("/api/v1/namespaces/no-such").await.unwrap_err() else { panic!("served") };
    assert_eq!((status.code, status.reason.as_str()), (404, "NotFound"));
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

const SPIFFE_ID: &str =
    "apiVersion: spire.spiffe.io/v1alpha1\nkind: ClusterSPIFFEID\nmetadata: {name: d}\nspec: {className: x}\n";

const CRD: &str = "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: clusterspiffeids.spire.spiffe.io}\n\
    spec:\n  group: spire.spiffe.io\n  scope: Cluster\n  names: {kind: ClusterSPIFFEID, plural: clusterspiffeids}\n  versions: [{name: v1alpha1, served: true, storage: true}]\n";

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

#[tokio::test(start_paused = true)]
async fn what_does_not_carry_the_labs_label_is_not_removed() {
    let w = world().await;
    let own = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: own, namespace: default}\n";
    let foreign = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: foreign, namespace: default}\n";
    w.apply(own).await;
    w.patient(30, async |patience| w.cluster.apply(&parse("test", foreign).unwrap(), patience).await).await.unwrap();
    w.delete(own).await;
    w.delete(foreign).await;
    let api = w.api::<ConfigMap>();
    assert!(api.get_opt("own").await.unwrap().is_none());
    assert!(api.get_opt("foreign").await.unwrap().is_some());
}
