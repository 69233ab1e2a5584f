//! What the charts `spire` and `spire-crds` compute and refuse, line by line (facts, section 2).

use std::collections::BTreeSet;

use semver::Version;
use serde_json::{Map, Value, json};

use super::template::{get, is_set, word};
use super::{Chart, HARDENED};
use crate::rehearsal::object::{items, set, text};
use crate::rehearsal::store::{Key, Store};
use crate::spire::charts as published;

/// The first version of this world; the archived repository ends with it, and the other one has all.
const FIRST: Version = Version::new(0, 13, 0);

/// Charts whose `appVersion` is not that of what they deploy, and what it is (facts, section 2).
const MISNAMED: &[(&str, &str)] = &[("0.19.2", "1.9.2"), ("0.29.0", "1.14.5"), ("0.30.0", "1.14.5")];

/// Every version of both charts.
pub(super) fn charts() -> impl Iterator<Item = Chart> {
    let line = || published::all().filter(|row| *row.version() >= FIRST);
    let spire = line().map(|row| {
        let (version, image) = (row.version().clone(), row.spire().version().to_string());
        let misnamed = MISNAMED.iter().find(|(other, _)| *other == version.to_string());
        Chart {
            name: "spire",
            app_version: misnamed.map_or_else(|| image.clone(), |(_, name)| (*name).to_owned()),
            image,
            repository: if version == FIRST { "https://spiffe.github.io/helm-charts" } else { HARDENED },
            version,
            templates: include_str!("../data/spire.yaml"),
            values: include_str!("../data/spire-values.yaml"),
        }
    });
    let crds: BTreeSet<&Version> = line().filter_map(published::Chart::crds).collect();
    let crds = crds.into_iter().map(|version| Chart {
        name: "spire-crds",
        version: version.clone(),
        app_version: "0.0.1".to_owned(),
        image: String::new(),
        repository: HARDENED,
        templates: include_str!("../data/spire-crds.yaml"),
        values: "{}",
    });
    spire.chain(crds)
}

/// Keys that charts from 0.24.0 on do not take any more, with the chart's words.
const RENAMED: &[(&str, &str)] = &[
    ("spire-agent.nodeAttestor.k8sPsat", "spire-agent/templates/daemonset.yaml:4:6): k8sPsat was renamed to k8sPSAT"),
    (
        "spire-agent.sds.defaultSvidName",
        "spire-agent/templates/daemonset.yaml:7:6): defaultSvidName was renamed to defaultSVIDName",
    ),
    (
        "spire-server.ca_subject",
        "spire-server/templates/server-resource.yaml:10:6): ca_subject was renamed to caSubject",
    ),
    (
        "spire-server.nodeAttestor.k8sPsat",
        "spire-server/templates/server-resource.yaml:28:6): k8sPsat was renamed to k8sPSAT",
    ),
    (
        "spire-server.notifier.k8sbundle",
        "spire-server/templates/server-resource.yaml:34:6): k8sbundle was renmaed to k8sBundle",
    ),
];

/// Values that `global.spire.strictMode` refuses, from 0.14.0 on: the charts' own examples.
const EXAMPLES: &[(&str, &str, &str)] = &[
    ("clusterName", "global.spire.clusterName", "example-cluster"),
    ("trustDomain", "global.spire.trustDomain", "example.org"),
    ("jwtIssuer", "global.spire.jwtIssuer", "https://oidc-discovery.example.org"),
    ("caSubject.country", "ca.country", "ARPA"),
    ("caSubject.organization", "ca.organization", "Example"),
    ("caSubject.commonName", "ca.commonName", "example.org"),
];

