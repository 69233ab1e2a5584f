//! Values for the charts: the embedded files, with what the lab says put in as data.
//!
//! For the chart `spire` of line 0.8 (which brought `image.tag`) to 0.23 (0.24 renames keys).

use serde_json::{Value, json};

use crate::assets::{self, Asset};
use crate::config::{DatabaseSpec, Lab, WITHOUT_IDENTITIES};
use crate::error::{Failure, Kind};
use crate::spire::names;

/// Tables of the chart `spire` that hold a `pullPolicy`. Not among them: the hook jobs' kubectl image and the test
/// pods, which take none; their images have fixed tags, so they are pulled only where they are missing.
const SPIRE_IMAGES: &[&str] = &[
    "spire-server.image",
    "spire-server.controllerManager.image",
    "spire-server.tornjak.image",
    "spire-server.tools.kubectl.image",
    "spire-server.tests.bash.image",
    "spire-agent.image",
    "spire-agent.waitForIt.image",
    // `Always` in the chart 0.13.0, which keeps agents from ever starting where there is no registry.
    "spire-agent.fsGroupFix.image",
    "spiffe-csi-driver.image",
    "spiffe-csi-driver.nodeDriverRegistrar.image",
    "tornjak-frontend.image",
    "tornjak-frontend.tests.bash.image",
];

/// Tables of `kube-prometheus-stack` that hold a `pullPolicy`. Prometheus and Alertmanager themselves take none.
const PROMETHEUS_IMAGES: &[&str] = &[
    "prometheusOperator.image",
    "prometheusOperator.admissionWebhooks.patch.image",
    "kube-state-metrics.image",
    "kube-state-metrics.kubeRBACProxy.image",
    "prometheus-node-exporter.image",
    "prometheus-node-exporter.kubeRBACProxy.image",
    "grafana.image",
    "grafana.initChownData.image",
    "grafana.downloadDashboardsImage",
    "grafana.imageRenderer.image",
];

/// Tables of `kube-prometheus-stack` that spell it `imagePullPolicy`.
const PROMETHEUS_SIDECARS: &[&str] = &["grafana.sidecar", "grafana.testFramework"];

/// Our values for the chart `spire`. No secret is among them: the servers read the database's password from the
/// Secret [`DatabaseSpec::SECRET`].
///
/// # Errors
/// None, unless the program was built around a values file that is wrong.
pub fn spire_values(lab: &Lab) -> Result<Value, Failure> {
    let spire = &lab.spire;
    let (server, system) = (&spire.server_namespace, &spire.system_namespace);
    let agent = names::agent(spire);
    let figures = json!({
        "global": {
            "spire": {
                "clusterName": spire.cluster_name,
                "trustDomain": spire.trust_domain,
                // Nothing serves it here, but the chart's own names a foreign domain.
                "jwtIssuer": format!("https://oidc-discovery.{}", spire.trust_domain),
            },
        },
        "spire-server": {
            "namespaceOverride": server,
            "replicaCount": spire.servers,
            // `version` would be ignored from chart 0.17 on.
            "image": { "tag": spire.server_version.to_string() },
            "nodeAttestor": { "k8sPsat": { "serviceAccountAllowList": [format!("{system}:{agent}")] } },
            "notifier": { "k8sbundle": { "namespace": system } },
            "ca_subject": {
                "country": spire.ca_subject.country,
                "organization": spire.ca_subject.organization,
                "common_name": spire.ca_subject.common_name,
            },
            "dataStore": {
                "sql": {
                    "databaseName": lab.database.database,
                    "username": lab.database.username,
                    "host": DatabaseSpec::NAME,
                    "externalSecret": { "name": DatabaseSpec::SECRET },
                },
            },
            "controllerManager": { "ignoreNamespaces": WITHOUT_IDENTITIES },
            "tornjak": { "enabled": spire.tornjak },
        },
        "spire-agent": {
            "namespaceOverride": system,
            "image": { "tag": spire.agent_version.to_string() },
            "serviceAccount": { "name": agent },
            "server": { "namespaceOverride": server },
        },
        "spiffe-csi-driver": { "namespaceOverride": system },
        "tornjak-frontend": { "enabled": spire.tornjak, "namespaceOverride": server },
    });
    let policies = policy_tree(lab, SPIRE_IMAGES, "pullPolicy");
    Ok(merge(merge(parse(assets::SPIRE_VALUES)?, figures), policies))
}

