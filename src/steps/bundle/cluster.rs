//! What of a bundle comes from the cluster: objects, events, logs; and the secrets that must not.

use std::collections::BTreeSet;
use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Event, Node, PersistentVolumeClaim, Pod, Secret, Service};
use kube::api::ListParams;
use kube::core::GroupVersionKind;
use kube::{Api, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Bundle;
use crate::config::{Lab, MaliciousSpec};
use crate::error::Failure;
use crate::kube::{Cluster, LogOf, api_failure, describe_pod};
use crate::redact::Redactor;

/// Bytes of each log that are kept, from its end.
const LOG: usize = 512 * 1024;
/// Keys of Secrets whose values are no secrets: they are names, and found everywhere.
const OPEN_KEYS: &[&str] =
    &["username", "user", "admin-user", "database", "dbname", "host", "port", "namespace", "ca.crt", "tls.crt", "type"];

fn namespaces(lab: &Lab) -> BTreeSet<String> {
    let spire = &lab.spire;
    let mut all = BTreeSet::from([
        spire.server_namespace.clone(),
        spire.system_namespace.clone(),
        spire.release_namespace.clone(),
        lab.workload.namespace.clone(),
        MaliciousSpec::NAMESPACE.to_owned(),
    ]);
    all.extend(lab.monitoring.iter().map(|monitoring| monitoring.namespace.clone()));
    all
}

/// Objects, events and logs of the lab's namespaces.
pub(super) async fn collect(cluster: &Cluster, lab: &Lab, bundle: &mut Bundle) {
    bundle.take("cluster/nodes.yaml", yaml(&cluster.all::<Node>(), "nodes").await);
    for kind in ["ClusterSPIFFEID", "ClusterStaticEntry"] {
        let gvk = GroupVersionKind::gvk("spire.spiffe.io", "v1alpha1", kind);
        match cluster.dynamic(&gvk, None).await {
            Ok(Some(api)) => bundle.take(&format!("cluster/{kind}.yaml"), yaml(&api, kind).await),
            // A lab whose SPIRE is not installed does not know the kind.
            Ok(None) => {}
            Err(failure) => bundle.missing.push(format!("cluster/{kind}.yaml: {}", failure.message)),
        }
    }
    for namespace in namespaces(lab) {
        of_namespace(cluster, &namespace, bundle).await;
    }
}

async fn of_namespace(cluster: &Cluster, namespace: &str, bundle: &mut Bundle) {
    let place = |file: &str| format!("cluster/{namespace}/{file}");
    let pods = list(&cluster.namespaced::<Pod>(namespace), "pods").await;
    let pods = match pods {
        Ok(pods) => pods,
        Err(failure) => {
            bundle.missing.push(format!("{}: {}", place("pods.yaml"), failure.message));
            Vec::new()
        }
    };
    bundle.take(&place("pods.txt"), Ok(pods.iter().map(|pod| describe_pod(pod) + "\n").collect::<String>()));
    bundle.take(&place("pods.yaml"), documents(&pods));
    for (file, found) in [
        ("statefulsets.yaml", yaml(&namespaced::<StatefulSet>(cluster, namespace), "statefulsets").await),
        ("daemonsets.yaml", yaml(&namespaced::<DaemonSet>(cluster, namespace), "daemonsets").await),
        ("deployments.yaml", yaml(&namespaced::<Deployment>(cluster, namespace), "deployments").await),
        ("services.yaml", yaml(&namespaced::<Service>(cluster, namespace), "services").await),
        ("configmaps.yaml", yaml(&namespaced::<ConfigMap>(cluster, namespace), "configmaps").await),
        ("claims.yaml", yaml(&namespaced::<PersistentVolumeClaim>(cluster, namespace), "claims").await),
        ("events.txt", events(cluster, namespace).await),
        ("secrets.txt", secret_names(cluster, namespace).await),
    ] {
        bundle.take(&place(file), found);
    }
    for pod in &pods {
        logs(cluster, namespace, pod, bundle).await;
    }
}

fn namespaced<K>(cluster: &Cluster, namespace: &str) -> Api<K>
where
    K: kube::Resource<Scope = NamespaceResourceScope>,
    K::DynamicType: Default,
{
    cluster.namespaced::<K>(namespace)
}

async fn list<K: Clone + Debug + DeserializeOwned>(api: &Api<K>, what: &str) -> Result<Vec<K>, Failure> {
    let list = api.list(&ListParams::default()).await;
    Ok(list.map_err(|error| api_failure(&format!("could not list the {what}"), &error))?.items)
}

async fn yaml<K>(api: &Api<K>, what: &str) -> Result<String, Failure>
where
    K: Clone + Debug + DeserializeOwned + Serialize + ResourceExt,
{
    documents(&list(api, what).await?)
}

/// One YAML document per object, without the field managers' long lists.
fn documents<K: Clone + Serialize + ResourceExt>(objects: &[K]) -> Result<String, Failure> {
    let mut text = String::new();
    for object in objects {
        let mut object = object.clone();
        object.managed_fields_mut().clear();
        // What an apply by hand leaves repeats the object, in JSON.
        object.annotations_mut().remove("kubectl.kubernetes.io/last-applied-configuration");
        let document = serde_yaml::to_string(&object).map_err(|error| Failure::unexpected(error.to_string()))?;
        text.push_str("---\n");
        text.push_str(&document);
    }
    Ok(text)
}

async fn events(cluster: &Cluster, namespace: &str) -> Result<String, Failure> {
    let mut events = list(&cluster.namespaced::<Event>(namespace), "events").await?;
    events.sort_by_key(|event| event.last_timestamp.clone());
    let line = |event: &Event| {
        let at = event.last_timestamp.as_ref().map(|time| time.0.to_string()).unwrap_or_default();
        let object = &event.involved_object;
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        format!(
            "{at} {} {} {}/{}: {} (x{})\n",
            text(&event.type_),
            text(&event.reason),
            text(&object.kind),
            text(&object.name),
            text(&event.message),
            event.count.unwrap_or(1)
        )
    };
    Ok(events.iter().map(line).collect())
}

/// Which Secrets there are, and the names of their keys. Never a value.
async fn secret_names(cluster: &Cluster, namespace: &str) -> Result<String, Failure> {
    let secrets = list(&cluster.namespaced::<Secret>(namespace), "secrets").await?;
    let line = |secret: &Secret| {
        let keys: Vec<&String> = secret.data.iter().flat_map(|data| data.keys()).collect();
        let keys = keys.iter().map(|key| key.as_str()).collect::<Vec<_>>().join(", ");
        format!("{} ({}): {keys}\n", secret.name_any(), secret.type_.as_deref().unwrap_or("Opaque"))
    };
    Ok(secrets.iter().map(line).collect())
}

async fn logs(cluster: &Cluster, namespace: &str, pod: &Pod, bundle: &mut Bundle) {
    let name = pod.name_any();
    let status = pod.status.clone().unwrap_or_default();
    let containers = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    for container in containers {
        for previous in [false, true] {
            if previous && container.restart_count == 0 {
                continue;
            }
            let of = LogOf { namespace, pod: &name, container: &container.name, previous, since: None };
            let file = format!(
                "cluster/{namespace}/logs/{name}.{}{}.log",
                container.name,
                if previous { ".previous" } else { "" }
            );
            match cluster.log_text(of).await {
                Ok(log) => {
                    let mut text = tail(&log.text).to_owned();
                    if let Some(why) = log.broke_off {
                        text = text + "(broke off: " + &why + ")\n";
                    }
                    bundle.add(file, text);
                }
                Err(failure) => bundle.missing.push(format!("{file}: {}", failure.message)),
            }
        }
    }
}

/// The last lines that fit.
fn tail(text: &str) -> &str {
    let Some(from) = text.len().checked_sub(LOG) else { return text };
    let rest = text.as_bytes()[from..].iter().position(|byte| *byte == b'\n').map_or(text.len(), |at| from + at + 1);
    &text[rest..]
}

/// Knows the values of the Secrets in the lab's namespaces.
pub(super) async fn redactor(cluster: &Cluster, lab: &Lab, bundle: &mut Bundle) -> Redactor {
    let mut values = Vec::new();
    for namespace in namespaces(lab) {
        match list(&cluster.namespaced::<Secret>(&namespace), "secrets").await {
            Ok(secrets) => values.extend(secrets.iter().flat_map(secret_values)),
            Err(failure) => bundle.missing.push(format!(
                "the Secrets of {namespace} could not be read ({}): their values are found by their surroundings only",
                failure.message
            )),
        }
    }
    Redactor::new(values.iter().map(String::as_str))
}

fn secret_values(secret: &Secret) -> Vec<String> {
    // What helm keeps of a release is compressed: its text is found nowhere else.
    if secret.type_.as_deref().is_some_and(|kind| kind.starts_with("helm.sh/")) {
        return Vec::new();
    }
    let data = secret.data.iter().flatten();
    let secret = data.filter(|(key, _)| !OPEN_KEYS.contains(&key.as_str()));
    secret
        .filter_map(|(_, value)| String::from_utf8(value.0.clone()).ok())
        .flat_map(|value| {
            // A file of several lines is found line by line as well: logs print it so.
            let lines: Vec<String> = value.lines().filter(|line| line.len() >= 16).map(str::to_owned).collect();
            let several = lines.len() > 1;
            std::iter::once(value).chain(lines.into_iter().filter(move |_| several))
        })
        .filter(|value| !value.contains("BEGIN CERTIFICATE"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_log_the_last_whole_lines_are_kept() {
        let text = "é line\n".repeat(LOG / 4);
        let kept = tail(&text);
        assert!(kept.len() <= LOG && kept.starts_with("é line\n") && text.ends_with(kept));
        assert_eq!(tail("short\n"), "short\n");
    }
}