/// What the chart itself refuses; in words as after helm's `Error: `.
pub(super) fn refuse(chart: &Chart, scope: &Value) -> Result<(), String> {
    let fail = |words: String| {
        Err(format!("execution error at (spire/charts/{words}\n\nUse --debug flag to render out invalid YAML"))
    };
    let replicas = get(scope, "spire-server.replicaCount").and_then(Value::as_i64).unwrap_or(1);
    if chart.is_since("0.14.0")
        && is_set(get(scope, "global.spire.strictMode"))
        && let Some((name, ..)) = EXAMPLES.iter().find(|(_, path, example)| word(scope, path) == *example)
    {
        let name = if chart.is_since("0.24.0") { (*name).to_owned() } else { name.replace("caSubject", "ca_subject") };
        return fail(format!("spire-server/templates/configmap.yaml:1:4): {name} must be set"));
    }
    if chart.is_since("0.24.0")
        && let Some((_, words)) = RENAMED.iter().find(|(path, _)| get(scope, path).is_some())
    {
        return fail(format!("{words}. Please update your config."));
    }
    if is_set(get(scope, "spire-server.dataStore.sql.plugin_data")) && chart.is_since("0.20.0") {
        return fail("spire-server/templates/server-resource.yaml:54:6): The plugin_data setting to the sql data store is no longer supported.".to_owned());
    }
    if is_set(get(scope, "publisher.enabled")) && is_set(get(scope, "notifier.enabled")) {
        return fail("spire-server/templates/bundle-configmap.yaml:2:4): You can only enable either notifier.k8sBundle or bundlePublisher.k8sConfigMap.".to_owned());
    }
    if replicas > 1 && word(scope, "spire-server.dataStore.sql.databaseType") == "sqlite3" {
        return fail("spire-server/templates/statefulset.yaml:20:6): When running with sqlite3 database, you can't scale up to more then one instance. 'replicaCount' MUST be 1".to_owned());
    }
    if is_set(get(scope, "spiffe-oidc-discovery-provider.enabled")) {
        return fail("spiffe-oidc-discovery-provider): the rehearsal does not know the objects of the OIDC provider; set spiffe-oidc-discovery-provider.enabled to false".to_owned());
    }
    Ok(())
}

/// What the charts' helpers make of the values: names, namespaces, and what has another name in other lines.
pub(super) fn set_derived(chart: &Chart, scope: &mut Value, release: &str, namespace: &str) {
    let camel = chart.is_since("0.24.0");
    let or = |first: &str, second: &str| if first.is_empty() { second.to_owned() } else { first.to_owned() };
    let server = or(word(scope, "spire-server.namespaceOverride"), namespace);
    let notifier_ns =
        word(scope, &format!("spire-server.notifier.{}.namespace", if camel { "k8sBundle" } else { "k8sbundle" }));
    let publisher_ns = or(word(scope, "spire-server.bundlePublisher.k8sConfigMap.namespace"), &server);
    let publishes = chart.is_since("0.26.0") && is_set(get(scope, "spire-server.bundlePublisher.k8sConfigMap.enabled"));
    let notifies = !chart.is_since("0.26.0") || is_set(get(scope, "spire-server.notifier.k8sBundle.enabled"));
    let ns = json!({
        "server": server,
        "agent": or(word(scope, "spire-agent.namespaceOverride"), namespace),
        "csi": or(word(scope, "spiffe-csi-driver.namespaceOverride"), namespace),
        "frontend": or(word(scope, "tornjak-frontend.namespaceOverride"), namespace),
        // Where the right to write the bundle is given, which from 0.26.0 on need not be where it is written.
        "bundle": or(notifier_ns, if publishes { &publisher_ns } else { &server }),
        "published": publisher_ns,
    });
    let subject = |new: &str, old: &str| {
        word(
            scope,
            &if camel { format!("spire-server.caSubject.{new}") } else { format!("spire-server.ca_subject.{old}") },
        )
        .to_owned()
    };
    let ca = json!({
        "country": subject("country", "country"),
        "organization": subject("organization", "organization"),
        "commonName": subject("commonName", "common_name"),
    });
    let others: Vec<&str> = [namespace, &server].into_iter().collect();
    let excluded = excluded_namespaces(scope, &others);
    let format = or(word(scope, "spire-agent.trustBundleFormat"), if publishes { "spiffe" } else { "pem" });
    let class = format!("{namespace}-{release}");
    set(scope, "/ns", ns);
    set(scope, "/ca", ca);
    set(scope, "/publisher", json!({"enabled": publishes}));
    set(scope, "/notifier", json!({"enabled": notifies}));
    set(scope, "/bundleKey", format!("bundle.{}", if format == "spiffe" { "spiffe" } else { "crt" }));
    set(scope, "/class", class.as_str());
    let labels = json!({
        "app.kubernetes.io/name": "server", "app.kubernetes.io/instance": release, "app.kubernetes.io/component": "server",
        "release": release, "release-namespace": namespace, "component": "server",
    });
    set(scope, "/podLabels", labels);
    let home = or(word(scope, "spire-agent.server.namespaceOverride"), word(scope, "ns.server"));
    set(scope, "/address", format!("{}.{home}", word(scope, "name.server")));
    let port = get(scope, "spire-agent.server.port").map(ToString::to_string).unwrap_or_default();
    set(scope, "/port", port.trim_matches('"'));
    let webhook = format!("{release}-controller-manager-webhook");
    set(scope, "/webhook", if chart.is_since("0.15.0") { format!("{namespace}-{webhook}") } else { webhook });
    let manager = "spire-server.controllerManager";
    let strict = word(scope, &format!("{manager}.validatingWebhookConfiguration.failurePolicy")) == "Fail";
    let hooks = strict
        && is_set(get(scope, "global.installAndUpgradeHooks.enabled"))
        && is_set(get(scope, &format!("{manager}.enabled")));
    set(scope, "/hooks", hooks);
    if word(scope, "spire-agent.updateStrategy.type") == "RollingUpdate" {
        let rolling = get(scope, "spire-agent.updateStrategy.rollingUpdate").cloned();
        set(scope, "/rolling", rolling);
    }
    set(scope, "/identity", default_identity(chart, scope, &excluded));
    set(scope, "/around", json!({"matchExpressions": [{"key": METADATA_NAME, "operator": "In", "values": excluded}]}));
}

