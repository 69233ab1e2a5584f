//! The rehearsal is held to recordings of the real world (`tests/data/recordings`, made by the real suite): the same
//! question in the same state of the lab is asked the same way, ends with the same code, and is answered in the same
//! shape. What the rehearsal leaves out is fine unless it is read here; what it invents is not.

use std::collections::BTreeSet;

use coastal::plan::Goal;
use serde::de::DeserializeOwned;

use crate::contract::events::Story;
use crate::contract::questions::{Place, Stage};
use crate::contract::shape::Shape;
use crate::contract::{Answer, Recording, file};
use crate::rehearsed;

/// What our parsers and judges read of each answer. Paths as in [`Shape::Json`]; `items[].` is left out of those of
/// lists.
const READ: &[(&str, &[&str])] = &[
    ("docker version", &["Server.Version"]),
    ("docker containers", &["Names", "State", "CreatedAt"]),
    ("kubectl version", &["clientVersion.gitVersion"]),
    ("helm list", &["[].name", "[].namespace", "[].revision", "[].status", "[].chart", "[].updated", "[].app_version"]),
    ("server bundle", &["trust_domain", "x509_authorities", "x509_authorities[].asn1", "jwt_authorities"]),
    ("server entry count", &["count"]),
    ("server agents", &["agents", "agents[].id.path", "agents[].id.trust_domain"]),
    (
        "api nodes",
        &[
            "metadata.name",
            "metadata.labels",
            "spec.providerID",
            "spec.taints[].key",
            "status.allocatable.cpu",
            "status.allocatable.memory",
            "status.conditions[].type",
            "status.conditions[].status",
            "status.nodeInfo.kubeletVersion",
        ],
    ),
    ("api namespaces", &["metadata.name", "metadata.labels", "status.phase"]),
    ("api server pods", PODS),
    ("api agent pods", PODS),
    ("api workload pods", PODS),
    ("api claims", &["metadata.name", "status.phase"]),
    ("api servers", STATEFUL_SET),
    ("api database", STATEFUL_SET),
    ("api agents", DAEMON_SET),
    ("api csi driver", DAEMON_SET),
    ("api envoy", DAEMON_SET),
    ("api workload", DEPLOYMENT),
    ("api tornjak", DEPLOYMENT),
    ("api webhook", DEPLOYMENT),
    ("api issuer", &["status.conditions[].type", "status.conditions[].status"]),
    ("api crd", &["status.conditions[].type", "status.conditions[].status"]),
    ("api monitors", &["metadata.name", "metadata.namespace"]),
    ("api absent", &["code", "reason"]),
];

const PODS: &[&str] = &[
    "metadata.name",
    "metadata.uid",
    "metadata.labels",
    "metadata.ownerReferences",
    "spec.nodeName",
    "spec.containers[].name",
    "spec.containers[].image",
    "status.phase",
    "status.conditions[].type",
    "status.conditions[].status",
    "status.containerStatuses[].name",
    "status.containerStatuses[].ready",
    "status.containerStatuses[].restartCount",
    "status.containerStatuses[].state.running",
];
const STATEFUL_SET: &[&str] = &[
    "metadata.generation",
    "spec.replicas",
    "spec.selector",
    "status.observedGeneration",
    "status.readyReplicas",
    "status.currentRevision",
    "status.updateRevision",
];
const DAEMON_SET: &[&str] = &[
    "metadata.generation",
    "spec.selector",
    "status.observedGeneration",
    "status.desiredNumberScheduled",
    "status.numberReady",
    "status.updatedNumberScheduled",
];
const DEPLOYMENT: &[&str] = &[
    "metadata.generation",
    "spec.replicas",
    "spec.selector",
    "status.observedGeneration",
    "status.replicas",
    "status.updatedReplicas",
    "status.availableReplicas",
];