/// Our values for the chart `kube-prometheus-stack`.
///
/// # Errors
/// None, unless the program was built around a values file that is wrong.
pub fn prometheus_values(lab: &Lab) -> Result<Value, Failure> {
    let policies = policy_tree(lab, PROMETHEUS_IMAGES, "pullPolicy");
    let sidecars = policy_tree(lab, PROMETHEUS_SIDECARS, "imagePullPolicy");
    Ok(merge(merge(parse(assets::PROMETHEUS_VALUES)?, policies), sidecars))
}

/// `base` with `over` merged into it, as helm merges values files: tables key by key, all else is replaced. A null
/// stays, for it is how helm is told to drop a default of the chart.
#[must_use]
pub fn merge(base: Value, over: Value) -> Value {
    match (base, over) {
        (Value::Object(mut base), Value::Object(over)) => {
            for (key, value) in over {
                let slot = base.entry(key).or_insert(Value::Null);
                *slot = merge(slot.take(), value);
            }
            Value::Object(base)
        }
        (_, over) => over,
    }
}

/// A values file of the user as a table; an empty file is an empty one. `name` is what a failure calls it.
///
/// # Errors
/// Not YAML, or not a table.
pub fn parse_file(name: &str, text: &str) -> Result<Value, Failure> {
    let wrong = |problem: String| {
        Failure::new(Kind::Config, format!("the values file `{name}` is not usable: {problem}"))
            .next("it must be what `helm --values` takes: one YAML document with a table at the top")
    };
    // By way of YAML's own value, which refuses a key that is there twice.
    let yaml: serde_yaml::Value = serde_yaml::from_str(text).map_err(|error| wrong(error.to_string()))?;
    match serde_json::to_value(yaml) {
        Ok(Value::Null) => Ok(json!({})),
        Ok(table @ Value::Object(_)) => Ok(table),
        Ok(_) => Err(wrong("there is no table at the top".into())),
        Err(error) => Err(wrong(error.to_string())),
    }
}

fn parse(asset: Asset) -> Result<Value, Failure> {
    // Anchors are expanded by the parser; merge keys are not used.
    parse_file(asset.name, asset.text)
}

