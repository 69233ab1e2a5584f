//! New keys in a rehearsal world: cut off anywhere, by both ways, and with somebody else at the same.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use semver::Version;
use tokio::time::timeout;

use super::marker::{self, Marker, Phase};
use crate::backup::contents::{self, Keep};
use crate::backup::{Seal, Unseal};
use crate::engine::StepContext;
use crate::error::{Failure, Kind};
use crate::plan::{Rekeying, Rotation};
use crate::session::Session;
use crate::spire::rotation::{KeyType, Outcome, Rekey};
use crate::steps::rotate::{self, record};
use crate::steps::testing::Scene;
use crate::steps::{database, planes, servers, unfinished};

impl Scene {
    async fn mark(&self) -> Option<Marker> {
        marker::read(&self.cx(), &self.cluster().await).await.unwrap()
    }

    async fn rekeying(&self, method: Rekey, holder: &str) -> Arc<Session> {
        let paths = self.session.paths.clone();
        let incident = self.mark().await.map(|marker| marker.incident(&paths.incidents()).unwrap());
        let since = incident.as_ref().map_or(self.session.world.clock.now(), |incident| incident.opened_at);
        let rotation = Rotation::new((KeyType::ALL.into(), None), BTreeSet::new(), since, holder.to_owned(), incident);
        let aside = paths.rekey().join("before.tar");
        let rekeying = Rekeying { method, aside, seal: Seal::Plaintext, until: None, workloads: true };
        Session::with_rekey(self.session.lab.clone(), self.session.world.clone(), paths, rotation, rekeying)
    }

    /// Runs the plan's goals one after the other, for so long.
    async fn rekey(&self, method: Rekey, limit: Duration) -> Option<Result<(), Failure>> {
        let session = self.rekeying(method, "me").await;
        let plan = session.rekey.as_ref().unwrap().plan(&session.lab);
        timeout(limit, self.play(&session, &plan)).await.ok()
    }

    /// Authorities of a type that workloads, agents, servers and the data store hold.
    async fn held(&self, key: KeyType) -> Vec<BTreeSet<String>> {
        let planes = planes::collect(&self.cx()).await.unwrap();
        let held = planes.planes.iter().filter_map(|plane| plane.holds(key));
        held.map(|held| held.keys().cloned().collect()).collect()
    }
}

const FOR_EVER: Duration = Duration::from_secs(3600);

fn at(version: Version) -> impl FnOnce(&mut crate::config::Lab) {
    move |lab| {
        lab.spire.server_version = version.clone();
        lab.spire.agent_version = version;
    }
}

#[tokio::test(start_paused = true)]
async fn new_keys_that_are_cut_off_anywhere_are_gone_on_with_and_nothing_is_lost() {
    let (mut cuts, mut phases) = (0, BTreeSet::new());
    for (version, pace) in [(Version::new(1, 7, 2), 2300), (Version::new(1, 11, 3), 3700)] {
        let scene = Scene::with_spire(at(version.clone())).await;
        scene.make(crate::plan::StepId::Workload).await.unwrap();
        for cut in 1.. {
            let method = if cut % 2 == 0 { Rekey::NewKeys } else { Rekey::NewBundle };
            let before = scene.cas().await;
            if let Some(result) = scene.rekey(method, Duration::from_millis(cut * pace)).await {
                result.unwrap();
                break;
            }
            cuts += 1;
            match scene.mark().await {
                // It had not begun; or it had come to its end.
                None => assert!(cut == 1 || scene.cas().await != before),
                Some(marker) => {
                    phases.insert(marker.phase);
                    let refused = unfinished::refuse(&scene.cx()).await.unwrap_err();
                    assert!(refused.next[0].contains(&format!("--rekey {method}")), "{refused:?}");
                    if marker.phase > Phase::Begun {
                        let aside = std::path::PathBuf::from(marker.aside.unwrap());
                        let kept = contents::read(&aside, &Unseal::default(), Keep::Nothing).unwrap();
                        assert_eq!((kept.problems, kept.servers.len()), (Vec::new(), 3));
                    }
                    scene.rekey(method, FOR_EVER).await.unwrap().unwrap();
                }
            }
            let after = scene.cas().await;
            match method {
                Rekey::NewBundle => assert!(after.is_disjoint(&before) && after.len() == 3, "{after:?}"),
                Rekey::NewKeys => assert!(after.is_superset(&before) && after.len() == before.len() + 3, "{after:?}"),
            }
            assert!(scene.held(KeyType::X509).await.iter().all(|held| *held == after), "{version} {method}");
            assert!(scene.mark().await.is_none() && !scene.session.paths.rekey().exists());
        }
    }
    assert!(cuts > 10, "{cuts}");
    let expected = [Phase::Aside, Phase::Keys, Phase::Bundle, Phase::Agents];
    assert!(expected.iter().all(|phase| phases.contains(phase)), "{phases:?}");
}

