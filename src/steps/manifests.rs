//! The objects that coastal makes itself: the embedded manifests, with what the lab says put in as data.
//!
//! Every object carries the lab's label ([`Lab::LABEL`]), and so do the pods made from it: removal takes nothing
//! else.

use kube::ResourceExt;
use kube::core::DynamicObject;
use serde_json::{Value, json};

use crate::assets::{self, Asset};
use crate::config::{Lab, MaliciousSpec, PullPolicy};
use crate::error::{Failure, io_failure};
use crate::kube::{label, parse};
use crate::spire::{metrics, names};

/// The container of the workload's pods that holds the SVID.
pub const WORKLOAD_CONTAINER: &str = "workload";

/// SPIRE's two namespaces, with the Pod Security levels that they need.
///
/// # Errors
/// None, unless the program was built around a manifest that is wrong; so for all of these.
pub fn namespaces(lab: &Lab) -> Result<Vec<DynamicObject>, Failure> {
    let mut objects = Objects::of(assets::NAMESPACES)?;
    objects.rename("spire-server", &lab.spire.server_namespace);
    objects.rename("spire-system", &lab.spire.system_namespace);
    Ok(objects.labelled(lab))
}

/// The self-signed ClusterIssuer.
///
/// # Errors
/// See [`namespaces`].
pub fn cluster_issuer(lab: &Lab) -> Result<Vec<DynamicObject>, Failure> {
    Ok(Objects::of(assets::CLUSTER_ISSUER)?.labelled(lab))
}

/// PostgreSQL, without the Secret that holds its login. A manifest of the user's replaces ours.
///
/// # Errors
/// The user's manifest cannot be read, or holds no objects.
pub fn database(lab: &Lab) -> Result<Vec<DynamicObject>, Failure> {
    let namespace = &lab.spire.server_namespace;
    if let Some(file) = &lab.database.manifest {
        let text = std::fs::read_to_string(file).map_err(|error| {
            io_failure("read the manifest", file, &error).next("set `manifest` in [database] of lab.toml to a file")
        })?;
        let mut objects = Objects(parse(&file.display().to_string(), &text)?);
        objects.default_namespace(namespace);
        return Ok(objects.labelled(lab));
    }
    let mut objects = Objects::of(assets::DATABASE)?;
    objects.default_namespace(namespace);
    let pod = "/spec/template/spec/containers/0";
    objects.set("StatefulSet", &format!("{pod}/image"), lab.database.image.as_str())?;
    objects.add("StatefulSet", pod, "imagePullPolicy", lab.images.pull.as_kubernetes())?;
    let storage = "/spec/volumeClaimTemplates/0/spec/resources/requests/storage";
    objects.set("StatefulSet", storage, lab.database.storage.as_str())?;
    Ok(objects.labelled(lab))
}

/// SPIRE's PodMonitors, and its dashboard for Grafana. The chart's own monitors (0.13.0) name an unknown field and select
/// nothing.
///
/// # Errors
/// See [`namespaces`].
pub fn monitors(lab: &Lab) -> Result<Vec<DynamicObject>, Failure> {
    let spire = &lab.spire;
    let mut objects = Objects::of(assets::MONITORS)?;
    objects.add("PodMonitor", "/spec/selector/matchLabels", "app.kubernetes.io/instance", spire.release.as_str())?;
    for object in &mut objects.0 {
        let (name, namespace) = match object.name_any().as_str() {
            "spire-server" => (names::server(spire), &spire.server_namespace),
            _ => (names::agent(spire), &spire.system_namespace),
        };
        object.metadata.name = Some(name);
        object.metadata.namespace = Some(namespace.clone());
    }
    if let Some(monitoring) = &lab.monitoring {
        let dashboard = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": metrics::DASHBOARD,
                "namespace": monitoring.namespace,
                "labels": {metrics::DASHBOARD_LABEL: "1"},
            },
            "data": {"coastal-spire.json": metrics::dashboard(lab).to_string()},
        });
        objects.0.push(serde_json::from_value(dashboard).map_err(|error| Failure::unexpected(error.to_string()))?);
    }
    Ok(objects.labelled(lab))
}

/// The workload.
///
/// # Errors
/// See [`namespaces`].
pub fn workload(lab: &Lab) -> Result<Vec<DynamicObject>, Failure> {
    // The nodes of a kind cluster are given the image; no registry has it.
    let pull = if lab.is_kind() { PullPolicy::IfNotPresent } else { lab.images.pull };
    Ok(workload_of(lab, &lab.workload.image, pull)?.labelled(lab))
}