fn recorded<T: DeserializeOwned>(name: &str) -> T {
    let text = std::fs::read_to_string(file(name)).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[tokio::test(start_paused = true)]
async fn before_there_is_a_cluster_the_rehearsal_answers_as_reality() {
    let stage = rehearsed::Stage::new().await;
    compare(&stage, Stage::Before).await;
}

#[tokio::test(start_paused = true)]
async fn when_the_lab_is_up_the_rehearsal_answers_as_reality() {
    let stage = rehearsed::Stage::new().await;
    stage.make(Goal::Up).await;
    stage.make(Goal::Test).await;
    compare(&stage, Stage::Up).await;
}

async fn compare(stage: &rehearsed::Stage, when: Stage) {
    let real: Recording = recorded(when.name());
    let world = stage.rehearsal.world();
    let place = Place { world: &world, cluster: "kind", paths: &stage.paths };
    let rehearsed = place.ask(when).await;
    let mut lies = Vec::new();
    let ids: BTreeSet<&String> = real.answers.keys().chain(rehearsed.answers.keys()).collect();
    for id in ids {
        match (real.answers.get(id), rehearsed.answers.get(id)) {
            (Some(real), Some(rehearsed)) => {
                lies.extend(differences(id, real, rehearsed).into_iter().map(|lie| format!("{id}: {lie}")));
            }
            (None, _) => lies.push(format!("{id}: not recorded; record anew (tests/real)")),
            (_, None) => lies.push(format!("{id}: recorded, but not asked any more; record anew (tests/real)")),
        }
    }
    assert!(lies.is_empty(), "{} differences from reality:\n{}", lies.len(), lies.join("\n"));
}

fn differences(id: &str, real: &Answer, rehearsed: &Answer) -> Vec<String> {
    let mut found = Vec::new();
    if real.asked != rehearsed.asked {
        found.push(format!("asked `{}`, recorded `{}`", rehearsed.asked, real.asked));
    }
    if real.code != rehearsed.code {
        found.push(format!("ends with {}, really with {}", rehearsed.code, real.code));
    }
    let needed = READ.iter().find(|(other, _)| *other == id).map_or(&[][..], |(_, paths)| paths);
    found.extend(shapes(&real.out, &rehearsed.out, needed));
    // On success, standard error carries remarks for people; SPIRE's versions are the exception.
    if real.code != 0 || id.ends_with(" version") && real.out.is_empty() {
        found.extend(shapes(&real.err, &rehearsed.err, &[]).into_iter().map(|lie| format!("stderr: {lie}")));
    }
    found
}

fn shapes(real: &Shape, rehearsed: &Shape, needed: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    match (real, rehearsed) {
        (Shape::Empty, Shape::Empty) => {}
        (Shape::Text(real), Shape::Text(rehearsed)) => {
            found.extend(rehearsed.difference(real).map(|line| format!("really there is no line `{line}`: {real:?}")));
        }
        (Shape::Json(real), Shape::Json(rehearsed)) => {
            for (path, forms) in rehearsed {
                match real.get(path) {
                    None => found.push(format!("`{path}` is invented")),
                    Some(real) if !forms.0.is_subset(&real.0) => {
                        let (forms, real) = (String::from(forms.clone()), String::from(real.clone()));
                        found.push(format!("`{path}` is {forms}, really {real}"));
                    }
                    Some(_) => {}
                }
            }
            for path in needed {
                let list = format!("items[].{path}");
                let path = if real.contains_key(&list) { list.as_str() } else { path };
                if !real.contains_key(path) {
                    found.push(format!("`{path}` is read, and really not there"));
                }
                if !rehearsed.contains_key(path) {
                    found.push(format!("`{path}` is read, and missing"));
                }
            }
        }
        _ => found.push(format!("answers {rehearsed:?}, really {real:?}")),
    }
    found
}

#[tokio::test(start_paused = true)]
async fn up_has_the_same_steps_needs_and_outcomes_in_both_worlds() {
    let directory = tempfile::tempdir().unwrap();
    let lab = rehearsed::lab_file(directory.path()).await;
    let output = assert_cmd::Command::new(env!("CARGO_BIN_EXE_coastal"))
        .args(["--lab", lab.to_str().unwrap(), "rehearse", "up", "--output", "json"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let rehearsed = Story::read(&String::from_utf8(output.stdout).unwrap());
    let real: Story = recorded("up-events");
    for (world, story) in [("rehearsal", &rehearsed), ("reality", &real)] {
        assert_eq!(story.disorder(), Vec::<String>::new(), "{world}");
        assert_eq!(story.outcome, "ok", "{world}");
    }
    assert_eq!(rehearsed.schema, real.schema);
    assert_eq!(rehearsed.steps, real.steps);
    let ends = |story: &Story| story.order.iter().cloned().collect::<BTreeSet<_>>();
    assert_eq!(ends(&rehearsed), ends(&real));
}

/// A comparison that nothing can fail proves nothing.
#[test]
fn a_lie_is_found() {
    let of = |text: &str| Shape::of(text, &[]);
    let real = of(r#"{"status": {"phase": "Bound"}, "count": 3}"#);
    for (rehearsed, lie) in [
        (r#"{"count": 3}"#, "`status.phase` is read, and missing"),
        (r#"{"status": {"phase": "Bound"}, "count": "3"}"#, "`count` is string, really number"),
        (r#"{"status": {"phase": "Lost"}, "count": 3}"#, "`status.phase` is =Lost, really =Bound"),
        (r#"{"status": {"phase": "Bound"}, "total": 3}"#, "`total` is invented"),
        ("three", "answers Text({\"three\"}), really Json("),
    ] {
        let found = shapes(&real, &of(rehearsed), &["status.phase"]);
        assert!(found.len() == 1 && found[0].starts_with(lie), "{rehearsed}: {found:?}");
    }
    assert_eq!(shapes(&real, &real, &["status.phase"]), Vec::<String>::new());
    let words = |text: &str| shapes(&of("Error: release: not found"), &of(text), &[]);
    assert_eq!(words("Error: release: not found").len(), 0);
    assert_eq!(words("Error: no such release").len(), 1);
}

#[test]
fn recordings_hold_nothing_of_the_machine_they_were_made_on() {
    for name in ["before", "up", "up-events"] {
        let text = std::fs::read_to_string(file(name)).unwrap();
        for word in ["/root", "/home/", "/Users/", "/tmp/.", "/work/", "-----BEGIN", "127.0.0.1", "coastal-test"] {
            assert!(!text.contains(word), "{name} holds `{word}`");
        }
    }
}
