//! Rendered charts, right and wrong: each wrong one is a right one with one thing changed.

use semver::Version;
use serde_json::{Value, json};

use super::*;
use crate::config::{PullPolicy, embedded};
use crate::spire::values::{Images, Phase};

const OLD: &str = include_str!("../../../tests/data/rendered/spire-0.13.0.yaml");
const NEW: &str = include_str!("../../../tests/data/rendered/spire-0.30.0.yaml");

fn rendered(text: &str) -> Rendered {
    Rendered::read(&embedded().unwrap(), text).unwrap()
}

fn told(chart: &str, phase: Phase, text: &str) -> Vec<String> {
    let lab = embedded().unwrap();
    mismatches(&lab, &chart.parse().unwrap(), &Images::of(&lab), phase, &rendered(text))
}

#[test]
fn the_oldest_and_the_newest_chart_are_read() {
    let old = rendered(OLD);
    assert_eq!(old.server_image, "ghcr.io/spiffe/spire-server:1.7.2");
    assert_eq!(old.agent_image, "ghcr.io/spiffe/spire-agent:1.7.2");
    assert_eq!(old.controller_manager_image.as_deref(), Some("ghcr.io/spiffe/spire-controller-manager:0.2.3"));
    assert_eq!((old.servers, old.service_port, old.agents_dial_port), (3, 8081, 8081));
    assert_eq!(old.agents_dial, "spire-server.spire-server");
    assert_eq!(old.agent_socket, names::AGENT_SOCKET);
    assert_eq!(old.bundle_read.to_string(), "key bundle.crt of ConfigMap spire-system/spire-bundle (pem)");
    assert_eq!(old.bundle_written.as_ref(), Some(&old.bundle_read));
    assert_eq!(old.bundle_roles, [("spire-system".to_owned(), "spire-bundle".to_owned())]);
    assert_eq!(
        (&*old.attestable, &*old.agent_account),
        (&["spire-system:spire-agent".to_owned()][..], "spire-system:spire-agent")
    );
    assert_eq!((old.heeds.class.as_deref(), old.heeds.ignored_namespaces.len()), (None, 3));
    assert_eq!(old.hook_jobs, ["Job spire-server/spire-server-pre-upgrade"]);
    assert!(!old.agents_held && old.makes_bundle);

    let new = rendered(NEW);
    assert_eq!(new.agent_socket, names::AGENT_SOCKET_SINCE_0_17_2);
    assert_eq!(new.bundle_read.to_string(), "key bundle.spiffe of ConfigMap spire-system/spire-bundle (spiffe)");
    assert_eq!(new.bundle_written.as_ref(), Some(&new.bundle_read));
    assert_eq!((new.heeds.class.as_deref(), new.heeds.classless), (Some("default-spire"), true));
    assert_eq!(new.identities.len(), 2);
    assert!(!new.makes_bundle, "the servers do");
    assert!(new.images.iter().any(|image| image.user == "DaemonSet spire-system/spire-agent, container fsgroupfix"));
}

#[test]
fn a_right_release_passes() {
    assert_eq!(told("0.13.0", Phase::Settled, OLD), Vec::<String>::new());
    assert_eq!(told("0.30.0", Phase::Settled, NEW), Vec::<String>::new());
    let held = NEW.replace("type: RollingUpdate", "type: OnDelete").replace("helm.sh/hook: pre-upgrade", "x: y");
    assert_eq!(told("0.30.0", Phase::Servers, &held), Vec::<String>::new());
}