/// The pirate ship in its namespace.
///
/// # Errors
/// See [`namespaces`].
pub fn malicious(lab: &Lab) -> Result<Vec<DynamicObject>, Failure> {
    let mut objects = Objects::of(assets::MALICIOUS)?;
    for object in objects.0.iter_mut().filter(|object| object.name_any() == MaliciousSpec::NAME) {
        object.metadata.namespace = Some(MaliciousSpec::NAMESPACE.to_owned());
    }
    let container = "/spec/template/spec/containers/0";
    objects.set("Deployment", &format!("{container}/image"), lab.malicious.image.as_str())?;
    objects.add("Deployment", container, "imagePullPolicy", lab.images.pull.as_kubernetes())?;
    Ok(objects.labelled(lab))
}

/// The workload where coastal itself cannot run in a Linux container: the agent's own program, watching.
///
/// # Errors
/// See [`namespaces`].
pub fn watching_workload(lab: &Lab) -> Result<Vec<DynamicObject>, Failure> {
    let image = format!("{}:{}", names::AGENT_IMAGE, lab.spire.agent_version);
    let mut objects = workload_of(lab, &image, lab.images.pull)?;
    let socket = names::WORKLOAD_SOCKET.trim_start_matches("unix://");
    let command = json!(["/opt/spire/bin/spire-agent", "api", "watch", "-socketPath", socket]);
    objects.add("Deployment", "/spec/template/spec/containers/0", "command", command)?;
    Ok(objects.labelled(lab))
}

fn workload_of(lab: &Lab, image: &str, pull: PullPolicy) -> Result<Objects, Failure> {
    let workload = &lab.workload;
    let mut objects = Objects::of(assets::WORKLOAD)?;
    objects.default_namespace(&workload.namespace);
    objects.rename("workload", &workload.name);
    let pod = "/spec/template/spec";
    let container = format!("{pod}/containers/0");
    for (pointer, value) in [
        ("/spec/replicas", json!(workload.replicas)),
        ("/spec/selector/matchLabels/app", json!(workload.name)),
        ("/spec/template/metadata/labels/app", json!(workload.name)),
        (&format!("{pod}/serviceAccountName"), json!(workload.name)),
        (&format!("{container}/image"), json!(image)),
        (&format!("{container}/resources/requests/cpu"), json!(workload.cpu)),
        (&format!("{container}/resources/requests/memory"), json!(workload.memory)),
        (&format!("{container}/resources/limits/memory"), json!(workload.memory)),
        (&format!("{container}/env/0/value"), json!(names::WORKLOAD_SOCKET)),
    ] {
        objects.set("Deployment", pointer, value)?;
    }
    objects.add("Deployment", &container, "imagePullPolicy", pull.as_kubernetes())?;
    Ok(objects)
}

/// Parsed objects on their way to being the lab's.
pub(super) struct Objects(Vec<DynamicObject>);

impl Objects {
    pub(super) fn of(asset: Asset) -> Result<Self, Failure> {
        parse(asset.name, asset.text).map(Objects)
    }

    fn rename(&mut self, from: &str, to: &str) {
        for object in self.0.iter_mut().filter(|object| object.name_any() == from) {
            object.metadata.name = Some(to.to_owned());
        }
    }

    fn default_namespace(&mut self, namespace: &str) {
        for object in &mut self.0 {
            object.metadata.namespace.get_or_insert_with(|| namespace.to_owned());
        }
    }

