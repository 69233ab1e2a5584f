//! A healthy lab as evidence, and tables of what makes it unhealthy.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use semver::Version;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Audited, BundleMap, Check, Evidence, Files, Mend, ReleaseValues, Svid, There, Verdict};
use crate::config::embedded;
use crate::plan::{Finding, StepId};
use crate::spire::audit::{Audit, Authority, AuthorityKind, Finding as Found, Rule, Seen};
use crate::steps::live::Live;
use crate::tools::helm::{Release, ReleaseStatus};
use crate::tools::{CommandError, Tool, docker};
use crate::workload::record::Update;
use crate::world::HostFacts;

/// How a row of a table ends.
pub enum Expect<'a> {
    /// It is so.
    Passes,
    /// It is not so, and the message holds this.
    Fails(&'a str),
    /// It is not known, and the reason holds this.
    Unknown(&'a str),
    /// The lab has no such thing.
    Skips,
}

/// A change to a healthy lab, and how the check then ends.
pub type Row<'a> = (&'a dyn Fn(&mut Evidence), Expect<'a>);

/// A tool that is not there, one of a version that is too old, and one that did not answer.
#[track_caller]
pub fn tool_cases(check: &Check, tool: Tool, old: &str) {
    let set = |found: Result<Version, CommandError>| move |e: &mut Evidence| drop(e.tools.insert(tool, found.clone()));
    let stopped = CommandError::Interrupted { line: format!("{tool} version") };
    let (absent, is_old) = (format!("{tool} is not installed"), format!("{tool} {old} is too old"));
    cases(
        check,
        &[
            (&set(Err(CommandError::NotFound { tool })), Expect::Fails(&absent)),
            (&set(Ok(old.parse().unwrap())), Expect::Fails(&is_old)),
            (&set(Err(stopped)), Expect::Unknown("was interrupted")),
        ],
    );
}

/// A healthy lab passes; each row's change to it ends as the row says. One row fails at least.
#[track_caller]
pub fn cases(check: &Check, rows: &[Row<'_>]) {
    let healthy = (check.judge)(&healthy());
    let passes = matches!(healthy, Ok(Verdict::Passed(_)));
    let passing_row = rows.iter().any(|(_, expect)| matches!(expect, Expect::Passes));
    assert!(passes || passing_row, "{}: nothing passes; a healthy lab: {healthy:?}", check.id);
    assert!(!matches!(healthy, Ok(Verdict::Failed(_)) | Err(_)), "{}: a healthy lab: {healthy:?}", check.id);
    assert!(rows.iter().any(|(_, expect)| matches!(expect, Expect::Fails(_))), "{}: no row fails", check.id);
    for (at, (change, expect)) in rows.iter().enumerate() {
        let mut evidence = self::healthy();
        change(&mut evidence);
        let verdict = (check.judge)(&evidence);
        let as_expected = match (expect, &verdict) {
            (Expect::Passes, Ok(Verdict::Passed(_))) | (Expect::Skips, Ok(Verdict::Skipped(_))) => true,
            (Expect::Fails(words), Ok(Verdict::Failed(problem))) => problem.message.contains(words),
            (Expect::Unknown(words), Err(why)) => why.contains(words),
            _ => false,
        };
        assert!(as_expected, "{} row {at}: {verdict:?}", check.id);
        let mended = check.mend.map_or(0, |mend| mend(&evidence).len());
        let is_failed = matches!(verdict, Ok(Verdict::Failed(_)));
        assert!(is_failed || mended == 0, "{} row {at}: nothing is wrong, and yet it would be mended", check.id);
    }
}

/// What `--fix` would do after that change.
pub fn mends(check: &Check, change: &dyn Fn(&mut Evidence)) -> Vec<String> {
    let mut evidence = healthy();
    change(&mut evidence);
    check.mend.map(|mend| mend(&evidence)).unwrap_or_default().iter().map(Mend::to_string).collect()
}

fn object<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

/// A node of that kubelet version of which these conditions are true.
pub fn node(name: &str, version: &str, conditions: &[&str]) -> Node {
    let conditions: Vec<Value> = conditions.iter().map(|kind| json!({"type": kind, "status": "True"})).collect();
    object(json!({
        "metadata": {"name": name, "uid": format!("uid-of-{name}")}, "spec": {},
        "status": {
            "allocatable": {"cpu": "4", "memory": "8Gi"}, "conditions": conditions,
            "nodeInfo": {"kubeletVersion": version, "architecture": "", "bootID": "", "containerRuntimeVersion": "",
                "kernelVersion": "", "kubeProxyVersion": "", "machineID": "", "operatingSystem": "", "osImage": "",
                "systemUUID": ""},
        },
    }))
}

fn pod(namespace: &str, name: &str, labels: &Value) -> Pod {
    object(json!({
        "metadata": {"namespace": namespace, "name": name, "labels": labels, "uid": name},
        "spec": {"nodeName": "worker", "containers": [{"name": "c", "resources": {"requests": {"cpu": "10m"}}}]},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    }))
}

/// Changes the pod of that name, as JSON.
#[track_caller]
pub fn change_pod(evidence: &mut Evidence, name: &str, change: impl FnOnce(&mut Value)) {
    let pods = evidence.pods.as_mut().unwrap();
    let pod = pods.iter_mut().find(|pod| pod.name_any() == name).unwrap();
    let mut value = serde_json::to_value(&*pod).unwrap();
    change(&mut value);
    *pod = object(value);
}

/// A step of `up` stands otherwise.
#[track_caller]
pub fn set_step(evidence: &mut Evidence, step: StepId, finding: Finding) {
    let steps = evidence.drift.as_mut().unwrap();
    steps.iter_mut().find(|(id, _)| *id == step).unwrap().1 = finding;
}

/// The audit has found this.
pub fn find(evidence: &mut Evidence, rule: Rule, subject: &str) {
    evidence.audited.as_mut().unwrap().audit.findings.push(Found {
        rule,
        level: rule.level(),
        subject: subject.to_owned(),
        message: "found".to_owned(),
        entries: Vec::new(),
        entry_count: 0,
        holders: Vec::new(),
        until: None,
        next: None,
    });
}

fn begin() -> Timestamp {
    Timestamp::constant(1_770_000_000, 0)
}

fn later(seconds: i64) -> Timestamp {
    begin().checked_add(SignedDuration::from_secs(seconds)).unwrap()
}

fn version(text: &str) -> semver::Version {
    text.parse().unwrap()
}

fn server(n: usize) -> String {
    format!("spire-server-{n}")
}

/// A lab in which everything is as it should be.
pub fn healthy() -> Evidence {
    let tools = [(Tool::Docker, "28.0.4"), (Tool::Kind, "0.27.0"), (Tool::Helm, "3.17.2"), (Tool::Kubectl, "1.32.3")];
    let steps = [StepId::Tools, StepId::Database, StepId::Tornjak, StepId::Monitors, StepId::Workload];
    let release = |name: &str, chart: &str| Release {
        name: name.into(),
        namespace: "default".into(),
        revision: 1,
        status: ReleaseStatus::Deployed,
        chart: chart.into(),
        app_version: String::new(),
        updated: Some(later(-600)),
    };
    let mut evidence = Evidence {
        tools: tools.into_iter().map(|(tool, text)| (tool, Ok(version(text)))).collect::<BTreeMap<_, _>>(),
        docker: Ok(docker::Info { cpus: 4, memory: 16 << 30, cgroup_version: "2".into() }),
        host: HostFacts {
            memory_available: Some(8 << 30),
            disk_free: Some(50 << 30),
            ports_taken: Vec::new(),
            inotify_watches: Some(524_288),
            inotify_instances: Some(512),
        },
        files: Files { modes: vec![("/state".into(), 0o700, 0o700)] },
        releases: Ok(vec![release("spire", "spire-0.13.0"), release("prometheus", "kube-prometheus-stack-70.4.1")]),
        values: Ok(Some(ReleaseValues { unread: Some(Ok(Vec::new())), passwords: Vec::new() })),
        drift: Ok(steps.map(|step| (step, Finding::Satisfied("as wanted".into()))).into()),
        leftovers: Ok(Vec::new()),
        ..Evidence::without_cluster(embedded().unwrap(), begin(), Ok(There::Running), "")
    };
    kubernetes(&mut evidence);
    spire(&mut evidence);
    evidence
}

fn kubernetes(evidence: &mut Evidence) {
    let labels = |name: &str| json!({"app.kubernetes.io/name": name, "controller-revision-hash": "spire-server-new"});
    let mut pods: Vec<Pod> = (0..3).map(|n| pod("spire-server", &server(n), &labels("server"))).collect();
    pods.push(pod("spire-system", "spire-agent-x", &labels("agent")));
    pods.extend((0..5).map(|n| pod("default", &format!("workload-{n}"), &json!({"app": "workload"}))));
    let namespace = |name: &str, level: &str| {
        object(json!({"metadata": {"name": name, "labels": {"pod-security.kubernetes.io/enforce": level}}}))
    };
    let set = |name: &str| {
        object(json!({
            "metadata": {"name": name}, "spec": {"selector": {}, "template": {}},
            "status": {"desiredNumberScheduled": 1, "numberReady": 1, "currentNumberScheduled": 1, "numberMisscheduled": 0},
        }))
    };
    let webhook = json!({
        "name": "vclusterspiffeid.kb.io", "admissionReviewVersions": ["v1"], "sideEffects": "None", "failurePolicy": "Fail",
        "clientConfig": {"service": {"name": "spire-controller-manager-webhook", "namespace": "spire-server"}},
    });
    evidence.nodes = Ok(vec![node("worker", "v1.32.3", &["Ready"])]);
    evidence.pods = Ok(pods);
    evidence.services = Ok(vec![object(json!({
        "metadata": {"namespace": "spire-server", "name": "spire-controller-manager-webhook"},
        "spec": {"selector": {"app.kubernetes.io/name": "server"}},
    }))]);
    evidence.claims = Ok(vec![object(json!({
        "metadata": {"namespace": "spire-server", "name": "data-spire-db-0"}, "status": {"phase": "Bound"},
    }))]);
    evidence.namespaces = Ok(vec![namespace("spire-server", "restricted"), namespace("spire-system", "privileged")]);
    evidence.storage_classes = Ok(vec![object(json!({
        "metadata": {"name": "standard", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "rancher.io/local-path",
    }))]);
    evidence.csi_drivers = Ok(vec![object(json!({"metadata": {"name": "csi.spiffe.io"}, "spec": {}}))]);
    evidence.webhooks = Ok(vec![object(json!({
        "metadata": {"name": "spire-controller-manager-webhook"}, "webhooks": [webhook],
    }))]);
    evidence.server_set = Ok(Some(object(json!({
        "metadata": {"name": "spire-server"}, "spec": {"selector": {}, "serviceName": "", "template": {}},
        "status": {"replicas": 3, "updateRevision": "spire-server-new"},
    }))));
    evidence.daemon_sets = Ok(vec![set("spire-agent"), set("spire-spiffe-csi-driver")]);
}

fn spire(evidence: &mut Evidence) {
    let update = || Update {
        schema: 1,
        sequence: 1,
        svid: 0,
        received_at: None,
        spiffe_id: "spiffe://coastal-containers.example/ns/default/sa/workload".into(),
        hint: None,
        serial: None,
        not_before: later(-60),
        not_after: later(3540),
        issuer_key_id: None,
        anchor_key_id: None,
        bundle_key_ids: Vec::new(),
        authorities: 1,
        verified: None,
    };
    let monitor = |namespace: &str, what: &str| {
        (namespace.to_owned(), json!({"selector": {"matchLabels": {"app.kubernetes.io/name": what}}}))
    };
    let agent = json!({
        "id": {"trust_domain": "coastal-containers.example", "path": "/spire/agent/k8s_psat/kind-kind/uid-of-worker"},
        "attestation_type": "k8s_psat", "x509svid_expires_at": later(3000).as_second().to_string(),
    });
    let authority = Authority {
        kind: AuthorityKind::X509,
        id: "ab01".into(),
        issued_at: Some(later(-600)),
        expires_at: Some(later(80_000)),
        tainted: false,
        held_by: vec!["spire-server-0 active".into()],
        seen_by: (0..3).map(server).collect(),
    };
    let audit = Audit {
        schema: 1,
        at: begin(),
        trust_domain: "coastal-containers.example".into(),
        seen: Seen { entries: 5, pods: 9, agents: 1, authorities: 1 },
        findings: Vec::new(),
        unknown: Vec::new(),
    };
    let audited = Audited { audit, agents: vec![object(agent)], authorities: vec![authority], holders_known: true };
    evidence.live = Ok(Live {
        servers: (0..3).map(|n| (server(n), Some(version("1.7.2")))).collect(),
        agents: vec![("spire-agent-x".into(), Some(version("1.7.2")))],
        server_template: Some(version("1.7.2")),
        agent_template: Some(version("1.7.2")),
        chart: Some(version("0.13.0")),
    });
    evidence.login = Ok(Ok(()));
    evidence.row = Ok((crate::spire::releases::schema(&version("1.7.2")).unwrap().latest, "1.7.2".into()));
    evidence.audited = Ok(audited);
    evidence.bundle_maps =
        Ok(vec![BundleMap { namespace: "spire-system".into(), x509: BTreeSet::from(["ab01".into()]) }]);
    evidence.svids = Ok((0..5).map(|n| Svid { pod: format!("workload-{n}"), update: Some(update()) }).collect());
    evidence.spiffe_ids =
        Ok(vec![json!({"metadata": {"name": "default"}, "spec": {}, "status": {"stats": {"entryFailures": 0}}})]);
    evidence.server_conf = Ok(json!({
        "server": {},
        "plugins": {"DataStore": [{"sql": {"plugin_data": {"connection_string": "password=${DBPW} host=spire-db"}}}]},
    }));
    evidence.manager_conf = Ok(json!({}));
    evidence.monitors = Ok(vec![monitor("spire-server", "server"), monitor("spire-system", "agent")]);
}
