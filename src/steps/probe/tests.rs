//! Probes on the rehearsal world.

use kube::core::Status;
use serde_json::json;
use tokio::time::{sleep, timeout};

use super::*;
use crate::observe;
use crate::plan::{Finding, StepId};
use crate::rehearsal::Fault;
use crate::steps::testing::Scene;
use crate::steps::{body, identity};
use crate::workload::record::SCHEMA;

const PURPOSE: &str = "1.8.0-agents";

async fn authorities(scene: &Scene) -> BTreeSet<String> {
    let bundle = identity::bundle(&scene.cx()).await.unwrap();
    bundle.x509_authorities.iter().filter_map(crate::spire::cli::X509Authority::key_id).collect()
}

async fn left(scene: &Scene) -> Vec<String> {
    let there = leftovers(&scene.cx(), &scene.cluster().await).await.unwrap();
    there.iter().map(ResourceExt::name_any).collect()
}

/// Asks now.
async fn ask(scene: &Scene) -> Result<Vec<Proof>, Failure> {
    let authorities = authorities(scene).await;
    let issued_after = scene.session.world.clock.now();
    prove(&scene.cx(), Asked { purpose: PURPOSE, issued_after, authorities: &authorities }).await
}

/// A run that is killed while its probes wait.
async fn killed(scene: &Scene) {
    assert!(timeout(Duration::from_secs(3), ask(scene)).await.is_err(), "killed before it was done");
    assert_eq!(left(scene).await, [pod::name(&scene.session.lab, PURPOSE, "kind-worker")]);
}

#[tokio::test(start_paused = true)]
async fn a_new_pod_on_each_node_shows_its_svid_and_is_gone() {
    let scene = Scene::up().await;
    let now = scene.session.world.clock.now();
    let proofs = ask(&scene).await.unwrap();
    let [proof] = proofs.as_slice() else { panic!("one node runs an agent: {proofs:?}") };
    assert_eq!((proof.node.as_str(), proof.chained), ("kind-worker", true));
    assert_eq!(proof.spiffe_id, "spiffe://coastal-containers.example/ns/default/sa/workload");
    assert!(proof.not_before + BACKDATE >= now, "{proof:?}");
    assert!(authorities(&scene).await.contains(proof.issuer_key_id.as_ref().unwrap()));
    // Facts, section 9: 6.6 s after the start of the pod.
    assert!((6_000..=9_000).contains(&proof.took_ms), "{proof:?}");
    assert!(in_words(&proofs).ends_with(" ms, chained to the bundle"), "{}", in_words(&proofs));
    assert_eq!(left(&scene).await, Vec::<String>::new());
    assert_ne!(ask(&scene).await.unwrap()[0].serial, proof.serial, "each has an SVID of its own");
}

