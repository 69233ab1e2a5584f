//! What charts make of values, line by line (facts, section 2, and the charts themselves).

use super::*;
use crate::rehearsal::object::items;

fn render(version: &str, values: &Value) -> Result<Vec<Value>, String> {
    let mut all = json!({"spiffe-oidc-discovery-provider": {"enabled": false}});
    merge(&mut all, values);
    Chart::find("spire", version).unwrap().render("spire", "default", &all, None)
}

fn spire(values: &Value) -> Vec<Value> {
    render("0.13.0", values).unwrap()
}

fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    objects
        .iter()
        .find(|o| o["kind"] == kind && o["metadata"]["name"] == name)
        .unwrap_or_else(|| panic!("{kind} {name}"))
}

#[test]
fn values_reach_the_objects() {
    let objects = spire(&json!({
        "spire-server": {"namespaceOverride": "spire-server", "replicaCount": 3, "image": {"tag": "1.7.3"},
            "dataStore": {"sql": {"databaseType": "postgres", "password": "s", "host": "spire-db"}},
            "tornjak": {"enabled": true}, "notifier": {"k8sbundle": {"namespace": "spire-system"}}},
        "spire-agent": {"namespaceOverride": "spire-system", "podSecurityContext": {"runAsUser": 1000},
            "readinessProbe": {"periodSeconds": 3}},
    }));
    let servers = find(&objects, "StatefulSet", "spire-server");
    assert_eq!(servers["spec"]["replicas"], 3);
    let containers: Vec<_> = servers
        .pointer("/spec/template/spec/containers")
        .unwrap()
        .as_array()
        .unwrap()
        .iter()
        .map(|c| &c["name"])
        .collect();
    assert_eq!(containers, ["spire-server", "spire-controller-manager", "tornjak"]);
    assert_eq!(servers.pointer("/spec/template/spec/containers/0/image").unwrap(), "ghcr.io/spiffe/spire-server:1.7.3");
    let agents = find(&objects, "DaemonSet", "spire-agent");
    assert_eq!(agents["metadata"]["namespace"], "spire-system");
    // Always, whatever the lab pulls with: facts, section 9.
    assert_eq!(agents.pointer("/spec/template/spec/initContainers/1/imagePullPolicy").unwrap(), "Always");
    assert_eq!(
        *agents.pointer("/spec/template/spec/containers/0/readinessProbe").unwrap(),
        json!({"httpGet": {"path": "/ready", "port": "healthz"}, "initialDelaySeconds": 15, "periodSeconds": 3})
    );
    assert_eq!(find(&objects, "ConfigMap", "spire-bundle")["metadata"]["namespace"], "spire-system");
    assert_eq!(find(&objects, "Secret", "spire-server-dbpw")["data"]["DBPW"], "cw==");
    let config = find(&objects, "ConfigMap", "spire-server").pointer("/data/server.conf").unwrap().as_str().unwrap();
    assert!(config.contains("password=${DBPW} host=spire-db"), "{config}");
    assert!(serde_json::from_str::<Value>(config).is_ok(), "{config}");
}

#[test]
fn what_is_off_is_not_there() {
    let objects = spire(&json!({"spire-agent": {"enabled": false}}));
    assert!(!objects.iter().any(|o| o["kind"] == "DaemonSet" && o["metadata"]["name"] == "spire-agent"));
    assert!(!objects.iter().any(|o| o["kind"] == "PodMonitor" || o["metadata"]["name"] == "spire-tornjak-frontend"));
    assert!(find(&objects, "StatefulSet", "spire-server").pointer("/spec/template/spec/priorityClassName").is_none());
}

#[test]
fn every_chart_renders_with_its_own_values() {
    for chart in Chart::all() {
        let values = json!({"spiffe-oidc-discovery-provider": {"enabled": false}});
        let objects = chart.render("r", "ns", &values, None).unwrap();
        for object in &objects {
            assert!(!text(object, "/metadata/name").is_empty() && !object.to_string().contains("${image"), "{object}");
        }
        let definitions = objects.iter().any(|object| object["kind"] == "CustomResourceDefinition");
        assert_eq!(definitions, chart.name != "spire" || !chart.is_since("0.14.0"), "{} {}", chart.name, chart.version);
    }
}

#[test]
fn sqlite_takes_one_server() {
    let chart = Chart::find("spire", "0.13.0").unwrap();
    let error = chart.render("spire", "default", &json!({"spire-server": {"replicaCount": 3}}), None).unwrap_err();
    assert!(error.contains("sqlite3"), "{error}");
}

#[test]
fn names_are_the_charts() {
    let chart = Chart::find("kube-prometheus-stack", "51.9.2").unwrap();
    let values = json!({"prometheus": {"prometheusSpec": {"podMonitorSelectorNilUsesHelmValues": false}}});
    let objects = chart.render("prometheus", "monitoring", &values, None).unwrap();
    let prometheus = find(&objects, "Prometheus", "prometheus-kube-prometheus-prometheus");
    assert_eq!(prometheus["spec"]["podMonitorSelector"], json!({}));
    find(&objects, "Deployment", "prometheus-grafana");
    find(&objects, "CustomResourceDefinition", "prometheuses.monitoring.coreos.com");
}

