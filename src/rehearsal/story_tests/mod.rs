//! The world played from outside, by the adapters that `coastal` speaks through.

mod charts;
mod lab;
mod rotation;
mod tools;
mod upgrade;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use semver::Version;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::api::{self, Part, WriteOptions};
use super::controllers::is_ready;
use super::faults::Fault;
use super::object::{condition, text};
use super::store::{Key, Propagation, Store};
use super::{Begin, Options, Rehearsal};
use crate::tools::helm::{self, Helm};
use crate::tools::{Command, CommandError, CommandIo, Output, Target, Tool, docker, kind, kubectl};
use crate::workload::updates_in;

const MINUTES: Duration = Duration::from_secs(300);
const MARKER: (&str, &str) = ("coastal-containers.example/lab", "day-two");

/// A world, and a directory for the files of its lab.
struct Scene {
    rehearsal: Rehearsal,
    directory: TempDir,
}

impl Scene {
    fn new(faults: &[&str]) -> Self {
        let faults = faults.iter().map(|fault| Fault::parse(fault).unwrap()).collect();
        let rehearsal = Rehearsal::new(Options { faults, ..Options::default() }).unwrap();
        Scene { rehearsal, directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn target(&self) -> Target {
        Target { kubeconfig: self.path("kubeconfig"), context: "kind-kind".into() }
    }

    fn helm(&self) -> Helm {
        Helm {
            repositories: self.path("helm/repositories.yaml"),
            cache: self.path("helm/cache"),
            target: self.target(),
        }
    }

    fn store(&self) -> Store {
        self.rehearsal.store("kind").unwrap()
    }

    async fn run(&self, command: &Command) -> Result<Output, CommandError> {
        let cancel = CancellationToken::new();
        self.rehearsal.world().runner.run(command, CommandIo { on_line: &|_, _| {}, cancel: &cancel }).await
    }

    async fn says(&self, command: &Command) -> String {
        self.run(command).await.unwrap().stdout
    }

    /// What it prints on standard error when it ends with a code.
    async fn fails(&self, command: &Command) -> String {
        match self.run(command).await {
            Err(CommandError::Exit { output, .. }) => output.stderr,
            other => panic!("{}: {other:?}", command.line()),
        }
    }

    async fn create_cluster(&self) {
        let config = kind::cluster_config("kind", 8080, 8443, MARKER);
        self.run(&kind::create_cluster("kind", config, &self.path("kubeconfig"), None, MINUTES)).await.unwrap();
    }

    async fn with_cluster(faults: &[&str]) -> Self {
        let scene = Scene::new(faults);
        scene.create_cluster().await;
        scene
    }

    /// Namespaces and data store, as the lab's manifests make them.
    fn prepare(&self) {
        for (name, level) in [("spire-server", "restricted"), ("spire-system", "privileged")] {
            self.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"pod-security.kubernetes.io/enforce": level}}}));
        }
        for object in database() {
            self.apply(&object);
        }
    }

    fn apply(&self, object: &Value) {
        let options = WriteOptions { manager: "coastal", force: true, dry_run: false };
        api::apply(&self.store(), object, Part::Main, options).unwrap();
    }

    async fn pull(&self) -> PathBuf {
        self.run(&self.helm().repo_add("spiffe", "https://spiffe.github.io/helm-charts/")).await.unwrap();
        self.chart("spiffe/spire", "0.13.0").await
    }

    /// Downloads a chart of a repository that is known.
    async fn chart(&self, chart: &str, version: &str) -> PathBuf {
        let version = Version::parse(version).unwrap();
        self.run(&self.helm().pull(chart, &version, self.directory.path(), MINUTES)).await.unwrap();
        self.path(&helm::archive_name(chart, &version))
    }

    async fn install_spire(&self) -> Result<Output, CommandError> {
        let chart = self.pull().await;
        self.run(&self.helm().upgrade_install("spire", "default", &chart, values().to_string(), MINUTES)).await
    }

    /// Waits for `look`; panics after a quarter of an hour of the world's time.
    async fn until<T>(&self, look: impl Fn(&Store) -> Option<T>) -> T {
        let store = self.store();
        let mut ticks = store.ticks();
        let waiting = async {
            loop {
                if let Some(found) = look(&store) {
                    return found;
                }
                ticks.changed().await.unwrap();
            }
        };
        match timeout(Duration::from_secs(900), waiting).await {
            Ok(found) => found,
            Err(elapsed) => panic!("{elapsed}; the pods: {:#?}", pods_of(&store)),
        }
    }

    async fn until_ready(&self, namespace: &str, pod: &str) {
        let key = Key::pod(namespace, pod);
        self.until(|store| store.get(&key).filter(is_ready)).await;
    }
}

