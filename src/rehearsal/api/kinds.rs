//! Which kinds the server knows: the table of its own, and those that custom resource definitions add.

use serde_json::{Value, json};

use crate::rehearsal::object::{condition, items, text};

/// Whether objects of a kind live in a namespace.
const NAMESPACED: bool = true;
const CLUSTER: bool = false;

/// The built-in kinds that the lab's manifests and charts use (Kubernetes 1.26 and later).
/// A kind that is missing here is one that the rehearsal does not know.
pub const BUILT_IN: &[(&str, &str, &str, bool)] = &[
    ("v1", "ConfigMap", "configmaps", NAMESPACED),
    ("v1", "Endpoints", "endpoints", NAMESPACED),
    ("v1", "Event", "events", NAMESPACED),
    ("v1", "Namespace", "namespaces", CLUSTER),
    ("v1", "Node", "nodes", CLUSTER),
    ("v1", "PersistentVolume", "persistentvolumes", CLUSTER),
    ("v1", "PersistentVolumeClaim", "persistentvolumeclaims", NAMESPACED),
    ("v1", "Pod", "pods", NAMESPACED),
    ("v1", "Secret", "secrets", NAMESPACED),
    ("v1", "Service", "services", NAMESPACED),
    ("v1", "ServiceAccount", "serviceaccounts", NAMESPACED),
    ("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration", "mutatingwebhookconfigurations", CLUSTER),
    ("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", "validatingwebhookconfigurations", CLUSTER),
    ("apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions", CLUSTER),
    ("apps/v1", "ControllerRevision", "controllerrevisions", NAMESPACED),
    ("apps/v1", "DaemonSet", "daemonsets", NAMESPACED),
    ("apps/v1", "Deployment", "deployments", NAMESPACED),
    ("apps/v1", "ReplicaSet", "replicasets", NAMESPACED),
    ("apps/v1", "StatefulSet", "statefulsets", NAMESPACED),
    ("autoscaling/v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers", NAMESPACED),
    ("batch/v1", "CronJob", "cronjobs", NAMESPACED),
    ("batch/v1", "Job", "jobs", NAMESPACED),
    ("coordination.k8s.io/v1", "Lease", "leases", NAMESPACED),
    ("networking.k8s.io/v1", "Ingress", "ingresses", NAMESPACED),
    ("networking.k8s.io/v1", "IngressClass", "ingressclasses", CLUSTER),
    ("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies", NAMESPACED),
    ("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets", NAMESPACED),
    ("rbac.authorization.k8s.io/v1", "ClusterRole", "clusterroles", CLUSTER),
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "clusterrolebindings", CLUSTER),
    ("rbac.authorization.k8s.io/v1", "Role", "roles", NAMESPACED),
    ("rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings", NAMESPACED),
    ("storage.k8s.io/v1", "CSIDriver", "csidrivers", CLUSTER),
    ("storage.k8s.io/v1", "StorageClass", "storageclasses", CLUSTER),
];

/// A kind and how it is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// `apps/v1`.
    pub api_version: String,
    /// `Deployment`.
    pub kind: String,
    /// `deployments`.
    pub plural: String,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
}

impl Served {
    /// The API group; empty for the core.
    #[must_use]
    pub fn group(&self) -> &str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }

    /// The version within the group.
    #[must_use]
    pub fn version(&self) -> &str {
        self.api_version.rsplit('/').next().unwrap_or_default()
    }

    /// `deployments.apps`, as messages name it; `pods` for the core.
    #[must_use]
    pub fn qualified(&self) -> String {
        join(&self.plural, self.group())
    }

    /// `Deployment.apps`, as messages about invalid objects name it.
    #[must_use]
    pub fn qualified_kind(&self) -> String {
        join(&self.kind, self.group())
    }
}

fn join(name: &str, group: &str) -> String {
    if group.is_empty() { name.to_owned() } else { format!("{name}.{group}") }
}

impl From<&(&str, &str, &str, bool)> for Served {
    fn from((api_version, kind, plural, namespaced): &(&str, &str, &str, bool)) -> Self {
        let [api_version, kind, plural] = [api_version, kind, plural].map(|text| (*text).to_owned());
        Served { api_version, kind, plural, namespaced: *namespaced }
    }
}

/// The kinds that a definition adds: none until it is established.
pub fn defined_by(crd: &Value) -> impl Iterator<Item = Served> + use<'_> {
    let versions = items(crd, "/spec/versions").filter(|version| version["served"] == json!(true));
    versions.filter(|_| condition(crd, "Established")).map(|version| Served {
        api_version: format!("{}/{}", text(crd, "/spec/group"), text(version, "/name")),
        kind: text(crd, "/spec/names/kind").to_owned(),
        plural: text(crd, "/spec/names/plural").to_owned(),
        namespaced: text(crd, "/spec/scope") == "Namespaced",
    })
}

/// A group, with the versions in it, with the resources in each.
type Group<'a> = (&'a str, Vec<(&'a str, Vec<Value>)>);

/// Aggregated discovery (`apidiscovery.k8s.io/v2`): of the core for `/api`, of all other groups for `/apis`.
#[must_use]
pub fn discovery(kinds: &[Served], core: bool) -> Value {
    const VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
    let mut groups: Vec<Group<'_>> = Vec::new();
    for served in kinds.iter().filter(|served| served.group().is_empty() == core) {
        let resource = json!({
            "resource": served.plural,
            "responseKind": {"group": served.group(), "version": served.version(), "kind": served.kind},
            "scope": if served.namespaced { "Namespaced" } else { "Cluster" },
            "singularResource": served.kind.to_lowercase(),
            "verbs": VERBS,
        });
        let versions = entry(&mut groups, served.group());
        entry(versions, served.version()).push(resource);
    }
    let items: Vec<Value> = groups
        .into_iter()
        .map(|(group, versions)| {
            let versions = versions.into_iter().map(
                |(version, resources)| json!({"version": version, "resources": resources, "freshness": "Current"}),
            );
            json!({"metadata": {"name": group}, "versions": versions.collect::<Vec<_>>()})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

/// The value of `key`, made if missing; keeps the order of first mention.
fn entry<'a, 'k, V: Default>(list: &'a mut Vec<(&'k str, V)>, key: &'k str) -> &'a mut V {
    let at = list.iter().position(|(known, _)| *known == key).unwrap_or_else(|| {
        list.push((key, V::default()));
        list.len() - 1
    });
    &mut list[at].1
}