/// `ghcr.io/spiffe/spire-server:X` of the servers, and of the agents.
fn images(objects: &[Value]) -> [String; 2] {
    [("StatefulSet", "spire-server"), ("DaemonSet", "spire-agent")].map(|(kind, name)| {
        let image = text(find(objects, kind, name), "/spec/template/spec/containers/0/image");
        image.rsplit(':').next().unwrap_or_default().to_owned()
    })
}

#[test]
fn images_are_pinned_by_tag_and_up_to_0_16_by_version() {
    for (chart, values, expected) in [
        ("0.13.0", json!({}), ["1.7.2", "1.7.2"]),
        ("0.16.0", json!({"spire-server": {"image": {"version": "1.7.1"}}}), ["1.7.1", "1.8.5"]),
        ("0.17.0", json!({"spire-server": {"image": {"version": "1.7.1"}}}), ["1.8.7", "1.8.7"]),
        ("0.29.0", json!({}), ["1.15.1", "1.15.1"]),
        (
            "0.30.0",
            json!({"spire-server": {"image": {"tag": "1.15.3"}}, "spire-agent": {"image": {"tag": "1.14.7"}}}),
            ["1.15.3", "1.14.7"],
        ),
    ] {
        assert_eq!(images(&render(chart, &values).unwrap()), expected, "{chart}");
    }
}

#[test]
fn selectors_change_at_0_19() {
    for (chart, component) in [("0.18.2", ""), ("0.19.0", "default"), ("0.30.0", "default")] {
        let objects = render(chart, &json!({})).unwrap();
        let selector = "/spec/selector/matchLabels/app.kubernetes.io~1component";
        assert_eq!(text(find(&objects, "DaemonSet", "spire-agent"), selector), component, "{chart}");
        assert_eq!(text(find(&objects, "StatefulSet", "spire-server"), selector), "server", "{chart}");
    }
}

fn configuration(objects: &[Value], name: &str) -> Value {
    let data = find(objects, "ConfigMap", name)["data"].as_object().unwrap().clone();
    serde_json::from_str(data.values().next().unwrap().as_str().unwrap()).unwrap()
}

#[test]
fn ports_prefixes_and_classes_change_on_the_way() {
    for (chart, port, class, prefix) in [
        ("0.13.0", 8081, None, None),
        ("0.15.0", 8081, Some("default-spire"), None),
        ("0.19.2", 8081, Some("default-spire"), None),
        ("0.20.0", 443, Some("default-spire"), Some("example-cluster")),
        ("0.30.0", 443, Some("default-spire"), Some("example-cluster")),
    ] {
        let objects = render(chart, &json!({})).unwrap();
        assert_eq!(find(&objects, "Service", "spire-server")["spec"]["ports"][0]["port"], port, "{chart}");
        assert_eq!(configuration(&objects, "spire-agent")["agent"]["server_port"], port.to_string(), "{chart}");
        let manager = configuration(&objects, "spire-controller-manager");
        assert_eq!(manager.get("className").and_then(Value::as_str), class, "{chart}");
        assert_eq!(manager.get("entryIDPrefix").and_then(Value::as_str), prefix, "{chart}");
    }
    let pinned = json!({"spire-server": {"service": {"port": 8081}}, "spire-agent": {"server": {"port": 8081}}});
    let objects = render("0.20.0", &pinned).unwrap();
    assert_eq!(find(&objects, "Service", "spire-server")["spec"]["ports"][0]["port"], 8081);
    assert_eq!(configuration(&objects, "spire-agent")["agent"]["server_port"], "8081");
}

#[test]
fn the_default_identity_leaves_out_its_own_namespaces_from_0_17() {
    let layout = json!({"spire-server": {"namespaceOverride": "spire-server"}});
    for (chart, name, excluded) in [
        ("0.13.0", "spire-controller-manager-service-account-based", 0),
        ("0.15.1", "default-spire-controller-manager-service-account-based", 0),
        ("0.16.0", "default-spire-default", 0),
        ("0.17.0", "default-spire-default", 3),
        ("0.30.0", "default-spire-default", 3),
    ] {
        let objects = render(chart, &layout).unwrap();
        let identity = find(&objects, "ClusterSPIFFEID", name);
        let namespaces = items(identity, "/spec/namespaceSelector/matchExpressions/0/values").count();
        assert_eq!(namespaces, excluded, "{chart}");
        assert_eq!(identity.pointer("/spec/fallback"), chart.starts_with("0.3").then_some(&json!(true)), "{chart}");
    }
    let identities = json!({"clusterSPIFFEIDs": {"default": {"type": "raw"}}});
    let raw = json!({"spire-server": {"controllerManager": {"identities": identities}}});
    let objects = render("0.17.0", &raw).unwrap();
    assert!(find(&objects, "ClusterSPIFFEID", "default-spire-default").pointer("/spec/namespaceSelector").is_none());
    // The keys moved at 0.16.0; the old ones are ignored without a word.
    let off = json!({"spire-server": {"controllerManager": {"identities": {"enabled": false}}}});
    for (chart, there) in [("0.15.1", false), ("0.16.0", true)] {
        let objects = render(chart, &off).unwrap();
        assert_eq!(objects.iter().any(|object| object["kind"] == "ClusterSPIFFEID"), there, "{chart}");
    }
}