    /// Puts each object into the namespace that is said for its kind and name.
    pub(super) fn place<'a>(&mut self, said: impl Fn(&str, &str) -> Option<&'a str>) {
        for object in &mut self.0 {
            let kind = object.types.as_ref().map(|types| types.kind.as_str()).unwrap_or_default();
            object.metadata.namespace = said(kind, &object.name_any()).map(str::to_owned);
        }
    }

    /// Replaces the value at `pointer` in each object of that kind.
    pub(super) fn set(&mut self, kind: &str, pointer: &str, value: impl Into<Value>) -> Result<(), Failure> {
        let value = value.into();
        self.at(kind, pointer, |slot| *slot = value.clone())
    }

    /// Adds a key to the table at `pointer` in each object of that kind.
    pub(super) fn add(&mut self, kind: &str, pointer: &str, key: &str, value: impl Into<Value>) -> Result<(), Failure> {
        let value = value.into();
        self.at(kind, pointer, |slot| {
            if let Some(table) = slot.as_object_mut() {
                table.insert(key.to_owned(), value.clone());
            }
        })
    }

    /// Adds a value to the end of the list at `pointer` in each object of that kind.
    pub(super) fn append(&mut self, kind: &str, pointer: &str, value: &str) -> Result<(), Failure> {
        self.at(kind, pointer, |slot| {
            if let Some(list) = slot.as_array_mut() {
                list.push(json!(value));
            }
        })
    }

    fn at(&mut self, kind: &str, pointer: &str, mut change: impl FnMut(&mut Value)) -> Result<(), Failure> {
        for object in self.0.iter_mut().filter(|object| object.types.as_ref().is_some_and(|types| types.kind == kind)) {
            match object.data.pointer_mut(pointer) {
                Some(slot) => change(slot),
                None => return Err(Failure::unexpected(format!("the embedded {kind} has no {pointer}"))),
            }
        }
        Ok(())
    }

    /// The objects, they and the pods made from them marked as the lab's.
    pub(super) fn labelled(mut self, lab: &Lab) -> Vec<DynamicObject> {
        for object in &mut self.0 {
            label(object, lab);
            for template in ["/spec/template", "/spec/jobTemplate/spec/template"] {
                let labels = object.data.pointer_mut(&format!("{template}/metadata/labels"));
                if let Some(labels) = labels.and_then(Value::as_object_mut) {
                    labels.insert(Lab::LABEL.to_owned(), json!(lab.name));
                }
            }
        }
        self.0
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::{DatabaseSpec, Provider, embedded};

    fn lab() -> Lab {
        let mut lab = embedded().unwrap();
        lab.name = "mine".into();
        lab.spire.release = "harbour".into();
        lab.spire.server_namespace = "servers".into();
        lab.spire.system_namespace = "system".into();
        lab.workload.name = "ship".into();
        lab.workload.namespace = "sea".into();
        lab.workload.cpu = "500m".into();
        lab.workload.memory = "128Mi".into();
        lab.workload.replicas = 2;
        lab.database.image = "postgres:15".into();
        lab.database.storage = "2Gi".into();
        lab
    }

    fn all(lab: &Lab) -> Vec<DynamicObject> {
        [namespaces, cluster_issuer, database, monitors, workload, watching_workload]
            .iter()
            .flat_map(|manifest| manifest(lab).unwrap())
            .collect()
    }

    fn kind(object: &DynamicObject) -> &str {
        &object.types.as_ref().unwrap().kind
    }

    fn only<'a>(objects: &'a [DynamicObject], wanted: &str) -> &'a DynamicObject {
        let mut of_kind = objects.iter().filter(|object| kind(object) == wanted);
        let object = of_kind.next().unwrap();
        assert!(of_kind.next().is_none());
        object
    }

    fn at<'a>(object: &'a DynamicObject, pointer: &str) -> &'a Value {
        object.data.pointer(pointer).unwrap_or_else(|| panic!("{} has no {pointer}", object.name_any()))
    }

    #[test]
    fn everything_is_named_placed_and_marked() {
        let places: Vec<String> = all(&lab())
            .iter()
            .map(|object| {
                assert_eq!(object.labels().get(Lab::LABEL).map(String::as_str), Some("mine"), "{}", object.name_any());
                if let Some(template) = object.data.pointer("/spec/template/metadata/labels") {
                    assert_eq!(template[Lab::LABEL], json!("mine"), "{}", object.name_any());
                }
                format!("{} {}/{}", kind(object), object.namespace().unwrap_or_default(), object.name_any())
            })
            .collect();
        assert_eq!(
            places,
            [
                "Namespace /servers",
                "Namespace /system",
                "ClusterIssuer /selfsigned",
                "ServiceAccount servers/spire-db",
                "Service servers/spire-db",
                "ConfigMap servers/spire-db",
                "StatefulSet servers/spire-db",
                "PodMonitor servers/harbour-server",
                "PodMonitor system/harbour-agent",
                "ConfigMap default/coastal-spire-dashboard",
                "ServiceAccount sea/ship",
                "Deployment sea/ship",
                "ServiceAccount sea/ship",
                "Deployment sea/ship",
            ]
        );
    }

    /// The Pod Security level `restricted`, requests that can be added up, and images that stay the same.
    #[test]
    fn pods_are_restricted_and_say_what_they_need() {
        let objects = all(&lab());
        let with_pods: Vec<_> =
            objects.iter().filter(|object| object.data.pointer("/spec/template").is_some()).collect();
        assert_eq!(with_pods.len(), 3);
        for object in with_pods {
            let pod = at(object, "/spec/template/spec");
            assert_eq!(pod["securityContext"]["runAsNonRoot"], json!(true));
            assert!(pod["securityContext"]["runAsUser"].as_u64().unwrap() > 0);
            assert_eq!(pod["securityContext"]["seccompProfile"]["type"], json!("RuntimeDefault"));
            assert_eq!(pod["automountServiceAccountToken"], json!(false));
            for volume in pod["volumes"].as_array().unwrap() {
                assert!(["emptyDir", "configMap", "csi"].iter().any(|kind| volume.get(kind).is_some()), "{volume}");
            }
            for container in pod["containers"].as_array().unwrap() {
                let context = &container["securityContext"];
                assert_eq!(context["allowPrivilegeEscalation"], json!(false));
                assert_eq!(context["readOnlyRootFilesystem"], json!(true));
                assert_eq!(context["capabilities"], json!({ "drop": ["ALL"] }));
                assert!(container["resources"]["requests"]["cpu"].is_string());
                assert!(container["resources"]["requests"]["memory"].is_string());
                assert!(container["imagePullPolicy"].is_string());
                let image = container["image"].as_str().unwrap();
                assert!(image.contains(':') && !image.contains("latest"), "{image}");
            }
        }
    }

    #[test]
    fn namespaces_enforce_what_their_pods_can_bear() {
        for (object, level) in namespaces(&lab()).unwrap().iter().zip(["restricted", "privileged"]) {
            for mode in ["enforce", "audit", "warn"] {
                let label = format!("pod-security.kubernetes.io/{mode}");
                assert_eq!(
                    object.labels().get(&label).map(String::as_str),
                    Some(level),
                    "{} {mode}",
                    object.name_any()
                );
            }
        }
    }

    #[test]
    fn the_database_is_the_labs_and_its_login_is_in_a_secret() {
        let objects = database(&lab()).unwrap();
        let set = only(&objects, "StatefulSet");
        assert!(objects.iter().all(|object| object.name_any() == DatabaseSpec::NAME));
        assert_eq!(at(set, "/spec/template/spec/containers/0/image"), "postgres:15");
        assert_eq!(at(set, "/spec/template/spec/containers/0/name"), "postgres");
        assert_eq!(at(set, "/spec/volumeClaimTemplates/0/metadata/name"), "data");
        assert_eq!(at(set, "/spec/volumeClaimTemplates/0/spec/resources/requests/storage"), "2Gi");
        let login: Vec<_> = at(set, "/spec/template/spec/containers/0/env")
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|variable| variable.pointer("/valueFrom/secretKeyRef"))
            .map(|reference| (reference["name"].as_str().unwrap(), reference["key"].as_str().unwrap()))
            .collect();
        assert_eq!(login, [("spire-db", "username"), ("spire-db", "password"), ("spire-db", "database")]);
        assert_eq!(DatabaseSpec::SECRET, "spire-db");
        // The number that the pod runs as has a name, or initdb would refuse.
        let user = at(set, "/spec/template/spec/securityContext/runAsUser");
        let passwd = at(only(&objects, "ConfigMap"), "/data/passwd").as_str().unwrap();
        assert!(passwd.contains(&format!("postgres:x:{user}:{user}:")));
    }

    #[test]
    fn a_database_of_the_users_replaces_ours() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(
            file.path(),
            "apiVersion: v1\nkind: Service\nmetadata: {name: spire-db}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: x, namespace: y}\n",
        )
        .unwrap();
        let mut lab = lab();
        lab.database.manifest = Some(file.path().to_owned());
        let places: Vec<_> = database(&lab).unwrap().iter().map(|o| (o.namespace().unwrap(), o.name_any())).collect();
        assert_eq!(places, [("servers".into(), "spire-db".into()), ("y".into(), "x".into())]);
        lab.database.manifest = Some("/nowhere/database.yaml".into());
        assert!(database(&lab).unwrap_err().message.contains("/nowhere/database.yaml"));
    }

    #[test]
    fn monitors_select_what_the_chart_makes() {
        let monitors = monitors(&lab()).unwrap();
        for (monitor, selector, ports) in [
            (&monitors[0], names::SERVER_SELECTOR, &["prom", "prom2", "prom-cm"][..]),
            (&monitors[1], names::AGENT_SELECTOR, &["prom"]),
        ] {
            let labels = at(monitor, "/spec/selector/matchLabels").as_object().unwrap();
            let wanted: Vec<_> = selector.split(',').map(|pair| pair.split_once('=').unwrap()).collect();
            assert_eq!(labels.len(), wanted.len() + 1);
            for (key, value) in wanted {
                assert_eq!(labels[key], value);
            }
            assert_eq!(labels["app.kubernetes.io/instance"], "harbour");
            let found: Vec<_> = at(monitor, "/spec/podMetricsEndpoints")
                .as_array()
                .unwrap()
                .iter()
                .map(|e| e["port"].as_str().unwrap())
                .collect();
            assert_eq!(found, ports);
        }
    }

    #[test]
    fn the_workload_is_the_labs() {
        let mut lab = lab();
        let objects = workload(&lab).unwrap();
        let deployment = only(&objects, "Deployment");
        for (pointer, value) in [
            ("/spec/replicas", json!(2)),
            ("/spec/selector/matchLabels", json!({ "app": "ship" })),
            ("/spec/template/metadata/labels/app", json!("ship")),
            ("/spec/template/spec/containers/0/name", json!(WORKLOAD_CONTAINER)),
            ("/spec/template/spec/serviceAccountName", json!("ship")),
            ("/spec/template/spec/containers/0/image", json!(lab.workload.image)),
            (
                "/spec/template/spec/containers/0/env/0",
                json!({ "name": "SPIFFE_ENDPOINT_SOCKET", "value": names::WORKLOAD_SOCKET }),
            ),
            ("/spec/template/spec/containers/0/resources/requests", json!({ "cpu": "500m", "memory": "128Mi" })),
            ("/spec/template/spec/containers/0/resources/limits", json!({ "memory": "128Mi" })),
            ("/spec/template/spec/volumes/0/csi", json!({ "driver": names::CSI_DRIVER, "readOnly": true })),
        ] {
            assert_eq!(at(deployment, pointer), &value, "{pointer}");
        }
        // The socket lies where the volume is mounted, and the image's entry point is what runs.
        let mount = at(deployment, "/spec/template/spec/containers/0/volumeMounts/0/mountPath").as_str().unwrap();
        assert!(names::WORKLOAD_SOCKET.starts_with(&format!("unix://{mount}/")));
        assert_eq!(deployment.data.pointer("/spec/template/spec/containers/0/command"), None);

        // No registry has the image of a kind cluster's workload; an existing cluster has to pull it.
        lab.images.pull = PullPolicy::Always;
        let policy = |lab: &Lab| {
            at(only(&workload(lab).unwrap(), "Deployment"), "/spec/template/spec/containers/0/imagePullPolicy").clone()
        };
        assert_eq!(policy(&lab), "IfNotPresent");
        lab.cluster.provider = Provider::Existing { kubeconfig: "/k".into(), context: "c".into() };
        assert_eq!(policy(&lab), "Always");
    }

    #[test]
    fn the_pirate_ships_service_finds_its_pod_and_all_of_it_is_the_labs() {
        let mut lab = lab();
        lab.malicious.image = "registry.k8s.io/pause:3.10".into();
        let objects = malicious(&lab).unwrap();
        let (deployment, service) = (only(&objects, "Deployment"), only(&objects, "Service"));
        assert_eq!(at(service, "/spec/selector"), at(deployment, "/spec/selector/matchLabels"));
        assert_eq!(at(service, "/spec/selector/app"), at(deployment, "/spec/template/metadata/labels/app"));
        assert_eq!(at(deployment, "/spec/template/spec/containers/0/image"), "registry.k8s.io/pause:3.10");
        assert_eq!(at(deployment, "/spec/template/spec/volumes/0/csi/driver"), names::CSI_DRIVER);
        for object in &objects {
            assert_eq!(object.labels().get(Lab::LABEL).map(String::as_str), Some("mine"), "{}", object.name_any());
            let place = if kind(object) == "Namespace" { None } else { Some(MaliciousSpec::NAMESPACE) };
            assert_eq!(object.namespace().as_deref(), place, "{}", object.name_any());
        }
    }

    #[test]
    fn where_coastal_cannot_run_the_agent_watches() {
        let objects = watching_workload(&lab()).unwrap();
        let container = at(only(&objects, "Deployment"), "/spec/template/spec/containers/0");
        assert_eq!(container["image"], "ghcr.io/spiffe/spire-agent:1.7.2");
        let command =
            ["/opt/spire/bin/spire-agent", "api", "watch", "-socketPath", "/spiffe-workload-api/spire-agent.sock"];
        assert_eq!(container["command"], json!(command));
    }
}
