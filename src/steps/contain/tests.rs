//! Containments in the rehearsal world, with what else can happen meanwhile.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DynamicObject, Patch, PatchParams};
use serde_json::json;
use tokio::time::Instant;

use super::*;
use crate::config::MaliciousSpec;
use crate::error::Kind;
use crate::plan::StepId;
use crate::session::Session;
use crate::spire::incident::How;
use crate::steps;
use crate::steps::testing::Scene;

const NAMESPACE: &str = MaliciousSpec::NAMESPACE;

/// A context of a session that carries out this containment.
fn about(scene: &Scene, containment: Containment) -> StepContext {
    let Session { lab, world, paths, .. } = &*scene.session;
    let session = Session::with_containment(lab.clone(), world.clone(), paths.clone(), containment);
    let deadline = Instant::now() + Duration::from_secs(600);
    StepContext::new(session, StepId::CutOff, deadline, scene.cancel.clone(), None)
}

async fn make(cx: &StepContext, step: StepId) -> Result<String, Failure> {
    let body = steps::body(step);
    let found = body.check(cx).await?;
    if found.is_satisfied() {
        return Ok(found.detail().to_owned());
    }
    body.run(cx, &found).await?;
    body.verify(cx).await
}

async fn scale(scene: &Scene, replicas: u32) {
    let api = scene.cluster().await.namespaced::<Deployment>(NAMESPACE);
    let patch = json!({"spec": {"replicas": replicas}});
    api.patch(MaliciousSpec::NAME, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_comes_back_is_a_failure() {
    let scene = Scene::with_spire(|_| {}).await;
    scene.make(StepId::Malicious).await.unwrap();
    let target = Target::Namespace(NAMESPACE.to_owned());
    let incident = look(&scene.cx(), &target, false).await.unwrap();
    assert_eq!((incident.entries.len(), incident.holders.len(), incident.actions.len()), (1, 1, 1));
    assert_eq!(incident.valid_until.as_second() - incident.started_at.as_second(), 3600 * 4, "the lab's own lifetime");
    let cx = about(&scene, Containment::new(incident));
    make(&cx, StepId::CutOff).await.unwrap();
    let body = steps::body(StepId::EntriesGone);
    let found = body.check(&cx).await.unwrap();
    body.run(&cx, &found).await.unwrap();
    scale(&scene, 1).await;
    let failure = body.verify(&cx).await.unwrap_err();
    assert!(failure.message.contains("came back after"), "{}", failure.message);
    let record = load(&cx.session.paths.incidents(), None).unwrap();
    assert_eq!(record.entries_gone_at, None);
    // What somebody has scaled meanwhile is left as it is.
    let undo = about(&scene, Containment::undoing(record));
    make(&undo, StepId::UndoContainment).await.unwrap();
    let told = undo.session.containment.as_ref().unwrap().incident().timeline.clone();
    assert!(told.iter().any(|moment| moment.what.contains("was scaled meanwhile")), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_nobody_makes_is_deleted_and_made_again() {
    let scene = Scene::with_spire(|_| {}).await;
    let cluster = scene.cluster().await;
    let pod: DynamicObject = serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "raft", "namespace": "default"},
        "spec": {"containers": [{"name": "raft", "image": "nginx:1.25"}]},
    }))
    .unwrap();
    cluster.apply(&[pod], &scene.cx().patience()).await.unwrap();
    let id = "spiffe://coastal-containers.example/ns/default/sa/default";
    for _ in 0..60 {
        if !registrations::of_id(&scene.cx(), id).await.unwrap().is_empty() {
            break;
        }
        scene.cx().sleep(Duration::from_secs(1)).await.unwrap();
    }
    let incident = look(&scene.cx(), &Target::Id(id.to_owned()), false).await.unwrap();
    assert!(matches!(incident.actions[0].how, How::DeletePod { .. }), "{:?}", incident.actions);
    let cx = about(&scene, Containment::new(incident));
    for step in [StepId::CutOff, StepId::EntriesGone, StepId::AgentsSynced, StepId::IncidentReport] {
        make(&cx, step).await.unwrap();
    }
    assert!(cluster.get::<Pod>("default", "raft").await.unwrap().is_none());
    let undo = about(&scene, Containment::undoing(load(&cx.session.paths.incidents(), None).unwrap()));
    make(&undo, StepId::UndoContainment).await.unwrap();
    let again = cluster.get::<Pod>("default", "raft").await.unwrap().unwrap();
    assert_eq!(again.spec.unwrap().containers[0].image.as_deref(), Some("nginx:1.25"));
    let failure = load(&cx.session.paths.incidents(), None).unwrap_err();
    assert_eq!(failure.kind, Kind::Prerequisite);
}

#[test]
fn records_are_found_by_name_and_the_last_that_is_open() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(load(&directory.path().join("nowhere"), None).unwrap_err().kind, Kind::Prerequisite);
    std::fs::write(directory.path().join("contain-1.json"), "{\"schema\":").unwrap();
    std::fs::write(directory.path().join("rotate-2.json"), "{}").unwrap();
    let failure = load(directory.path(), None).unwrap_err();
    assert!(failure.message.contains("is no record of an incident"), "{}", failure.message);
    let failure = load(directory.path(), Some("../contain-1")).unwrap_err();
    assert_eq!(failure.kind, Kind::Prerequisite);
    assert_eq!(failure.facts, ["there is rotate-2", "there is contain-1"]);
}
