//! Where a student stands, from nothing to the end.

use std::collections::BTreeSet;

use super::{ALL, Move, State, find, progress, reset};
use crate::checks::testing::{change_pod, healthy};
use crate::checks::{Evidence, There};
use crate::config::embedded;
use crate::plan::{Goal, StepId};

fn states(evidence: &Evidence) -> Vec<(&'static str, State)> {
    progress(evidence).into_iter().map(|step| (step.id, step.state)).collect()
}

fn state(evidence: &Evidence, id: &str) -> (State, String) {
    let step = progress(evidence).into_iter().find(|step| step.id == id).unwrap();
    (step.state, step.message)
}

/// A healthy lab, with the pods that the checks do not ask for.
fn finished() -> Evidence {
    let mut evidence = healthy();
    let pods = evidence.pods.as_mut().unwrap();
    let like = pods[0].clone();
    for (namespace, name) in [
        ("cert-manager", "cert-manager-0"),
        ("projectcontour", "contour-0"),
        ("default", "prometheus-grafana-0"),
        ("default", "prometheus-prometheus-kube-prometheus-prometheus-0"),
        ("spire-server", "spire-db-0"),
        ("spire-server", "spire-tornjak-frontend-0"),
    ] {
        let mut pod = like.clone();
        pod.metadata.name = Some(name.into());
        pod.metadata.namespace = Some(namespace.into());
        pod.metadata.labels = None;
        pods.push(pod);
    }
    evidence
}

#[test]
fn who_has_nothing_begins_with_the_first() {
    let lab = healthy();
    let evidence = Evidence::without_cluster(lab.lab, lab.now, Ok(There::Absent), "there is no cluster");
    let states = states(&evidence);
    assert_eq!(states[0], ("cluster", State::Next));
    assert!(states[1..].iter().all(|(_, state)| *state == State::Later), "{states:?}");
}

#[test]
fn who_has_everything_goes_on_to_the_upgrade() {
    let evidence = finished();
    let states = states(&evidence);
    let done = ["cluster", "repos", "prometheus", "namespaces", "database", "spire", "monitors", "workload"];
    for (id, state) in &states {
        let expected = match *id {
            id if done.contains(&id) => State::Done,
            "upgrade" => State::Next,
            "cleanup" => State::Later,
            _ => State::Open,
        };
        assert_eq!(*state, expected, "{id}: {:?}", progress(&evidence));
    }
    let mut upgraded = finished();
    upgraded.row = Ok((23, "1.8.0".into()));
    assert_eq!(state(&upgraded, "upgrade"), (State::Done, "SPIRE 1.8.0 has run here; now 1.7.2 does".into()));
}

#[test]
fn what_is_there_and_does_not_work_is_broken() {
    type Break = fn(&mut Evidence);
    let rows: &[(&str, Break, &str)] = &[
        ("cluster", |e| e.there = Ok(There::HalfMade), "half-made"),
        (
            "cluster",
            |e| change_pod(e, "contour-0", |pod| pod["status"]["conditions"] = serde_json::json!([])),
            "contour-0",
        ),
        ("database", |e| e.login = Ok(Err("the login is refused".into())), "the login is refused"),
        ("spire", |e| e.live.as_mut().unwrap().servers.clear(), "no server"),
        ("spire", |e| e.audited.as_mut().unwrap().agents.clear(), "has not attested"),
        ("workload", |e| e.svids.as_mut().unwrap()[0].update = None, "1 of 5 pods"),
        ("disaster", |e| e.server_set = Ok(None), "this is the disaster"),
        (
            "compromise",
            |e| change_pod(e, "contour-0", |pod| pod["metadata"]["namespace"] = serde_json::json!("pirate-coast")),
            "in the bay",
        ),
    ];
    for (id, breaks, says) in rows {
        let mut evidence = finished();
        breaks(&mut evidence);
        let (state, message) = state(&evidence, id);
        assert_eq!(state, State::Broken, "{id}: {message}");
        assert!(message.contains(says), "{id}: {message}");
    }
}

#[test]
fn what_was_made_by_hand_counts() {
    let mut evidence = finished();
    // `kubectl create namespace` sets no labels.
    evidence.namespaces.as_mut().unwrap().iter_mut().for_each(|namespace| namespace.metadata.labels = None);
    let (namespaces, message) = state(&evidence, "namespaces");
    assert!(namespaces == State::Done && message.contains("enforces nothing"), "{message}");
    // A workload of the student's own logs certificates only.
    evidence.svids.as_mut().unwrap().iter_mut().for_each(|svid| svid.update = None);
    let (workload, message) = state(&evidence, "workload");
    assert!(workload == State::Done && message.contains("each with an entry"), "{message}");
}

#[test]
fn what_could_not_be_seen_is_neither_done_nor_missing() {
    let mut evidence = finished();
    evidence.releases = Err("helm is silent".into());
    assert_eq!(state(&evidence, "spire"), (State::Unknown, "helm is silent".into()));
    assert_eq!(state(&evidence, "database").0, State::Done);
    evidence.there = Err("the API server is silent".into());
    assert!(states(&evidence).iter().all(|(_, state)| *state == State::Unknown), "{:?}", states(&evidence));
}

#[test]
fn a_reset_takes_away_what_comes_after_and_makes_what_comes_before() {
    let to = |id: &str| reset(find(id).unwrap(), true);
    assert_eq!(to("cluster"), [Move::To(Goal::Down)]);
    assert_eq!(
        to("namespaces"),
        [Goal::DownKeepCluster, Goal::ClusterUp, Goal::AddRepos, Goal::PrometheusInstall].map(Move::To)
    );
    let spire = to("6");
    assert_eq!(spire[0], Move::Only(Goal::PrometheusUninstall, StepId::RemoveMonitors));
    assert_eq!(spire[1..3], [Move::To(Goal::SpireUninstall), Move::To(Goal::TearDown)]);
    assert_eq!(spire.last(), Some(&Move::To(Goal::DeployDatabase)));
    let upgrade = to("upgrade");
    assert_eq!(upgrade[0], Move::To(Goal::DeleteMalicious));
    assert_eq!(upgrade.last(), Some(&Move::To(Goal::DeployWorkload)));
    let without = reset(find("spire").unwrap(), false);
    assert!(
        without.iter().all(|step| !matches!(step, Move::Only(..) | Move::To(Goal::PrometheusInstall))),
        "{without:?}"
    );
    assert!(find("spier").unwrap_err().facts[0].contains("cluster, repos"));
}

#[test]
fn lessons_are_told_apart_and_name_commands_that_exist() {
    let lab = embedded().unwrap();
    let ids: BTreeSet<&str> = ALL.iter().flat_map(|lesson| [lesson.id, lesson.number]).collect();
    assert_eq!(ids.len(), 2 * ALL.len());
    for lesson in ALL {
        assert!(!lesson.commands.is_empty() && lesson.why.ends_with('.'), "{}", lesson.id);
        for step in reset(lesson, lab.monitoring.is_some()) {
            assert!(!step.words().is_empty());
        }
    }
}