#[test]
fn each_thing_that_is_wrong_is_a_sentence() {
    let selector = "  namespaceSelector:\n    matchExpressions:\n    - {key: kubernetes.io/metadata.name, operator: NotIn, \
                    values: [default, spire-server]}\n  fallback: true\n";
    for (was, is, sentence) in [
        (
            "spire-server:1.7.2",
            "spire-server:1.15.2",
            "the servers would run the image ghcr.io/spiffe/spire-server:1.15.2, not 1.7.2",
        ),
        (
            "spire-agent:1.7.2",
            "spire-agent@sha256:12",
            "the agents would run the image ghcr.io/spiffe/spire-agent@sha256:12, not 1.7.2",
        ),
        ("replicas: 3", "replicas: 1", "there would be 1 servers, not 3"),
        ("    port: 8081", "    port: 443", "agents would dial port 8081, but the servers' Service would serve 443"),
        (
            "\"server_address\": \"spire-server.spire-server\"",
            "\"server_address\": \"spire-server.default\"",
            "agents would dial spire-server.default, not spire-server.spire-server",
        ),
        (
            "\"trust_domain\": \"coastal-containers.example\"\n     }\n    }",
            "\"trust_domain\": \"example.org\"\n     }\n    }",
            "the agents would be of trust domain example.org, not coastal-containers.example",
        ),
        (
            "      serviceAccountName: spire-agent",
            "      serviceAccountName: default",
            "agents would attest as spire-system:default, but the servers would let in only spire-system:spire-agent",
        ),
        (
            "\"namespace\": \"spire-system\"",
            "\"namespace\": \"spire-server\"",
            "servers would write the trust bundle to key bundle.spiffe of ConfigMap spire-server/spire-bundle (spiffe), \
             but agents read it from key bundle.spiffe of ConfigMap spire-system/spire-bundle (spiffe)",
        ),
        (
            "\"configmap_key\": \"bundle.spiffe\"",
            "\"configmap_key\": \"bundle.crt\"",
            "servers would write the trust bundle to key bundle.crt of ConfigMap spire-system/spire-bundle (spiffe), but \
             agents read it from key bundle.spiffe of ConfigMap spire-system/spire-bundle (spiffe)",
        ),
        (
            "\"k8s_configmap\"",
            "\"aws_s3\"",
            "agents would read the trust bundle from key bundle.spiffe of ConfigMap spire-system/spire-bundle (spiffe), \
             and no server would write it",
        ),
        ("  - patch\n", "", "no Role would let the servers write ConfigMap spire-system/spire-bundle"),
        ("  fallback: true\n", selector, "no ClusterSPIFFEID would give the pods of the namespace default an identity"),
        ("    - kube-public", "    - default", "the controller manager would ignore the namespace default"),
        (
            "className: default-spire\n    ignore",
            "className: other\n    ignore",
            "no ClusterSPIFFEID would give the pods of the namespace default an identity",
        ),
        (
            "        image: cgr.dev/chainguard/bash:latest@sha256:90041f375e30f41aa7e0390075d8a69dc61900771d52fa98d63ee5d03d866a58\n        imagePullPolicy: IfNotPresent\n        securityContext:\n          runAsUser: 0\n          runAsGroup: 0\n      containers:",
            "        image: bash:latest@sha256:90\n      containers:",
            "DaemonSet spire-system/spire-agent, container fsgroupfix would pull bash:latest@sha256:90 at every start",
        ),
        (
            "spire-agent:1.7.2\n        imagePullPolicy: IfNotPresent",
            "spire-agent:1.7.2\n        imagePullPolicy: Always",
            "DaemonSet spire-system/spire-agent, container spire-agent would pull ghcr.io/spiffe/spire-agent:1.7.2 at \
             every start",
        ),
        ("type: RollingUpdate", "type: OnDelete", "agents would never be replaced: their update strategy is OnDelete"),
        (
            "      - name: tornjak\n        image: ghcr.io/spiffe/tornjak-backend:v2.1.0\n        imagePullPolicy: IfNotPresent\n        securityContext:\n          allowPrivilegeEscalation: false\n",
            "      - name: tornjak\n        image: ghcr.io/spiffe/tornjak-backend:v2.1.0\n        imagePullPolicy: IfNotPresent\n        securityContext:\n",
            "the namespace spire-server is `restricted` and would refuse StatefulSet spire-server/spire-server, container \
             tornjak: allowPrivilegeEscalation is not false",
        ),
    ] {
        assert!(NEW.contains(was), "the fixture has no {was:?}");
        let found = told("0.30.0", Phase::Settled, &NEW.replace(was, is));
        assert!(found.contains(&sentence.to_owned()), "{was} -> {is}: {found:#?}");
    }
}

#[test]
fn the_default_identity_is_the_one_that_workloads_have() {
    let found = told("0.30.0", Phase::Settled, &NEW.replace("/ns/{{", "/other/{{"));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].starts_with("ClusterSPIFFEID default-spire-default would give every pod the identity"),
        "{}",
        found[0]
    );
}

