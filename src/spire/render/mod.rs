//! What a chart makes of our values, read from the output of `helm template`: every fact on which an upgrade turns,
//! before anything is changed. [`mismatches`] says what is not as it has to be.

mod expect;
mod identities;
mod objects;
mod restricted;
#[cfg(test)]
mod tests;

use serde_json::Value;

use crate::config::Lab;
use crate::error::{Failure, Kind};
use crate::spire::names;

pub use expect::{immutable_changes, mismatches};
pub use identities::Identity;
pub use objects::Objects;
pub(crate) use objects::members;
use objects::{port, text, title};

/// A rendered release of the chart `spire`.
#[derive(Debug, Clone)]
pub struct Rendered {
    /// The servers' StatefulSet, whole.
    pub stateful_set: Value,
    /// The agents' DaemonSet, whole.
    pub daemon_set: Value,
    /// Image of the container `spire-server`.
    pub server_image: String,
    /// Image of the container `spire-agent`.
    pub agent_image: String,
    /// Image of the controller manager, where there is one.
    pub controller_manager_image: Option<String>,
    /// How many servers.
    pub servers: u64,
    /// The port of the servers' Service.
    pub service_port: u16,
    /// The host that agents dial.
    pub agents_dial: String,
    /// The port that agents dial.
    pub agents_dial_port: u16,
    /// The agent's socket inside its container.
    pub agent_socket: String,
    /// Where the servers write the trust bundle; absent: nowhere in this cluster.
    pub bundle_written: Option<BundlePlace>,
    /// Where agents read it when they start.
    pub bundle_read: BundlePlace,
    /// Whether the release itself holds the ConfigMap that agents read; else the servers make it.
    pub makes_bundle: bool,
    /// Namespaces and names of the ConfigMaps that the servers may patch.
    pub bundle_roles: Vec<(String, String)>,
    /// Trust domain of the servers.
    pub server_trust_domain: String,
    /// Trust domain of the agents.
    pub agent_trust_domain: String,
    /// Service accounts that may attest as agents, as `namespace:name`.
    pub attestable: Vec<String>,
    /// The agents' own service account, as `namespace:name`.
    pub agent_account: String,
    /// All `ClusterSPIFFEID`s.
    pub identities: Vec<Identity>,
    /// Which of them the controller manager heeds.
    pub heeds: Heeds,
    /// Whether agents are replaced only when somebody deletes them.
    pub agents_held: bool,
    /// Jobs that helm runs as hooks and waits for.
    pub hook_jobs: Vec<String>,
    /// Every image, with who uses it and its pull policy as the manifest has it.
    pub images: Vec<Image>,
    /// What the servers' namespace would refuse.
    pub refused_pods: Vec<String>,
}

/// A file in a ConfigMap that holds the trust bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundlePlace {
    /// The ConfigMap's namespace.
    pub namespace: String,
    /// The ConfigMap's name.
    pub config_map: String,
    /// The key in it.
    pub key: String,
    /// `pem` or `spiffe`.
    pub format: String,
}

impl std::fmt::Display for BundlePlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "key {} of ConfigMap {}/{} ({})", self.key, self.namespace, self.config_map, self.format)
    }
}

/// Which `ClusterSPIFFEID`s a controller manager heeds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heeds {
    /// Of this class; absent before chart 0.15.0, when there were no classes.
    pub class: Option<String>,
    /// Those without a class, too.
    pub classless: bool,
    /// Namespaces whose pods get none.
    pub ignored_namespaces: Vec<String>,
}

impl Heeds {
    /// Whether it heeds this one.
    #[must_use]
    pub fn covers(&self, identity: &Identity) -> bool {
        match (&self.class, &identity.class) {
            (None, _) => true,
            (Some(_), None) => self.classless,
            (Some(own), Some(class)) => own == class,
        }
    }
}

/// An image in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// `Kind namespace/name, container name`.
    pub user: String,
    /// As in the manifest.
    pub image: String,
    /// As in the manifest, if it says.
    pub pull_policy: Option<String>,
}

