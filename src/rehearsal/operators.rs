//! Programs in the cluster that make objects: what jobs leave behind, the Prometheus operator, cert-manager.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::object::{condition, items, set, set_condition, text};
use super::store::{Change, ChangeKind, Key, Propagation, Store};

/// Follows one change.
pub(super) fn follow(store: &Store, change: &Change) {
    if change.key.kind == "Job" && change.kind != ChangeKind::Deleted && condition(&change.object, "Complete") {
        job_done(store, &change.object);
    }
}

/// What a job leaves behind when it is complete.
fn job_done(store: &Store, job: &Value) {
    let namespace = text(job, "/metadata/namespace");
    let Some(container) = job.pointer("/spec/template/spec/containers/0") else { return };
    let args: Vec<&str> =
        items(container, "/args").chain(items(container, "/command")).filter_map(Value::as_str).collect();
    let after = |flag: &str| args.iter().find_map(|arg| arg.strip_prefix(flag));
    let image = text(container, "/image");
    if image.contains("projectcontour/contour") && args.contains(&"certgen") {
        for name in ["contourcert", "envoycert"] {
            tls_secret(store, namespace, name, &["ca.crt", "tls.crt", "tls.key"]);
        }
    } else if image.contains("kube-webhook-certgen") && args.contains(&"create") {
        tls_secret(store, namespace, after("--secret-name=").unwrap_or_default(), &["ca", "cert", "key"]);
    } else if let ["delete", "daemonset", name, "-n", namespace] = args.as_slice() {
        store.delete(&Key::new("apps/v1", "DaemonSet", namespace, name), Propagation::Background);
    } else if image.contains("kubectl")
        && let ["patch", "validatingwebhookconfiguration", name, .., patch] = args.as_slice()
    {
        let patch: Value = serde_json::from_str(patch).unwrap_or_default();
        store.update(
            &Key::new("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", "", name),
            |object| {
                for webhook in object["webhooks"].as_array_mut().into_iter().flatten() {
                    if let Some(over) = items(&patch, "/webhooks").find(|over| over["name"] == webhook["name"]) {
                        webhook["failurePolicy"] = over["failurePolicy"].clone();
                    }
                }
            },
        );
    }
}

fn tls_secret(store: &Store, namespace: &str, name: &str, keys: &[&str]) {
    let data: Value = keys
        .iter()
        .map(|key| ((*key).to_owned(), Value::from(BASE64.encode("rehearsal"))))
        .collect::<serde_json::Map<_, _>>()
        .into();
    store.upsert(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace}, "type": "Opaque", "data": data}));
}

/// Brings about what the operators' objects ask for.
pub(super) fn pass(store: &Store) {
    if let Some(operator) = available(store, "prometheus-operator/prometheus-operator") {
        for kind in ["Prometheus", "Alertmanager"] {
            for object in store.list("monitoring.coreos.com/v1", kind, None) {
                stateful_set(store, kind, &object);
            }
        }
        kubelet_service(store, &operator);
    }
    if available(store, "cert-manager-controller").is_some() {
        for kind in ["ClusterIssuer", "Issuer"] {
            for issuer in
                store.list("cert-manager.io/v1", kind, None).iter().filter(|issuer| !condition(issuer, "Ready"))
            {
                let now = store.timestamp();
                store.update(&Key::of(issuer), |issuer| set_condition(issuer, "Ready", true, "IsReady", "", &now));
            }
        }
    }
}

/// The Deployment that runs that image, if it is available.
fn available(store: &Store, image: &str) -> Option<Value> {
    let deployments = store.list_shared("apps/v1", "Deployment", None);
    let runs =
        |object: &Value| items(object, "/spec/template/spec/containers").any(|c| text(c, "/image").contains(image));
    deployments.iter().find(|object| runs(object) && condition(object, "Available")).map(|object| Value::clone(object))
}

/// As the Prometheus operator names them: `prometheus-NAME` and `alertmanager-NAME`, owned by their object.
fn stateful_set(store: &Store, kind: &str, object: &Value) {
    let word = kind.to_lowercase();
    let (name, namespace) = (text(object, "/metadata/name"), text(object, "/metadata/namespace"));
    let key = Key::new("apps/v1", "StatefulSet", namespace, &format!("{word}-{name}"));
    if store.get(&key).is_some() || object.pointer("/metadata/deletionTimestamp").is_some() {
        return;
    }
    let mut labels = json!({"app.kubernetes.io/name": word, "app.kubernetes.io/managed-by": "prometheus-operator"});
    set(&mut labels, &format!("/{word}"), name);
    let owner = json!([{
        "apiVersion": object["apiVersion"], "kind": kind, "name": name, "uid": object["metadata"]["uid"], "controller": true, "blockOwnerDeletion": true,
    }]);
    let port = if kind == "Prometheus" { 9090 } else { 9093 };
    let reloader = "quay.io/prometheus-operator/prometheus-config-reloader:v0.68.0";
    let service = format!("{word}-operated");
    store.upsert(json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": service, "namespace": namespace, "labels": {"operated-prometheus": "true"}, "ownerReferences": owner},
        "spec": {"clusterIP": "None", "selector": {"app.kubernetes.io/name": word}, "ports": [{"name": "http-web", "port": port, "targetPort": port}]},
    }));
    store.upsert(json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": {"name": key.name, "namespace": namespace, "labels": labels, "ownerReferences": owner},
        "spec": {
            "replicas": object["spec"]["replicas"], "serviceName": service, "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {
                "serviceAccountName": object["spec"]["serviceAccountName"],
                "containers": [
                    {"name": word, "image": object["spec"]["image"], "imagePullPolicy": "IfNotPresent", "ports": [{"name": "http-web", "containerPort": port}],
                        "readinessProbe": {"httpGet": {"path": "/-/ready", "port": "http-web"}, "periodSeconds": 5}},
                    {"name": "config-reloader", "image": reloader, "imagePullPolicy": "IfNotPresent"},
                ],
            }},
        },
    }));
}

/// The Service that uninstalling leaves behind, because helm does not know of it.
fn kubelet_service(store: &Store, operator: &Value) {
    let args = items(operator, "/spec/template/spec/containers")
        .flat_map(|container| items(container, "/args"))
        .filter_map(Value::as_str);
    for (namespace, name) in args.filter_map(|arg| arg.strip_prefix("--kubelet-service=")?.split_once('/')) {
        if store.get(&Key::new("v1", "Service", namespace, name)).is_none() {
            store.upsert(json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": {"name": name, "namespace": namespace, "labels": {"k8s-app": "kubelet", "app.kubernetes.io/managed-by": "prometheus-operator"}},
                "spec": {"clusterIP": "None", "ports": [{"name": "https-metrics", "port": 10250}]},
            }));
        }
    }
}