#[test]
fn old_spellings_fail_from_0_24() {
    let renamed = |values: &Value| render("0.24.0", values).unwrap_err();
    for (values, words) in [
        (json!({"spire-server": {"ca_subject": {"country": "UK"}}}), "ca_subject was renamed to caSubject"),
        (json!({"spire-server": {"notifier": {"k8sbundle": {"namespace": "x"}}}}), "renmaed to k8sBundle"),
        (json!({"spire-server": {"nodeAttestor": {"k8sPsat": {}}}}), "k8sPsat was renamed to k8sPSAT"),
        (json!({"spire-agent": {"nodeAttestor": {"k8sPsat": {}}}}), "spire-agent/templates/daemonset.yaml"),
        (json!({"global": {"spire": {"strictMode": true}}}), "clusterName must be set"),
    ] {
        assert!(renamed(&values).contains(words), "{words}: {}", renamed(&values));
        if !words.contains("must") {
            assert!(render("0.23.0", &values).is_ok(), "{words}");
        }
    }
}

#[test]
fn the_bundle_is_published_otherwise_from_0_26() {
    let layout = |publisher: Value| {
        json!({
            "spire-server": {"namespaceOverride": "spire-server", "bundlePublisher": publisher, "notifier": {"k8sBundle": {"namespace": "spire-system"}}},
            "spire-agent": {"namespaceOverride": "spire-system"},
        })
    };
    let old = render("0.25.0", &layout(json!({}))).unwrap();
    assert_eq!(find(&old, "ConfigMap", "spire-bundle")["metadata"]["namespace"], "spire-system");
    let path = "/agent/trust_bundle_path";
    assert_eq!(text(&configuration(&old, "spire-agent"), path), "/run/spire/bundle/bundle.crt");
    let target = "/plugins/BundlePublisher/0/k8s_configmap/plugin_data/clusters/0/chart-internal/namespace";
    for (publisher, namespace) in
        [(json!({}), "spire-server"), (json!({"k8sConfigMap": {"namespace": "spire-system"}}), "spire-system")]
    {
        let new = render("0.26.0", &layout(publisher)).unwrap();
        assert!(
            !new.iter().any(|object| object["kind"] == "ConfigMap" && object["metadata"]["name"] == "spire-bundle")
        );
        assert_eq!(text(&configuration(&new, "spire-server"), target), namespace);
        // The right to write follows the notifier's key all the same.
        assert_eq!(find(&new, "Role", "spire-bundle")["metadata"]["namespace"], "spire-system");
        assert_eq!(text(&configuration(&new, "spire-agent"), path), "/run/spire/bundle/bundle.spiffe");
    }
}

#[test]
fn configurations_hold_the_keys_that_old_programs_refuse() {
    for (chart, agent, server) in [
        ("0.19.0", &[][..], &[][..]),
        ("0.19.1", &["retry_bootstrap"], &[]),
        ("0.26.1", &["retry_bootstrap"], &[]),
        ("0.27.0", &["rebootstrap_delay", "rebootstrap_mode"], &[]),
        ("0.30.0", &["rebootstrap_delay", "rebootstrap_mode"], &["disable_jwt_svids"]),
    ] {
        let objects = render(chart, &json!({})).unwrap();
        let known = ["retry_bootstrap", "rebootstrap_delay", "rebootstrap_mode", "disable_jwt_svids"];
        let has = |side: &str, key: &str| configuration(&objects, &format!("spire-{side}"))[side].get(key).is_some();
        for key in known {
            assert_eq!(
                (has("agent", key), has("server", key)),
                (agent.contains(&key), server.contains(&key)),
                "{chart} {key}"
            );
        }
    }
}

#[test]
fn ttls_reach_the_servers() {
    let values = json!({"spire-server": {"defaultX509SvidTTL": "5m", "caTTL": "1h"}});
    for chart in ["0.13.0", "0.30.0"] {
        let server = &configuration(&render(chart, &values).unwrap(), "spire-server")["server"];
        assert_eq!((text(server, "/default_x509_svid_ttl"), text(server, "/ca_ttl")), ("5m", "1h"), "{chart}");
    }
}

#[test]
fn another_configuration_makes_other_pods() {
    let sum = |values: &Value| {
        let objects = render("0.13.0", values).unwrap();
        text(find(&objects, "StatefulSet", "spire-server"), "/spec/template/metadata/annotations/checksum~1config")
            .to_owned()
    };
    assert_eq!(sum(&json!({})).len(), 64);
    assert_ne!(sum(&json!({})), sum(&json!({"spire-server": {"logLevel": "debug"}})));
}