/// The label by which a namespace is selected by name.
const METADATA_NAME: &str = "kubernetes.io/metadata.name";

/// The release's own namespaces, of which the default identity keeps away from 0.17.0 on.
fn excluded_namespaces(scope: &Value, others: &[&str]) -> Vec<String> {
    let named = ["server", "system"].map(|which| word(scope, &format!("global.spire.namespaces.{which}.name")));
    let mut all: Vec<String> = Vec::new();
    for name in others.iter().copied().chain(named).filter(|name| !name.is_empty()) {
        if !all.iter().any(|known| known == name) {
            all.push(name.to_owned());
        }
    }
    all
}

/// The default `ClusterSPIFFEID`: whether there is one, and what it selects.
fn default_identity(chart: &Chart, scope: &Value, excluded: &[String]) -> Value {
    let at = if chart.is_since("0.16.0") { "identities.clusterSPIFFEIDs.default" } else { "identities" };
    let own = |key: &str| get(scope, &format!("spire-server.controllerManager.{at}.{key}")).cloned();
    let enabled = is_set(get(scope, "spire-server.controllerManager.enabled"))
        && own("enabled").is_none_or(|enabled| is_set(Some(&enabled)));
    let mut namespaces = own("namespaceSelector").filter(Value::is_object).unwrap_or_else(|| json!({}));
    if chart.is_since("0.17.0") && own("type").is_none_or(|kind| kind != "raw") {
        let mut all: Vec<Value> = items(&namespaces, "/matchExpressions").cloned().collect();
        all.push(json!({"key": METADATA_NAME, "operator": "NotIn", "values": excluded}));
        set(&mut namespaces, "/matchExpressions", all);
    }
    let some = |value: Option<Value>| value.filter(|value| is_set(Some(value)));
    let mut identity = Map::new();
    identity.insert("enabled".to_owned(), enabled.into());
    for (key, value) in [
        ("namespaceSelector", some(Some(namespaces))),
        ("podSelector", some(own("podSelector"))),
        ("spiffeIDTemplate", some(own("spiffeIDTemplate"))),
        ("fallback", chart.is_since("0.24.0").then(|| own("fallback")).flatten()),
        ("hint", chart.is_since("0.24.0").then(|| own("hint").unwrap_or_else(|| "default".into()))),
    ] {
        identity.extend(value.map(|value| (key.to_owned(), value)));
    }
    identity.into()
}

/// What `lookup` in the chart's hooks finds in the cluster.
pub(super) fn set_found(chart: &Chart, scope: &mut Value, store: Option<&Store>) {
    let mut webhook = word(scope, "webhook").to_owned();
    let Some(store) = store else {
        set(scope, "/found", json!({"webhook": webhook}));
        return;
    };
    let agents = store.get(&Key::new("apps/v1", "DaemonSet", word(scope, "ns.agent"), word(scope, "name.agent")));
    let hooks = is_set(get(scope, "global.installAndUpgradeHooks.enabled"));
    let unlabelled =
        agents.is_some_and(|agents| text(&agents, "/metadata/labels/app.kubernetes.io~1component").is_empty());
    // Only the line that gave it the new name looks for the old one.
    let kind = "ValidatingWebhookConfiguration";
    let key = Key::new("admissionregistration.k8s.io/v1", kind, "", &webhook);
    if chart.is_since("0.15.0") && !chart.is_since("0.17.0") && store.shared(&key).is_none() {
        webhook = format!("{}-controller-manager-webhook", word(scope, "name.release"));
    }
    set(scope, "/found", json!({"deletesAgents": hooks && unlabelled, "webhook": webhook}));
}