/// `{a: {b: {KEY: POLICY}}}` for each path `a.b`.
fn policy_tree(lab: &Lab, paths: &[&str], key: &str) -> Value {
    let policy = lab.images.pull.as_kubernetes();
    paths.iter().fold(json!({}), |tree, path| {
        let leaf = json!({ key: policy });
        merge(tree, path.rsplit('.').fold(leaf, |inner, table| json!({ table: inner })))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use semver::Version;

    use super::*;
    use crate::config::{PullPolicy, embedded};

    fn at<'a>(values: &'a Value, path: &str) -> &'a Value {
        path.split('.').fold(values, |table, key| &table[key])
    }

    /// Every key and its value, however deep.
    fn leaves(value: &Value, path: &str, found: &mut Vec<(String, String)>) {
        match value {
            Value::Object(table) => {
                for (key, value) in table {
                    leaves(value, &format!("{path}.{key}"), found);
                }
            }
            Value::Array(items) => {
                for item in items {
                    leaves(item, path, found);
                }
            }
            Value::String(text) => found.push((path.to_owned(), text.clone())),
            other => found.push((path.to_owned(), other.to_string())),
        }
    }

    fn all_leaves(lab: &Lab) -> Vec<(String, String)> {
        let mut found = Vec::new();
        leaves(&spire_values(lab).unwrap(), "spire", &mut found);
        leaves(&prometheus_values(lab).unwrap(), "prometheus", &mut found);
        found
    }

    /// The students' values file, where ours is not meant to differ.
    #[test]
    fn the_default_lab_is_the_students() {
        let values = spire_values(&embedded().unwrap()).unwrap();
        for (path, value) in [
            ("global.spire.clusterName", json!("kind-kind")),
            ("global.spire.trustDomain", json!("coastal-containers.example")),
            ("global.spire.strictMode", json!(true)),
            ("global.telemetry.prometheus.enabled", json!(true)),
            ("spire-server.image.tag", json!("1.7.2")),
            ("spire-server.namespaceOverride", json!("spire-server")),
            ("spire-server.replicaCount", json!(3)),
            ("spire-server.nodeAttestor.k8sPsat.serviceAccountAllowList", json!(["spire-system:spire-agent"])),
            ("spire-server.notifier.k8sbundle.namespace", json!("spire-system")),
            ("spire-server.ca_subject.organization", json!("Coastal Containers Ltd.")),
            ("spire-server.dataStore.sql.host", json!("spire-db")),
            ("spire-server.dataStore.sql.options", json!([{ "sslmode": "disable" }])),
            (
                "spire-server.controllerManager.ignoreNamespaces",
                json!(["kube-system", "kube-public", "local-path-storage"]),
            ),
            ("spire-server.tornjak.enabled", json!(true)),
            ("spire-agent.image.tag", json!("1.7.2")),
            ("spire-agent.namespaceOverride", json!("spire-system")),
            ("spire-agent.serviceAccount.name", json!("spire-agent")),
            ("spire-agent.server.namespaceOverride", json!("spire-server")),
            ("tornjak-frontend.enabled", json!(true)),
            ("tornjak-frontend.apiServerURL", json!("http://localhost:10000/")),
            ("spiffe-csi-driver.namespaceOverride", json!("spire-system")),
            ("spiffe-oidc-discovery-provider.enabled", json!(false)),
        ] {
            assert_eq!(at(&values, path), &value, "{path}");
        }
    }

    #[test]
    fn what_the_lab_says_is_what_the_chart_gets() {
        let mut lab = embedded().unwrap();
        let spire = &mut lab.spire;
        spire.release = "harbour".into();
        spire.server_namespace = "s".into();
        spire.system_namespace = "y".into();
        spire.trust_domain = "harbour.example".into();
        spire.server_version = Version::new(1, 8, 0);
        spire.agent_version = Version::new(1, 7, 6);
        spire.servers = 1;
        spire.tornjak = false;
        let values = spire_values(&lab).unwrap();
        for (path, value) in [
            ("spire-server.image.tag", json!("1.8.0")),
            ("spire-agent.image.tag", json!("1.7.6")),
            ("spire-server.replicaCount", json!(1)),
            ("spire-server.tornjak.enabled", json!(false)),
            ("tornjak-frontend.enabled", json!(false)),
            ("spire-agent.serviceAccount.name", json!("harbour-agent")),
            ("spire-server.nodeAttestor.k8sPsat.serviceAccountAllowList", json!(["y:harbour-agent"])),
            ("spire-server.notifier.k8sbundle.namespace", json!("y")),
            ("spire-agent.server.namespaceOverride", json!("s")),
            ("global.spire.jwtIssuer", json!("https://oidc-discovery.harbour.example")),
        ] {
            assert_eq!(at(&values, path), &value, "{path}");
        }
        let leftovers: Vec<_> = all_leaves(&lab)
            .into_iter()
            .filter(|(_, text)| text.starts_with("spire-s") || text.contains("kind.example"))
            .collect();
        assert_eq!(leftovers, []);
    }

    #[test]
    fn the_pull_policy_reaches_every_image() {
        for (pull, word) in [(PullPolicy::IfNotPresent, "IfNotPresent"), (PullPolicy::Always, "Always")] {
            let mut lab = embedded().unwrap();
            lab.images.pull = pull;
            let policies: Vec<_> =
                all_leaves(&lab).into_iter().filter(|(path, _)| path.to_lowercase().ends_with("pullpolicy")).collect();
            assert_eq!(policies.len(), SPIRE_IMAGES.len() + PROMETHEUS_IMAGES.len() + PROMETHEUS_SIDECARS.len());
            assert!(policies.iter().all(|(_, policy)| policy == word), "{policies:?}");
        }
    }

    #[test]
    fn no_value_is_a_secret_and_no_image_is_latest() {
        for (path, text) in all_leaves(&embedded().unwrap()) {
            assert!(!path.to_lowercase().ends_with("password"), "{path}");
            assert!(!text.contains("latest"), "{path}: {text}");
            assert!(!text.contains("example.org"), "{path}: {text}");
        }
        let values = spire_values(&embedded().unwrap()).unwrap();
        let secret = at(&values, "spire-server.dataStore.sql.externalSecret");
        assert_eq!(secret, &json!({ "enabled": true, "key": "password", "name": DatabaseSpec::SECRET }));
        // As the chart's template puts it together.
        for chart in ["spire-server", "tornjak-frontend"] {
            let image = at(&values, &format!("{chart}.tests.bash.image"));
            let text = |key: &str| image[key].as_str().unwrap();
            let name = format!("{}/{}:{}", text("registry"), text("repository"), text("tag"));
            assert!(
                name.starts_with("cgr.dev/chainguard/bash@sha256:")
                    && name.len() == "cgr.dev/chainguard/bash@sha256:".len() + 64
            );
        }
    }

    /// The Pod Security level `restricted`, which the servers' namespace enforces.
    #[test]
    fn what_runs_beside_the_servers_is_restricted() {
        let values = spire_values(&embedded().unwrap()).unwrap();
        for path in ["spire-server", "spire-server.controllerManager", "tornjak-frontend", "spire-agent"] {
            let context = at(&values, &format!("{path}.securityContext"));
            assert_eq!(context["allowPrivilegeEscalation"], json!(false), "{path}");
            assert_eq!(context["runAsNonRoot"], json!(true), "{path}");
            assert_eq!(context["capabilities"], json!({ "drop": ["ALL"] }), "{path}");
            assert_eq!(context["seccompProfile"], json!({ "type": "RuntimeDefault" }), "{path}");
        }
        for path in ["spire-server", "tornjak-frontend"] {
            assert_eq!(at(&values, &format!("{path}.podSecurityContext.runAsUser")), &json!(1000), "{path}");
        }
    }

    #[test]
    fn monitors_of_every_namespace_count_and_the_charts_own_are_off() {
        let lab = embedded().unwrap();
        assert_eq!(at(&spire_values(&lab).unwrap(), "global.telemetry.prometheus.podMonitor.enabled"), &json!(false));
        let values = prometheus_values(&lab).unwrap();
        for kind in ["podMonitor", "serviceMonitor", "rule", "probe"] {
            let path = format!("prometheus.prometheusSpec.{kind}SelectorNilUsesHelmValues");
            assert_eq!(at(&values, &path), &json!(false), "{path}");
        }
    }

    #[test]
    fn tables_are_merged_and_all_else_is_replaced() {
        for (base, over, merged) in [
            (json!({"a": {"b": 1, "c": 2}}), json!({"a": {"c": 3, "d": 4}}), json!({"a": {"b": 1, "c": 3, "d": 4}})),
            (json!({"a": [1, 2]}), json!({"a": [3]}), json!({"a": [3]})),
            (json!({"a": {"b": 1}}), json!({"a": 5}), json!({"a": 5})),
            (json!({"a": 5}), json!({"a": {"b": 1}}), json!({"a": {"b": 1}})),
            (json!({"a": {"b": 1}}), json!({"a": null}), json!({"a": null})),
        ] {
            assert_eq!(merge(base, over), merged);
        }
        let kept = merge(json!({"z": 1, "a": 2, "m": 3}), json!({"z": 9}));
        assert_eq!(kept.to_string(), r#"{"z":9,"a":2,"m":3}"#);
    }

    #[test]
    fn a_values_file_is_a_table() {
        assert_eq!(parse_file("f", "").unwrap(), json!({}));
        assert_eq!(parse_file("f", "# nothing\n").unwrap(), json!({}));
        assert_eq!(parse_file("f", "a: {b: 1}").unwrap(), json!({"a": {"b": 1}}));
        for text in ["- a", "text", "a: [", "a: 1\na: 2", "a: 1\n---\nb: 2"] {
            let failure = parse_file("mine.yaml", text).unwrap_err();
            assert_eq!(failure.kind, Kind::Config, "{text}");
            assert!(failure.message.contains("`mine.yaml`"), "{}", failure.message);
        }
    }

    fn tree() -> impl Strategy<Value = Value> {
        let leaf =
            prop_oneof![Just(Value::Null), any::<bool>().prop_map(Value::from), any::<u8>().prop_map(Value::from)];
        leaf.prop_recursive(3, 16, 4, |inner| {
            proptest::collection::btree_map("[a-c]", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect()))
        })
    }

    proptest! {
        #[test]
        fn merging_again_changes_nothing(base in tree(), over in tree()) {
            let once = merge(base.clone(), over.clone());
            prop_assert_eq!(&merge(once.clone(), over), &once);
            prop_assert_eq!(merge(json!({}), base.clone()), base);
        }
    }
}