#[tokio::test(start_paused = true)]
async fn what_a_killed_run_left_is_replaced() {
    let scene = Scene::up().await;
    killed(&scene).await;
    let status = Box::pin(observe::status(&scene.session, &scene.cancel)).await.unwrap();
    assert_eq!((status.workload.pods, status.workload.with_svid), (5, 5), "a probe is none of the workload's pods");
    assert!(ask(&scene).await.is_ok());
    assert_eq!(left(&scene).await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn what_a_killed_run_left_goes_with_the_workload() {
    let scene = Scene::with_spire(|_| {}).await;
    killed(&scene).await;
    let down = body(StepId::RemoveWorkload);
    let found = down.check(&scene.cx()).await.unwrap();
    assert!(matches!(&found, Finding::Differs(what) if what.contains("coastal-probe-")), "{found:?}");
    scene.make(StepId::RemoveWorkload).await.unwrap();
    assert_eq!(left(&scene).await, Vec::<String>::new());
    assert!(down.check(&scene.cx()).await.unwrap().is_satisfied());
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_to_stop_takes_its_probes_along() {
    let scene = Scene::up().await;
    let stop = async {
        sleep(Duration::from_secs(3)).await;
        assert_eq!(left(&scene).await.len(), 1);
        scene.cancel.cancel();
    };
    let begun = Instant::now();
    let (result, ()) = tokio::join!(ask(&scene), stop);
    assert_eq!(result.unwrap_err().kind, Kind::Interrupted);
    assert!(begun.elapsed() < Duration::from_secs(3) + FAREWELL);
    let cluster = scene.session.cluster.get().unwrap().clone();
    assert!(leftovers(&scene.cx(), &cluster).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn without_the_workload_another_service_account_does() {
    let scene = Scene::with_spire(|_| {}).await;
    let proofs = ask(&scene).await.unwrap();
    assert_eq!(proofs[0].spiffe_id, "spiffe://coastal-containers.example/ns/default/sa/default");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_gives_nothing_is_named() {
    let scene = Scene::up().await;
    let cluster = scene.cluster().await;
    scene.rehearsal.inject(Fault::AgentNeverReady(None));
    let agents = cluster.namespaced::<Pod>(&scene.session.lab.spire.system_namespace);
    let list = agents.list(&ListParams::default().labels(names::AGENT_SELECTOR)).await.unwrap();
    agents.delete(&list.items[0].name_any(), &kube::api::DeleteParams::default()).await.unwrap();
    sleep(Duration::from_secs(30)).await;
    let failure = ask(&scene).await.unwrap_err();
    assert_eq!(failure.kind, Kind::Timeout);
    assert!(failure.message.starts_with("probe on node kind-worker: no SVID for a new pod within "), "{failure}");
    let facts = failure.facts.join("\n");
    for words in ["default/coastal-probe-", "Running", "said: ", "unreachable", "agent spire-system/spire-agent-"] {
        assert!(facts.contains(words), "{words}: {facts}");
    }
    assert_eq!(left(&scene).await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn without_agents_nobody_is_asked() {
    let scene = Scene::up().await;
    let lab = &scene.session.lab.spire;
    let agents = scene.cluster().await.namespaced::<k8s_openapi::api::apps::v1::DaemonSet>(&lab.system_namespace);
    agents.delete(&names::agent(lab), &kube::api::DeleteParams::default()).await.unwrap();
    sleep(Duration::from_secs(60)).await;
    let failure = ask(&scene).await.unwrap_err();
    assert_eq!(failure.message, "no agent runs, so no new pod can be given an SVID");
}

#[tokio::test(start_paused = true)]
async fn an_image_that_cannot_be_had_is_said_at_once() {
    let scene = Scene::with_spire(|lab| lab.workload.image = "coastal-workload:nowhere".into()).await;
    let begun = Instant::now();
    let failure = ask(&scene).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    assert!(failure.message.starts_with("probe on node kind-worker: pod default/coastal-probe-"), "{failure}");
    assert!(failure.message.contains("ErrImagePull"), "{failure}");
    assert!(failure.next.iter().any(|next| next.contains("deploy-workload")), "{:?}", failure.next);
    assert_eq!(left(&scene).await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_workload_of_the_users_own_is_asked_through_the_agents_program() {
    let scene = Scene::up().await;
    let images = scene.session.paths.images();
    std::fs::create_dir_all(&images).unwrap();
    std::fs::write(images.join("workload.json"), r#"{"from":"dockerfile","directory":"/src"}"#).unwrap();
    let proofs = ask(&scene).await.unwrap();
    assert_eq!((proofs[0].chained, &proofs[0].serial), (false, &None));
    assert!(!in_words(&proofs).contains("chained"));
}

fn update(not_before: i64, anchor: Option<&str>, verified: Option<bool>) -> Update {
    let at = |seconds| Timestamp::from_second(1_770_000_000 + seconds).unwrap();
    Update {
        schema: SCHEMA,
        sequence: 1,
        svid: 0,
        received_at: None,
        spiffe_id: "spiffe://td/x".into(),
        hint: None,
        serial: None,
        not_before: at(not_before),
        not_after: at(600),
        issuer_key_id: None,
        anchor_key_id: anchor.map(str::to_owned),
        bundle_key_ids: Vec::new(),
        authorities: 0,
        verified,
    }
}

#[test]
fn an_svid_is_judged() {
    let authorities = BTreeSet::from(["aa".to_owned()]);
    // Issued in the same second counts: certificates hold whole seconds.
    let issued_after = Timestamp::from_second(1_770_000_000).unwrap() + SignedDuration::from_millis(700);
    let asked = Asked { purpose: PURPOSE, issued_after, authorities: &authorities };
    for (update, trust_domain, expected) in [
        (update(-10, Some("aa"), Some(true)), "td", "good, chained"),
        (update(-11, Some("aa"), Some(true)), "td", "not yet: its SVID was issued at 2026-02-02T02:39:59Z, before"),
        (update(-10, Some("bb"), Some(true)), "td", "bad: the SVID of a new pod chains to an authority that is not in"),
        (update(-10, Some("aa"), Some(false)), "td", "bad: the SVID of a new pod does not verify"),
        (update(-10, None, None), "td", "good, not seen to chain"),
        (update(-10, Some("aa"), Some(true)), "other", "bad: a new pod was given spiffe://td/x, which is not of"),
    ] {
        let said = match judge(&update, asked, trust_domain) {
            Verdict::Good { chained: true } => "good, chained".to_owned(),
            Verdict::Good { chained: false } => "good, not seen to chain".to_owned(),
            Verdict::NotYet(why) => format!("not yet: {why}"),
            Verdict::Bad(failure) => format!("bad: {failure}"),
        };
        assert!(said.starts_with(expected), "{said} / {expected}");
    }
}

#[test]
fn who_may_not_make_a_probe_reads_why() {
    let wanted: Pod =
        serde_json::from_value(json!({"metadata": {"name": "coastal-probe-1", "namespace": "sea"}})).unwrap();
    let said = |code: u16, reason: &str, message: &str| {
        let status = Status { code, ..Status::failure(message, reason) };
        not_admitted(&kube::Error::Api(Box::new(status)), &wanted, "node-1")
    };
    for (code, reason, message, expected, kind) in [
        (
            403,
            "Forbidden",
            "pods \"coastal-probe-1\" is forbidden: violates PodSecurity \"restricted:latest\": runAsNonRoot != true",
            "no probe pod can be made in namespace sea: its Pod Security level refuses it",
            Kind::Prerequisite,
        ),
        (
            403,
            "Forbidden",
            "pods \"coastal-probe-1\" is forbidden: exceeded quota: few, requested: pods=1, used: pods=5, limited: pods=5",
            "no probe pod can be made in namespace sea: its quota is used up",
            Kind::Prerequisite,
        ),
        (
            409,
            "AlreadyExists",
            "pods \"coastal-probe-1\" already exists",
            "no probe pod can be made in namespace sea: coastal-probe-1 is there and is not the lab's",
            Kind::Prerequisite,
        ),
        (
            403,
            "Forbidden",
            "pods is forbidden: User \"x\" cannot create resource \"pods\"",
            "could not make a probe pod on node node-1: pods is forbidden: User \"x\" cannot create resource \"pods\"",
            Kind::Tool,
        ),
    ] {
        let failure = said(code, reason, message);
        assert_eq!((failure.message.as_str(), failure.kind), (expected, kind));
        assert!(!failure.next.is_empty(), "{failure}");
    }
}