fn pods_of(store: &Store) -> Vec<String> {
    let pods = store.list("v1", "Pod", None);
    pods.iter()
        .map(|pod| format!("{} {} {}", text(pod, "/metadata/name"), is_ready(pod), pod["status"]["containerStatuses"]))
        .collect()
}

fn values() -> Value {
    let restricted = json!({"allowPrivilegeEscalation": false, "runAsNonRoot": true, "readOnlyRootFilesystem": true,
        "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}});
    let user = json!({"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000});
    json!({
        "global": {"spire": {"clusterName": "kind-kind", "trustDomain": "coastal-containers.example"}},
        "spire-server": {
            "namespaceOverride": "spire-server", "replicaCount": 3, "image": {"tag": "1.7.2"}, "podSecurityContext": user,
            "securityContext": restricted, "notifier": {"k8sbundle": {"namespace": "spire-system"}},
            "dataStore": {"sql": {"databaseType": "postgres", "host": "spire-db", "port": 5432, "password": "sesame"}},
            "controllerManager": {"securityContext": restricted}, "tornjak": {"enabled": true},
            "tests": {"bash": {"image": {"tag": "5.2"}}},
        },
        "spire-agent": {"namespaceOverride": "spire-system", "podSecurityContext": user, "fsGroupFix": {"image": {"pullPolicy": "IfNotPresent"}}},
        "spiffe-csi-driver": {"namespaceOverride": "spire-system"},
        "tornjak-frontend": {"enabled": true, "namespaceOverride": "spire-server", "podSecurityContext": user, "securityContext": restricted,
            "tests": {"bash": {"image": {"tag": "5.2"}}}},
    })
}

fn database() -> Vec<Value> {
    let labels = json!({"app": "spire-db"});
    let metadata = json!({"name": "spire-db", "namespace": "spire-server", "labels": labels});
    let secret = |key: &str| json!({"valueFrom": {"secretKeyRef": {"name": "spire-db", "key": key}}});
    let mut password = secret("password");
    password["name"] = "POSTGRES_PASSWORD".into();
    let security = json!({"allowPrivilegeEscalation": false, "runAsNonRoot": true, "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}});
    vec![
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": {"password": "c2VzYW1l"}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"selector": labels, "ports": [{"port": 5432}]}}),
        json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": metadata, "spec": {
            "serviceName": "spire-db", "replicas": 1, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{
                "name": "postgres", "image": "postgres:16", "env": [password], "securityContext": security,
                "readinessProbe": {"exec": {"command": ["pg_isready"]}, "periodSeconds": 2},
            }]}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}],
        }}),
    ]
}

fn workload(replicas: u32) -> Vec<Value> {
    let metadata = json!({"name": "workload", "namespace": "default"});
    let labels = json!({"app": "workload"});
    vec![
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}),
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": {
            "replicas": replicas, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {
                "serviceAccountName": "workload",
                "containers": [{"name": "workload", "image": "ghcr.io/spiffe/spire-agent:1.7.2",
                    "volumeMounts": [{"name": "spiffe", "mountPath": "/spiffe-workload-api"}]}],
                "volumes": [{"name": "spiffe", "csi": {"driver": "csi.spiffe.io", "readOnly": true}}],
            }},
        }}),
    ]
}

/// The workload's pods and their logs.
fn logs(store: &Store) -> Vec<(Value, String)> {
    let pods = store
        .list("v1", "Pod", Some("default"))
        .into_iter()
        .filter(|pod| text(pod, "/metadata/labels/app") == "workload");
    pods.map(|pod| {
        let lines = store.logs(&Key::of(&pod), "workload", false).unwrap_or_default();
        let log = lines.into_iter().map(|(_, line)| line + "\n").collect();
        (pod, log)
    })
    .collect()
}
