//! The cluster seen through our own client code and through plain `kube`, in virtual time.

mod rollouts;
mod server;
mod workloads;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::Api;
use kube::api::ListParams;
use kube::core::DynamicObject;
use serde_json::{Value, json};
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use crate::config::embedded;
use crate::kube::{Cluster, Patience, label, parse};
use crate::rehearsal::controllers::{Kubelet, PodFate, Probe};
use crate::rehearsal::object::text;
use crate::rehearsal::store::Store;
use crate::rehearsal::{api, controllers};

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

/// The objects as a lab applies them: with its label.
fn marked(text: &str) -> Vec<DynamicObject> {
    let mut objects = parse("test", text).unwrap();
    for object in &mut objects {
        label(object, &embedded().unwrap());
    }
    objects
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
        self.patient(30, async |patience| self.cluster.apply(&marked(text), patience).await).await.unwrap();
    }

    async fn delete(&self, text: &str) {
        self.patient(60, async |patience| self.cluster.delete(&marked(text), &embedded().unwrap(), patience).await)
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