#[tokio::test(start_paused = true)]
async fn a_mark_is_enough_to_go_on_from_another_machine() {
    let scene = Scene::up().await;
    let before = scene.cas().await;
    assert!(scene.rekey(Rekey::NewBundle, Duration::from_secs(9)).await.is_none());
    let marker = scene.mark().await.unwrap();
    assert_eq!((marker.phase, marker.outgoing(KeyType::X509)), (Phase::Bundle, before.clone()));
    let incidents = scene.session.paths.incidents();
    std::fs::remove_dir_all(&incidents).unwrap();
    scene.rekey(Rekey::NewBundle, FOR_EVER).await.unwrap().unwrap();
    assert!(scene.cas().await.is_disjoint(&before));
    let incident = record::read(&incidents, &marker.incident).unwrap().unwrap();
    assert_eq!((incident.outcome, incident.rekey), (Outcome::Complete, Some(Rekey::NewBundle)));
    assert_eq!(incident.opened_at, marker.since);
}

#[tokio::test(start_paused = true)]
async fn two_operators_do_not_change_keys_at_once() {
    let scene = Scene::up().await;
    assert!(scene.rekey(Rekey::NewKeys, Duration::from_secs(9)).await.is_none());
    let other = scene.rekeying(Rekey::NewKeys, "you").await;
    let plan = other.rekey.as_ref().unwrap().plan(&other.lab);
    let refused = scene.play(&other, &plan).await.unwrap_err();
    assert_eq!(refused.kind, Kind::Refused);
    assert!(refused.message.contains("me is rotating keys here"), "{refused:?}");
    // The first one lets go, or has been silent for a minute.
    let mine = scene.rekeying(Rekey::NewKeys, "me").await;
    rotate::let_go(&StepContext::new(mine, plan.steps[2].id, scene.cx().deadline(), scene.cancel.clone(), None))
        .await
        .unwrap();
    scene.play(&other, &plan).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn servers_that_somebody_starts_in_between_are_seen() {
    let scene = Scene::up().await;
    let before = scene.cas().await;
    assert!(scene.rekey(Rekey::NewKeys, Duration::from_millis(5500)).await.is_none());
    assert_eq!(scene.mark().await.unwrap().phase, Phase::Aside);
    servers::start(&scene.cx(), &scene.cluster().await).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    scene.rekey(Rekey::NewKeys, FOR_EVER).await.unwrap().unwrap();
    assert_eq!(scene.cas().await.difference(&before).count(), 3);
    // A phase that is not true is found out, and begun again.
    assert!(scene.rekey(Rekey::NewBundle, Duration::from_secs(9)).await.is_none());
    let (cx, cluster) = (scene.cx(), scene.cluster().await);
    let marker = scene.mark().await.unwrap();
    servers::start(&cx, &cluster).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let outgoing = [(KeyType::X509, scene.cas().await)].into();
    marker::write(&cx, &cluster, Some(&Marker { outgoing, ..marker })).await.unwrap();
    let failure = scene.rekey(Rekey::NewBundle, FOR_EVER).await.unwrap().unwrap_err();
    assert!(failure.message.contains("new X.509 authorities are in the bundle"), "{failure:?}");
    scene.rekey(Rekey::NewBundle, FOR_EVER).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_bundle_that_is_dropped_is_gone_with_both_types_of_keys() {
    let scene = Scene::with_spire(|_| {}).await;
    let cx = scene.cx();
    servers::stop(&cx, &scene.cluster().await).await.unwrap();
    assert!(database::shared(&cx).await.unwrap().bundle.is_ok());
    database::drop_bundle(&cx).await.unwrap();
    let shared = database::shared(&cx).await.unwrap();
    assert!(shared.bundle.unwrap_err().contains("no bundle") && shared.entries > 0);
    database::drop_bundle(&cx).await.unwrap();
}
