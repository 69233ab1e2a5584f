//! Values for the chart `spire`: from one set to what each line of the chart takes.

use semver::Version;
use serde_json::{Value, json};

use super::lines::{HOLDS_AGENTS, Line, OLDEST, ours};
use super::{merge, parse, path, policy_tree};
use crate::assets;
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

/// What a release of the chart `spire` runs. Not always what lab.toml says: on the way from one version to another
/// servers and agents move one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Images {
    /// Version of the servers.
    pub server: Version,
    /// Version of the agents.
    pub agent: Version,
}

impl Images {
    /// What lab.toml says.
    #[must_use]
    pub fn of(lab: &Lab) -> Images {
        Images { server: lab.spire.server_version.clone(), agent: lab.spire.agent_version.clone() }
    }
}

/// Which part of a release may move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Everything is as it stays.
    Settled,
    /// The servers move; the agents stay what they are, even if the chart has something new for them (from chart
    /// 0.18.0 on: until the release is settled again; before, a change to their pods rolls them).
    ///
    /// The webhook that checks `ClusterSPIFFEID`s is lenient meanwhile, as the chart's own pre-upgrade hook makes it:
    /// it lives in the servers. The hook itself is left out, for it asks for a webhook of the name that the new
    /// chart has, and fails where a name changed.
    Servers,
}

const FAILURE_POLICY: &str = "spire-server.controllerManager.validatingWebhookConfiguration.failurePolicy";

/// Our values for the chart `spire` of version `chart`. No secret is among them: the servers read the database's
/// password from the Secret [`DatabaseSpec::SECRET`].
///
/// # Errors
/// The chart is older than [`OLDEST`].
pub fn spire_values(lab: &Lab, chart: &Version, images: &Images, phase: Phase) -> Result<Value, Failure> {
    let line = Line::from(chart);
    if line < OLDEST {
        return Err(Failure::new(
            Kind::Config,
            format!("chart spire {chart} is not supported: the oldest is {OLDEST}, which can be told its versions"),
        ));
    }
    let mut values = ours(base(lab, images)?, line, lab.images.pull.as_kubernetes());
    if phase == Phase::Servers {
        path::set(&mut values, FAILURE_POLICY, "Ignore".into());
        if line >= HOLDS_AGENTS {
            path::set(&mut values, "spire-agent.updateStrategy.type", "OnDelete".into());
        }
    }
    Ok(values)
}