impl Rendered {
    /// Reads the output of `helm template` for the lab's release.
    ///
    /// # Errors
    /// Not YAML, or something that every chart makes is missing.
    pub fn read(lab: &Lab, output: &str) -> Result<Rendered, Failure> {
        let spire = &lab.spire;
        let (server_namespace, system_namespace) = (&spire.server_namespace, &spire.system_namespace);
        let (server, agent) = (names::server(spire), names::agent(spire));
        let objects = Objects::parse(output, &spire.release_namespace)?;
        let stateful_set = objects.find("StatefulSet", server_namespace, &server)?;
        let daemon_set = objects.find("DaemonSet", system_namespace, &agent)?;
        let service = objects.find("Service", server_namespace, &server)?;
        let server_config = config(objects.find("ConfigMap", server_namespace, &server)?, "server.conf")?;
        let agent_config = config(objects.find("ConfigMap", system_namespace, &agent)?, "agent.conf")?;
        let grpc = service["spec"]["ports"].as_array().into_iter().flatten().find(|port| port["name"] == "grpc");
        let account = daemon_set.pointer("/spec/template/spec/serviceAccountName").and_then(Value::as_str);
        let agent_image =
            image_of(daemon_set, names::AGENT_CONTAINER).ok_or_else(|| lacks(daemon_set, names::AGENT_CONTAINER))?;
        let bundle_read = bundle_read(daemon_set, system_namespace, &agent_config)?;
        Ok(Rendered {
            makes_bundle: objects.find("ConfigMap", &bundle_read.namespace, &bundle_read.config_map).is_ok(),
            server_image: image_of(stateful_set, names::SERVER_CONTAINER)
                .ok_or_else(|| lacks(stateful_set, names::SERVER_CONTAINER))?,
            agent_image,
            controller_manager_image: image_of(stateful_set, "spire-controller-manager"),
            // Kubernetes' own default.
            servers: stateful_set["spec"]["replicas"].as_u64().unwrap_or(1),
            service_port: port(grpc.unwrap_or(&Value::Null), "/port", "port `grpc` of the servers' Service")?,
            agents_dial: text(&agent_config, "/agent/server_address", "server address for agents")?.to_owned(),
            agents_dial_port: port(&agent_config, "/agent/server_port", "server port for agents")?,
            agent_socket: text(&agent_config, "/agent/socket_path", "socket of the agents")?.to_owned(),
            bundle_written: bundle_written(&server_config),
            bundle_read,
            bundle_roles: bundle_roles(&objects),
            server_trust_domain: text(&server_config, "/server/trust_domain", "trust domain of the servers")?
                .to_owned(),
            agent_trust_domain: text(&agent_config, "/agent/trust_domain", "trust domain of the agents")?.to_owned(),
            attestable: attestable(&server_config, &spire.cluster_name),
            agent_account: format!("{system_namespace}:{}", account.unwrap_or("default")),
            identities: objects.of_kind("ClusterSPIFFEID").map(Identity::read).collect(),
            heeds: heeds(&objects),
            agents_held: daemon_set["spec"]["updateStrategy"]["type"] == "OnDelete",
            hook_jobs: objects
                .of_kind("Job")
                .filter(|job| job["metadata"]["annotations"]["helm.sh/hook"].is_string())
                .map(title)
                .collect(),
            images: images(&objects),
            refused_pods: restricted::violations(&objects, server_namespace),
            stateful_set: stateful_set.clone(),
            daemon_set: daemon_set.clone(),
        })
    }
}

fn lacks(object: &Value, container: &str) -> Failure {
    Failure::new(Kind::Tool, format!("the rendered {} has no container {container}", title(object)))
}

fn image_of(object: &Value, container: &str) -> Option<String> {
    let containers = object.pointer("/spec/template/spec/containers")?.as_array()?;
    let image = containers.iter().find(|found| found["name"] == container)?["image"].as_str()?;
    Some(image.to_owned())
}

/// SPIRE's own configuration, which charts write as JSON.
fn config(config_map: &Value, key: &str) -> Result<Value, Failure> {
    let text = text(&config_map["data"], &format!("/{}", key.replace('/', "~1")), key)?;
    serde_json::from_str(text).map_err(|error| {
        Failure::new(Kind::Tool, format!("{key} in the rendered {} is not JSON: {error}", title(config_map)))
    })
}

/// Configuration of the plugin `name` of a `kind`.
fn plugin<'a>(config: &'a Value, kind: &str, name: &str) -> Option<&'a Value> {
    let plugins = members(&config["plugins"]).into_iter().filter(|(key, _)| *key == kind);
    plugins
        .flat_map(|(_, plugins)| members(plugins))
        .find(|(key, _)| *key == name)
        .map(|(_, plugin)| &plugin["plugin_data"])
}

