//! What the configuration files of servers and agents say, and what in them a program of another version refuses.

use jiff::SignedDuration;
use semver::Version;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::rehearsal::authority::Subject;
use crate::rehearsal::object::{items, text};
use crate::rehearsal::pods;
use crate::rehearsal::store::{Key, Store};

/// Settings that came or went: whose, which, and from which version to before which it is known. Taken from the
/// sources of every release; anything unknown ends the program at once.
const SETTINGS: &[(&str, &str, &str, &str)] = &[
    ("agent", "retry_bootstrap", "1.9.2", "1.14.0"),
    ("agent", "rebootstrap_mode", "1.13.0", "99.0.0"),
    ("agent", "rebootstrap_delay", "1.13.0", "99.0.0"),
    ("server", "disable_jwt_svids", "1.14.0", "99.0.0"),
];
/// The first server that has the publisher `k8s_configmap`.
const CONFIGMAP_PUBLISHER_SINCE: Version = Version::new(1, 12, 4);

/// The lines of a program of that version that does not take this configuration.
fn unknown(section: &str, config: &Value, version: &Version) -> Option<Vec<String>> {
    let of = |text: &str| Version::parse(text).unwrap_or_else(|_| Version::new(0, 0, 0));
    let mut keys: Vec<&str> = SETTINGS
        .iter()
        .filter(|(whose, key, ..)| *whose == section && config.pointer(&format!("/{section}/{key}")).is_some())
        .filter(|(.., since, before)| *version < of(since) || *version >= of(before))
        .map(|(_, key, ..)| *key)
        .collect();
    keys.sort_unstable();
    let quote = if keys.len() > 1 { "\"" } else { "" };
    (!keys.is_empty()).then(|| {
        vec![
            format!(
                "level=error msg=\"Unknown configuration detected\" keys={quote}{}{quote} section={section}",
                keys.join(",")
            ),
            "unknown configuration detected".to_owned(),
        ]
    })
}

/// What a server's configuration says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Settings {
    pub(crate) trust_domain: String,
    pub(crate) cluster: String,
    /// Where its data store is: a host name, or nothing for sqlite.
    pub(super) database_host: Option<String>,
    /// Where it writes the bundle that agents boot from.
    pub(super) bundle: Key,
    /// The bundle goes there by the publisher `k8s_configmap`, not by the notifier `k8sbundle`.
    pub(super) publishes: bool,
    pub(super) subject: Subject,
    pub(super) ca_ttl: SignedDuration,
    pub(crate) svid_ttl: SignedDuration,
    pub(super) manager: Manager,
}

/// What the controller manager beside a server is told.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Manager {
    pub(super) ignored: Vec<String>,
    /// Only `ClusterSPIFFEID`s of this class count.
    pub(super) class: Option<String>,
    /// Those without a class count as well.
    pub(super) classless: bool,
    /// What the ids of its entries begin with.
    pub(super) prefix: String,
}

impl Settings {
    /// Out of the files that the pod mounts.
    pub(crate) fn of(store: &Store, pod: &Value) -> Option<Self> {
        let config: Value = serde_json::from_str(&pods::mounted(store, pod, "server.conf")?).ok()?;
        let sql = config.pointer("/plugins/DataStore/0/sql/plugin_data")?;
        let host = text(sql, "/connection_string").split(' ').find_map(|word| word.strip_prefix("host="));
        // An object in older charts, a list of objects in newer ones.
        let clusters = config.pointer("/plugins/NodeAttestor/0/k8s_psat/plugin_data/clusters")?;
        let cluster = clusters.as_object().or_else(|| clusters.get(0)?.as_object())?.keys().next()?;
        let published = config
            .pointer("/plugins/BundlePublisher/0/k8s_configmap/plugin_data/clusters/0/chart-internal")
            .map(|target| (target, "/configmap_name"));
        let notified =
            config.pointer("/plugins/Notifier/0/k8sbundle/plugin_data").map(|target| (target, "/config_map"));
        let (target, name) = published.or(notified)?;
        let subject = |field: &str| {
            let value = config.pointer(&format!("/server/ca_subject/0/{field}")).cloned().unwrap_or_default();
            value.as_str().or_else(|| value[0].as_str()).unwrap_or_default().to_owned()
        };
        Some(Settings {
            trust_domain: text(&config, "/server/trust_domain").to_owned(),
            cluster: cluster.clone(),
            database_host: (text(sql, "/database_type") == "postgres").then(|| host.unwrap_or_default().to_owned()),
            bundle: Key::new("v1", "ConfigMap", text(target, "/namespace"), text(target, name)),
            publishes: published.is_some(),
            subject: Subject {
                country: subject("country"),
                organization: subject("organization"),
                common_name: subject("common_name"),
            },
            ca_ttl: duration(text(&config, "/server/ca_ttl"))?,
            svid_ttl: duration(text(&config, "/server/default_x509_svid_ttl"))?,
            manager: Manager::of(store, pod),
        })
    }

