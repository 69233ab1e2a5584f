//! The meter on the rehearsal world.

use std::time::Duration;

use kube::api::DeleteParams;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::*;
use crate::plan::StepId;
use crate::rehearsal::store::{Key, Store};
use crate::steps::testing::Scene;
use crate::workload::meter::{Figure, Verdict};

const MINUTE: Duration = Duration::from_secs(60);

fn store(scene: &Scene) -> Store {
    scene.rehearsal.store("kind").unwrap()
}

async fn first_pod(scene: &Scene) -> Pod {
    workload::pods(&scene.cx(), &scene.cluster().await).await.unwrap().remove(0)
}

#[tokio::test(start_paused = true)]
async fn nothing_happens_for_hours_but_renewals() {
    let scene = Scene::up().await;
    let meter = Meter::start(&scene.cx()).await.unwrap();
    sleep(130 * MINUTE).await;
    let report = meter.finish(&scene.cx()).await.unwrap();
    assert_eq!(report.verdict, Verdict::Unbroken, "{report:#?}");
    let total = &report.total;
    assert_eq!((total.pods, total.judged_ms, total.unknown_ms), (5, 5 * 130 * 60_000, 0));
    assert_eq!((&total.no_valid_svid_ms, &total.api_silent_ms), (&Figure::Known(0), &Figure::Known(0)));
    // SVIDs live four hours and are renewed after two.
    assert_eq!(total.renewals, Figure::Known(5));
    assert_eq!((total.issuers_before.key_ids.len(), &total.issuers_before.unknown), (1, &None));

    // Later the last SVID before the window is all that is read of what was before it.
    sleep(60 * MINUTE).await;
    let meter = Meter::start(&scene.cx()).await.unwrap();
    sleep(MINUTE).await;
    let report = meter.finish(&scene.cx()).await.unwrap();
    assert_eq!((report.verdict, report.total.judged_ms), (Verdict::Unbroken, 300_000));
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_is_away_is_silent_and_no_more() {
    let scene = Scene::up().await;
    let lab = &scene.session.lab.spire;
    let meter = Meter::start(&scene.cx()).await.unwrap();
    sleep(MINUTE).await;
    let agents = scene.cluster().await.namespaced::<Pod>(&lab.system_namespace);
    let list = agents.list(&kube::api::ListParams::default().labels(names::AGENT_SELECTOR)).await.unwrap();
    agents.delete(&list.items[0].name_any(), &DeleteParams::default()).await.unwrap();
    sleep(2 * MINUTE).await;
    let report = meter.finish(&scene.cx()).await.unwrap();
    assert_eq!(report.verdict, Verdict::Unbroken, "{report:#?}");
    let silent = report.total.api_silent_ms.known().unwrap();
    assert!((5 * 2_000..5 * 20_000).contains(&silent), "{silent}");
    assert_eq!(report.total.longest_api_silent_ms.known().unwrap() * 5, silent, "one agent, five pods");
    // A gate that asks in between has the same to say of the time until then.
    assert_eq!(meter.finish(&scene.cx()).await.unwrap().total, report.total);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_goes_takes_its_log_along() {
    let scene = Scene::up().await;
    let meter = Meter::start(&scene.cx()).await.unwrap();
    let start = meter.began();
    sleep(MINUTE).await;
    let pod = first_pod(&scene).await.name_any();
    let pods = scene.cluster().await.namespaced::<Pod>("default");
    pods.delete(&pod, &DeleteParams::default()).await.unwrap();
    sleep(MINUTE).await;

    let report = meter.finish(&scene.cx()).await.unwrap();
    assert_eq!((report.verdict, report.total.pods), (Verdict::Unknown, 6));
    let why = report.total.no_valid_svid_ms.why_unknown().unwrap();
    assert!(why.contains(&pod) || why.contains("the pod is gone"), "{why}");
    assert_eq!(report.total.new_pods.started, 1);
    let waited = report.total.new_pods.longest_without_identity_ms.known().unwrap();
    assert!((5_000..9_000).contains(&waited), "{waited}");

    // Whoever begins later and was told of the start only knows that somebody is missing.
    let report = Meter::since(start).finish(&scene.cx()).await.unwrap();
    assert_eq!((report.verdict, report.total.pods), (Verdict::Unknown, 5));
    let why = report.total.no_valid_svid_ms.why_unknown().unwrap();
    assert!(why.starts_with("4 of 5 pods have been there since 2026-02-02T"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn a_later_process_finishes_what_another_began() {
    let scene = Scene::up().await;
    let meter = Meter::start(&scene.cx()).await.unwrap();
    sleep(5 * MINUTE).await;
    let kept = serde_json::to_string(&meter).unwrap();
    let read: Meter = serde_json::from_str(&kept).unwrap();
    assert_eq!(read, meter);
    let (one, other) = (meter.finish(&scene.cx()).await.unwrap(), read.finish(&scene.cx()).await.unwrap());
    assert_eq!(one, other);
    let report = Meter::since(meter.began()).finish(&scene.cx()).await.unwrap();
    assert_eq!(report.total, one.total, "nobody is missing, so nothing is");
    assert_eq!(report.verdict, Verdict::Unbroken);
}

#[tokio::test(start_paused = true)]
async fn rubbish_in_a_log_is_passed_over() {
    let scene = Scene::up().await;
    let meter = Meter::start(&scene.cx()).await.unwrap();
    let key = Key::pod("default", &first_pod(&scene).await.name_any());
    for line in [
        "{",
        "{\"type\":\"svid-update\"}",
        "\u{0}\u{fffd}\u{1b}[2J{}",
        "SPIFFE ID:",
        "Received 1 svid after 1s",
        &"x{".repeat(100_000),
    ] {
        store(&scene).append_log(key.namespace(), &key.name, WORKLOAD_CONTAINER, line);
    }
    sleep(5 * MINUTE).await;
    let report = meter.finish(&scene.cx()).await.unwrap();
    assert_eq!((report.verdict, report.total.renewals.clone()), (Verdict::Unbroken, Figure::Known(0)), "{report:#?}");
}

#[tokio::test(start_paused = true)]
async fn without_a_cluster_nothing_is_known() {
    let scene = Scene::up().await;
    let meter = Meter::start(&scene.cx()).await.unwrap();
    sleep(MINUTE).await;
    scene.make(StepId::RemoveWorkload).await.unwrap();
    let report = meter.finish(&scene.cx()).await.unwrap();
    assert_eq!((report.verdict, report.total.pods), (Verdict::Unknown, 5));
    scene.make(StepId::RemoveCluster).await.unwrap();
    let report = meter.finish(&scene.cx()).await.unwrap();
    assert_eq!((report.verdict, report.total.pods, report.total.judged_ms), (Verdict::Unknown, 5, 0));
    assert!(
        report.total.no_valid_svid_ms.why_unknown().is_some_and(|why| why.contains("does not answer")),
        "{report:#?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_to_stop_measures_nothing() {
    let scene = Scene::up().await;
    let meter = Meter::start(&scene.cx()).await.unwrap();
    scene.cancel.cancel();
    assert_eq!(meter.finish(&scene.cx()).await.unwrap_err().kind, Kind::Interrupted);
}

/// Seconds since some moment, or nothing where it is not told.
fn told(runs: &[Run]) -> Vec<(i64, Option<i64>, &Log)> {
    let second = |at: Timestamp| at.as_second() - 1_770_000_000;
    runs.iter().map(|run| (second(run.started_at), run.ended_at.map(second), &run.log)).collect()
}

#[test]
fn the_status_of_a_pod_tells_of_its_runs() {
    let at = |second: i64| json!(Timestamp::from_second(1_770_000_000 + second).unwrap().to_string());
    let runs = |status: Value| {
        let pod = json!({
            "metadata": {"name": "a", "creationTimestamp": at(1)},
            "status": {"startTime": at(2), "containerStatuses": [status]},
        });
        let pod: Pod = serde_json::from_value(pod).unwrap();
        runs_of(&pod, "workload")
    };
    let status = |restarts: i32, state: Value, last: Value| json!({"name": "workload", "image": "x", "imageID": "", "ready": true, "restartCount": restarts, "state": state, "lastState": last});
    let running = |from: i64| json!({"running": {"startedAt": at(from)}});
    let ended =
        |from: i64, to: i64| json!({"terminated": {"exitCode": 1, "startedAt": at(from), "finishedAt": at(to)}});
    let waiting = || json!({"waiting": {"reason": "CrashLoopBackOff"}});
    let none = || json!({});
    for (name, status, expected) in [
        ("not started", status(0, json!({"waiting": {"reason": "ContainerCreating"}}), none()), vec![]),
        ("runs", status(0, running(5), none()), vec![(5, None, &Log::Current)]),
        ("ended", status(0, ended(5, 9), none()), vec![(5, Some(9), &Log::Current)]),
        (
            "second run",
            status(1, running(20), ended(5, 9)),
            vec![(5, Some(9), &Log::Previous), (20, None, &Log::Current)],
        ),
        (
            "second run, and nothing is told of the first",
            status(1, running(20), none()),
            vec![(2, Some(20), &Log::Gone), (20, None, &Log::Current)],
        ),
        (
            "fifth run",
            status(4, running(20), ended(12, 19)),
            vec![(2, Some(12), &Log::Gone), (12, Some(19), &Log::Previous), (20, None, &Log::Current)],
        ),
        (
            "waits for its third run",
            status(1, waiting(), ended(12, 19)),
            vec![(2, Some(12), &Log::Gone), (12, Some(19), &Log::Current)],
        ),
        (
            "second run, and the first one's start is not told",
            status(1, running(20), json!({"terminated": {"exitCode": 1, "finishedAt": at(9)}})),
            vec![(2, Some(9), &Log::Previous), (20, None, &Log::Current)],
        ),
        (
            "fifth run, and the fourth one's start is not told",
            status(4, running(20), json!({"terminated": {"exitCode": 1, "finishedAt": at(19)}})),
            vec![(2, Some(19), &Log::Gone), (19, Some(19), &Log::Previous), (20, None, &Log::Current)],
        ),
    ] {
        assert_eq!(told(&runs(status)), expected, "{name}");
    }
    assert!(runs_of(&Pod::default(), "workload").is_empty());
}