/// Under the names of chart 0.13.
fn base(lab: &Lab, images: &Images) -> Result<Value, Failure> {
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
            "image": { "tag": images.server.to_string() },
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
            "image": { "tag": images.agent.to_string() },
            "serviceAccount": { "name": agent },
            "server": { "namespaceOverride": server },
        },
        "spiffe-csi-driver": { "namespaceOverride": system },
        "tornjak-frontend": { "enabled": spire.tornjak, "namespaceOverride": server },
    });
    let policies = policy_tree(lab, SPIRE_IMAGES, "pullPolicy");
    Ok(merge(merge(parse(assets::SPIRE_VALUES)?, figures), policies))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{PullPolicy, embedded};

    fn at<'a>(values: &'a Value, path: &str) -> &'a Value {
        path::get(values, path).unwrap_or(&Value::Null)
    }

    fn for_chart(lab: &Lab, chart: &str) -> Value {
        spire_values(lab, &chart.parse().unwrap(), &Images::of(lab), Phase::Settled).unwrap()
    }

    /// What two tables differ in, one line each.
    fn difference(old: &Value, new: &Value) -> String {
        let (old, new) = (path::leaves(old), path::leaves(new));
        let gone = old.iter().filter(|leaf| !new.contains(leaf)).map(|(path, text)| format!("- {path} = {text}"));
        let come = new.iter().filter(|leaf| !old.contains(leaf)).map(|(path, text)| format!("+ {path} = {text}"));
        gone.chain(come).collect::<Vec<_>>().join("\n")
    }

    /// The students' values file, where ours is not meant to differ.
    #[test]
    fn the_default_lab_is_the_students() {
        let values = for_chart(&embedded().unwrap(), "0.13.0");
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
        let values = for_chart(&lab, "0.13.0");
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
        let leftovers: Vec<_> = path::leaves(&values)
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
            for (chart, more) in [("0.13.0", 0), ("0.17.2", 1), ("0.30.0", 0)] {
                let policies: Vec<_> = path::leaves(&for_chart(&lab, chart))
                    .into_iter()
                    .filter(|(path, _)| path.to_lowercase().ends_with("pullpolicy"))
                    .collect();
                assert_eq!(policies.len(), SPIRE_IMAGES.len() + more, "{chart}");
                assert!(policies.iter().all(|(_, policy)| policy == word), "{policies:?}");
            }
        }
    }

    #[test]
    fn no_value_is_a_secret_and_no_image_is_latest() {
        let values = for_chart(&embedded().unwrap(), "0.13.0");
        for (path, text) in path::leaves(&values) {
            assert!(!path.to_lowercase().ends_with("password"), "{path}");
            assert!(!text.contains("latest"), "{path}: {text}");
            assert!(!text.contains("example.org"), "{path}: {text}");
        }
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
        let lab = embedded().unwrap();
        let containers = ["spire-server", "spire-server.controllerManager", "tornjak-frontend", "spire-agent"];
        for chart in ["0.13.0", "0.30.0"] {
            let values = for_chart(&lab, chart);
            let tornjak = (chart == "0.30.0").then_some("spire-server.tornjak");
            for path in containers.into_iter().chain(tornjak) {
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
    }

    #[test]
    fn the_charts_own_monitors_are_off() {
        let values = for_chart(&embedded().unwrap(), "0.13.0");
        assert_eq!(at(&values, "global.telemetry.prometheus.podMonitor.enabled"), &json!(false));
    }

    /// All that distinguishes a chart's values from those of the chart before, for every chart at which they change.
    #[test]
    fn what_each_line_of_the_chart_needs() {
        let lab = embedded().unwrap();
        let mut told = Vec::new();
        let mut before = for_chart(&lab, "0.13.0");
        for chart in [
            "0.13.1", "0.13.2", "0.14.0", "0.15.0", "0.15.1", "0.16.0", "0.17.0", "0.17.1", "0.17.2", "0.18.0",
            "0.18.1", "0.18.2", "0.19.0", "0.19.1", "0.19.2", "0.20.0", "0.21.0", "0.21.1", "0.22.0", "0.23.0",
            "0.24.0", "0.24.5", "0.25.0", "0.26.0", "0.26.1", "0.27.0", "0.27.1", "0.28.0", "0.28.5", "0.29.0",
            "0.30.0",
        ] {
            let values = for_chart(&lab, chart);
            if values != before {
                told.push(format!("# {chart}\n{}", difference(&before, &values)));
            }
            before = values;
        }
        insta::assert_snapshot!(told.join("\n\n"));
    }

    #[test]
    fn versions_are_those_of_the_turn_and_not_of_the_lab() {
        let lab = embedded().unwrap();
        let images = Images { server: Version::new(1, 9, 6), agent: Version::new(1, 8, 11) };
        for chart in ["0.13.0", "0.30.0"] {
            let values = spire_values(&lab, &chart.parse().unwrap(), &images, Phase::Settled).unwrap();
            assert_eq!(at(&values, "spire-server.image.tag"), &json!("1.9.6"));
            assert_eq!(at(&values, "spire-agent.image.tag"), &json!("1.8.11"));
        }
    }

    #[test]
    fn while_servers_move_agents_are_held_and_the_webhook_is_lenient() {
        let lab = embedded().unwrap();
        for (chart, told) in [
            ("0.13.0", format!("- {FAILURE_POLICY} = Fail\n+ {FAILURE_POLICY} = Ignore")),
            (
                "0.18.0",
                format!(
                    "- {FAILURE_POLICY} = Fail\n+ {FAILURE_POLICY} = Ignore\n\
                     + spire-agent.updateStrategy.type = OnDelete"
                ),
            ),
        ] {
            let moving = spire_values(&lab, &chart.parse().unwrap(), &Images::of(&lab), Phase::Servers).unwrap();
            assert_eq!(difference(&for_chart(&lab, chart), &moving), told, "{chart}");
        }
    }

    #[test]
    fn a_chart_that_cannot_be_told_its_versions_is_refused() {
        let lab = embedded().unwrap();
        let values = |chart: &str| spire_values(&lab, &chart.parse().unwrap(), &Images::of(&lab), Phase::Settled);
        assert!(values("0.8.0").is_ok());
        let failure = values("0.7.0").unwrap_err();
        assert_eq!(failure.kind, Kind::Config);
        assert!(failure.message.contains("0.7.0") && failure.message.contains("0.8.0"), "{}", failure.message);
        // A build of a chart's future version has that version's names.
        assert_eq!(values("0.24.0-dev").unwrap(), values("0.24.0").unwrap());
    }
}