    /// The last lines of a server of that version that does not take what the pod mounts.
    pub(super) fn refusal(store: &Store, pod: &Value, version: &Version) -> Option<Vec<String>> {
        let config: Value = serde_json::from_str(&pods::mounted(store, pod, "server.conf")?).ok()?;
        let unknown = unknown("server", &config, version);
        unknown.or_else(|| {
            let publisher = config.pointer("/plugins/BundlePublisher/0/k8s_configmap").is_some();
            (publisher && *version < CONFIGMAP_PUBLISHER_SINCE).then(|| {
                super::server::fatal("failed to load plugin \"k8s_configmap\": no built-in plugin \"k8s_configmap\" for type \"BundlePublisher\"")
            })
        })
    }
}

impl Manager {
    fn of(store: &Store, pod: &Value) -> Self {
        let yaml = pods::mounted(store, pod, "controller-manager-config.yaml");
        let config: Value = yaml.and_then(|yaml| serde_yaml::from_str(&yaml).ok()).unwrap_or_default();
        let prefix = text(&config, "/entryIDPrefix");
        Manager {
            ignored: items(&config, "/ignoreNamespaces").filter_map(Value::as_str).map(str::to_owned).collect(),
            class: config.get("className").and_then(Value::as_str).map(str::to_owned),
            classless: config["watchClassless"] == true,
            prefix: if prefix.is_empty() { String::new() } else { format!("{prefix}.") },
        }
    }
}

/// What an agent's configuration says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct AgentSettings {
    /// Host and port by which it finds its servers.
    pub(super) server: (String, String),
    pub(super) cluster: String,
    /// The file with the bundle that it boots from, among what its pod mounts.
    #[serde(default)]
    pub(super) bundle: String,
    /// What it keeps outlives its container, but not its pod.
    #[serde(default)]
    pub(super) keeps: bool,
    /// It replaces its bundle if the servers are not of it (`rebootstrap_mode`).
    #[serde(default)]
    pub(super) rebootstraps: bool,
}

impl AgentSettings {
    fn config(store: &Store, pod: &Value) -> Option<Value> {
        serde_json::from_str(&pods::mounted(store, pod, "agent.conf")?).ok()
    }

    /// Out of the file that the pod mounts.
    pub(crate) fn of(store: &Store, pod: &Value) -> Option<Self> {
        let config = AgentSettings::config(store, pod)?;
        let cluster = text(&config, "/plugins/NodeAttestor/0/k8s_psat/plugin_data/cluster").to_owned();
        let server = |key: &str| text(&config, key).to_owned();
        Some(AgentSettings {
            server: (server("/agent/server_address"), server("/agent/server_port")),
            cluster,
            bundle: text(&config, "/agent/trust_bundle_path").rsplit('/').next().unwrap_or_default().to_owned(),
            // From chart 0.23.0 on that directory is an emptyDir; before, the container's own.
            keeps: text(&config, "/agent/data_dir").starts_with("/var/lib/"),
            rebootstraps: matches!(text(&config, "/agent/rebootstrap_mode"), "always" | "auto"),
        })
    }

    /// The last lines of an agent of that version that does not take what the pod mounts.
    pub(crate) fn refusal(store: &Store, pod: &Value, version: &Version) -> Option<Vec<String>> {
        let config = AgentSettings::config(store, pod)?;
        let unknown = unknown("agent", &config, version);
        unknown.or_else(|| {
            let path = text(&config, "/agent/trust_bundle_path");
            let file = path.rsplit('/').next().unwrap_or_default();
            pods::mounted(store, pod, file)
                .is_none()
                .then(|| vec![format!("could not parse trust bundle: open {path}: no such file or directory")])
        })
    }
}

/// As Go writes durations: `4h`, `1h30m`, `300s`.
fn duration(text: &str) -> Option<SignedDuration> {
    let mut total = SignedDuration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, unit) = (rest[..digits].parse::<i64>().ok()?, rest.as_bytes()[digits]);
        total += match unit {
            b'h' => SignedDuration::from_hours(number),
            b'm' => SignedDuration::from_mins(number),
            b's' => SignedDuration::from_secs(number),
            _ => return None,
        };
        rest = &rest[digits + 1..];
    }
    (!total.is_zero()).then_some(total)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn durations_are_gos() {
        for (text, seconds) in [
            ("4h", Some(14_400)),
            ("5m", Some(300)),
            ("1h30m", Some(5_400)),
            ("90s", Some(90)),
            ("", None),
            ("5", None),
            ("4d", None),
        ] {
            assert_eq!(duration(text).map(|duration| duration.as_secs()), seconds, "{text}");
        }
    }

    #[test]
    fn settings_are_known_to_some_versions_only() {
        for (section, key, version, refused) in [
            ("agent", "retry_bootstrap", "1.9.1", true),
            ("agent", "retry_bootstrap", "1.9.2", false),
            ("agent", "retry_bootstrap", "1.13.6", false),
            ("agent", "retry_bootstrap", "1.14.0", true),
            ("agent", "rebootstrap_mode", "1.12.6", true),
            ("agent", "rebootstrap_mode", "1.13.0", false),
            ("server", "disable_jwt_svids", "1.13.6", true),
            ("server", "disable_jwt_svids", "1.14.0", false),
            ("server", "ca_ttl", "1.7.2", false),
        ] {
            let config = json!({section: {key: "x"}});
            let lines = unknown(section, &config, &Version::parse(version).unwrap());
            assert_eq!(lines.is_some(), refused, "{key} {version}");
            assert!(lines.is_none_or(|lines| lines[1] == "unknown configuration detected"));
        }
    }
}