/// The notifier `k8sbundle` up to chart 0.25, the bundle publisher `k8s_configmap` from 0.26 on.
fn bundle_written(server_config: &Value) -> Option<BundlePlace> {
    let word = |value: &Value, default: &str| value.as_str().unwrap_or(default).to_owned();
    if let Some(notifier) = plugin(server_config, "Notifier", "k8sbundle") {
        // Defaults of the plugin: spire/doc/plugin_server_notifier_k8sbundle.md.
        return Some(BundlePlace {
            namespace: word(&notifier["namespace"], "spire"),
            config_map: word(&notifier["config_map"], "spire-bundle"),
            key: word(&notifier["config_map_key"], "bundle.crt"),
            format: "pem".into(),
        });
    }
    let publisher = plugin(server_config, "BundlePublisher", "k8s_configmap")?;
    // Those with a kubeconfig are other clusters.
    let own = members(&publisher["clusters"]).into_iter().find(|(_, cluster)| cluster.get("kubeconfig_path").is_none());
    own.map(|(_, cluster)| BundlePlace {
        namespace: word(&cluster["namespace"], ""),
        config_map: word(&cluster["configmap_name"], ""),
        key: word(&cluster["configmap_key"], ""),
        format: word(&cluster["format"], ""),
    })
}

fn bundle_read(daemon_set: &Value, namespace: &str, agent_config: &Value) -> Result<BundlePlace, Failure> {
    let path = text(agent_config, "/agent/trust_bundle_path", "trust bundle for agents")?;
    let (directory, key) = path.rsplit_once('/').unwrap_or(("", path));
    let missing =
        || Failure::new(Kind::Tool, format!("the rendered agents read {path}, where no ConfigMap is mounted"));
    let pod = &daemon_set["spec"]["template"]["spec"];
    let list = |value: &'_ Value| value.as_array().cloned().unwrap_or_default();
    let mount = list(&pod["containers"])
        .iter()
        .filter(|container| container["name"] == names::AGENT_CONTAINER)
        .flat_map(|container| list(&container["volumeMounts"]))
        .find(|mount| mount["mountPath"] == directory)
        .ok_or_else(missing)?;
    let volume =
        list(&pod["volumes"]).into_iter().find(|volume| volume["name"] == mount["name"]).ok_or_else(missing)?;
    Ok(BundlePlace {
        namespace: namespace.to_owned(),
        config_map: volume["configMap"]["name"].as_str().ok_or_else(missing)?.to_owned(),
        key: key.to_owned(),
        format: agent_config["agent"]["trust_bundle_format"].as_str().unwrap_or("pem").to_owned(),
    })
}

/// ConfigMaps, by namespace and name, that a Role lets be patched.
fn bundle_roles(objects: &Objects) -> Vec<(String, String)> {
    let lists = |rule: &Value, key: &str, wanted: &str| {
        rule[key].as_array().is_some_and(|items| items.iter().any(|item| item == wanted))
    };
    let mut found = Vec::new();
    for role in objects.of_kind("Role") {
        for rule in role["rules"].as_array().into_iter().flatten() {
            if lists(rule, "resources", "configmaps") && lists(rule, "verbs", "patch") {
                let names = rule["resourceNames"].as_array().into_iter().flatten().filter_map(Value::as_str);
                found.extend(names.map(|name| (objects.namespace(role).to_owned(), name.to_owned())));
            }
        }
    }
    found
}

fn attestable(server_config: &Value, cluster: &str) -> Vec<String> {
    let Some(attestor) = plugin(server_config, "NodeAttestor", "k8s_psat") else { return Vec::new() };
    let of_cluster = members(&attestor["clusters"]).into_iter().filter(|(name, _)| *name == cluster);
    of_cluster
        .flat_map(|(_, cluster)| cluster["service_account_allow_list"].as_array().into_iter().flatten())
        .filter_map(|account| account.as_str().map(ToOwned::to_owned))
        .collect()
}

/// From the controller manager's configuration, which is YAML in whichever ConfigMap has it.
fn heeds(objects: &Objects) -> Heeds {
    let text = objects.of_kind("ConfigMap").find_map(|map| map["data"]["controller-manager-config.yaml"].as_str());
    let config: Value = text.and_then(|text| serde_yaml::from_str(text).ok()).unwrap_or_default();
    let ignored = config["ignoreNamespaces"].as_array().into_iter().flatten();
    Heeds {
        class: config["className"].as_str().map(ToOwned::to_owned),
        classless: config["watchClassless"] == true,
        ignored_namespaces: ignored.filter_map(|namespace| namespace.as_str().map(ToOwned::to_owned)).collect(),
    }
}

fn images(objects: &Objects) -> Vec<Image> {
    let word = |value: &Value| value.as_str().map(ToOwned::to_owned);
    objects
        .containers()
        .map(|found| Image {
            user: format!("{}, container {}", title(found.object), found.spec["name"].as_str().unwrap_or("?")),
            image: word(&found.spec["image"]).unwrap_or_default(),
            pull_policy: word(&found.spec["imagePullPolicy"]),
        })
        .collect()
}