#[test]
fn while_servers_move_agents_stay_and_helm_waits_for_nothing() {
    let found = told("0.30.0", Phase::Servers, NEW);
    assert_eq!(
        found,
        [
            "agents would be replaced while the servers still move",
            "helm would wait for Job spire-server/spire-server-pre-upgrade while the servers move",
        ]
    );
    // Charts before 0.18 cannot hold agents.
    assert_eq!(told("0.13.0", Phase::Servers, OLD).len(), 1);
}

#[test]
fn a_lab_that_always_pulls_may_pull() {
    let mut lab = embedded().unwrap();
    lab.images.pull = PullPolicy::Always;
    let text = NEW.replace("imagePullPolicy: IfNotPresent", "imagePullPolicy: Always");
    let chart = Version::new(0, 30, 0);
    assert_eq!(mismatches(&lab, &chart, &Images::of(&lab), Phase::Settled, &rendered(&text)), Vec::<String>::new());
}

#[test]
fn a_class_of_its_own_or_none() {
    let identity = |class: Option<&str>| Identity::read(&json!({"spec": {"className": class}}));
    let heeds = |class: Option<&str>, classless| Heeds { class: class.map(Into::into), classless, ..Heeds::default() };
    for (own, classless, class, covered) in [
        (None, false, None, true),
        (None, false, Some("a"), true),
        (Some("a"), false, Some("a"), true),
        (Some("a"), true, Some("b"), false),
        (Some("a"), false, None, false),
        (Some("a"), true, None, true),
    ] {
        assert_eq!(heeds(own, classless).covers(&identity(class)), covered, "{own:?} {classless} {class:?}");
    }
}

#[test]
fn what_no_chart_lacks_is_missed() {
    let lab = embedded().unwrap();
    for (was, is, message) in [
        ("kind: StatefulSet", "kind: Deployment", "the chart makes no StatefulSet spire-server/spire-server"),
        ("- name: spire-agent\n", "- name: agent\n", "DaemonSet spire-system/spire-agent has no container spire-agent"),
        ("- name: grpc", "- name: tcp", "has no port `grpc` of the servers' Service"),
        ("\"server_port\"", "\"port\"", "has no server port for agents"),
        ("mountPath: /run/spire/bundle", "mountPath: /elsewhere", "where no ConfigMap is mounted"),
        ("\"agent\": {", "agent {", "agent.conf in the rendered ConfigMap spire-system/spire-agent is not JSON"),
        ("---\napiVersion", "---\n{", "is not YAML"),
    ] {
        assert!(NEW.contains(was), "the fixture has no {was:?}");
        let failure = Rendered::read(&lab, &NEW.replace(was, is)).unwrap_err();
        assert!(failure.message.contains(message), "{was} -> {is}: {}", failure.message);
    }
}

#[test]
fn what_may_not_change_is_told() {
    let (old, new) = (rendered(OLD), rendered(NEW));
    assert_eq!(immutable_changes(&old.stateful_set, &new.stateful_set), Vec::<String>::new());
    let changes = immutable_changes(&old.daemon_set, &new.daemon_set);
    assert_eq!(changes.len(), 1);
    assert!(changes[0].starts_with("DaemonSet spire-system/spire-agent: the selector is"), "{}", changes[0]);
    // A live object has more in it.
    let mut live = old.stateful_set.clone();
    live["spec"]["podManagementPolicy"] = json!("OrderedReady");
    live["spec"]["volumeClaimTemplates"][0]["status"] = json!({"phase": "Pending"});
    live["status"] = json!({"replicas": 3});
    assert_eq!(immutable_changes(&live, &old.stateful_set), Vec::<String>::new());
    for (pointer, value, words) in [
        ("/spec/serviceName", json!("other"), "serviceName is other and would be spire-server"),
        ("/spec/podManagementPolicy", json!("Parallel"), "podManagementPolicy is Parallel and would be OrderedReady"),
        (
            "/spec/volumeClaimTemplates/0/spec/resources/requests/storage",
            json!("5Gi"),
            "its claims are spire-data (5Gi) and would be spire-data (1Gi)",
        ),
    ] {
        let mut live = live.clone();
        let Some(slot) = live.pointer_mut(pointer) else { panic!("{pointer}") };
        *slot = value;
        let changes = immutable_changes(&live, &old.stateful_set);
        assert_eq!(changes.len(), 1);
        assert!(changes[0].ends_with(words), "{}", changes[0]);
    }
    assert_eq!(immutable_changes(&Value::Null, &new.daemon_set).len(), 1);
}
