//! Restores in a rehearsal world: onto a lab that runs, one that has lost everything, and cut off anywhere.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::DeleteParams;
use tokio::time::timeout;

use super::look::Present;
use super::marker::{self, Phase};
use crate::backup::contents::{self, Keep};
use crate::backup::{Contents, Described, Seal, Unseal};
use crate::error::Failure;
use crate::plan::Restoration;
use crate::rehearsal::Fault;
use crate::session::Session;
use crate::spire::names;
use crate::steps::backup::gather;
use crate::steps::testing::Scene;

impl Scene {
    fn archive(&self, name: &str) -> std::path::PathBuf {
        self.session.paths.backups().join(name)
    }

    async fn backup(&self, name: &str) -> Result<Described, Failure> {
        gather::gather(&self.cx(), &self.archive(name), &Seal::Plaintext).await
    }

    fn restoration(&self, name: &str) -> Restoration {
        let file = self.archive(name);
        let contents = contents::read(&file, &Unseal::default(), Keep::Dump).unwrap();
        assert_eq!(contents.problems, Vec::<String>::new());
        Restoration {
            id: contents.manifest.taken_at.to_string(),
            file,
            contents,
            install: None,
            version: self.session.lab.spire.server_version.clone(),
            aside: self.session.paths.aside().join("before.tar"),
            seal: Seal::Plaintext,
        }
    }

    /// Runs the plan's goals one after the other, for so long.
    async fn restore(&self, name: &str, limit: Duration) -> Option<Result<(), Failure>> {
        let restoration = self.restoration(name);
        let plan = restoration.plan(&self.session.lab);
        let world = self.session.world.clone();
        let session = Session::with_restore(self.session.lab.clone(), world, self.session.paths.clone(), restoration);
        timeout(limit, self.play(&session, &plan)).await.ok()
    }

    async fn marker(&self) -> Option<marker::Marker> {
        marker::read(&self.cx(), &self.cluster().await).await.unwrap()
    }
}

const FOR_EVER: Duration = Duration::from_secs(3600);

fn aside(scene: &Scene) -> Option<Contents> {
    let file = scene.session.paths.aside().join("before.tar");
    file.exists().then(|| contents::read(&file, &Unseal::default(), Keep::Nothing).unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_restore_that_is_cut_off_anywhere_is_gone_on_with_and_nothing_is_lost() {
    let scene = Scene::up().await;
    let before = scene.cas().await;
    scene.backup("a.tar").await.unwrap();
    let (mut cuts, mut phases) = (0, BTreeSet::new());
    for half_seconds in 1.. {
        let cut = scene.restore("a.tar", Duration::from_millis(700 * half_seconds)).await;
        if let Some(result) = cut {
            result.unwrap();
            break;
        }
        cuts += 1;
        // Until the gate is passed, all of what was there is kept, or nothing of it was touched yet.
        match scene.marker().await {
            None => assert!(aside(&scene).is_none_or(|contents| contents.problems.is_empty())),
            Some(marker) => {
                phases.insert(marker.phase);
                let refused = marker::none_is_open(&scene.cx()).await.unwrap_err();
                assert!(refused.next.iter().any(|next| next.contains("coastal restore")), "{refused:?}");
                let kept = aside(&scene).unwrap();
                assert_eq!((kept.problems.len(), kept.servers.len()), (0, 3));
            }
        }
        scene.restore("a.tar", FOR_EVER).await.unwrap().unwrap();
        assert_eq!(scene.cas().await, before);
        assert!(scene.marker().await.is_none() && aside(&scene).is_none());
    }
    assert!(cuts > 10, "{cuts}");
    assert_eq!(phases, BTreeSet::from([Phase::Aside, Phase::Database, Phase::Keys]));
}

#[tokio::test(start_paused = true)]
async fn keys_and_database_that_are_lost_come_back_with_the_same_ca() {
    let scene = Scene::up().await;
    let before = scene.cas().await;
    let described = scene.backup("a.tar").await.unwrap();
    assert!(described.manifest.one_moment && described.manifest.incomplete.is_empty());
    let cluster = scene.cluster().await;
    let namespace = &scene.session.lab.spire.server_namespace;
    // Servers, claims and the database's row of what it was: as a person would lose them.
    let delete = DeleteParams::default();
    cluster.namespaced::<StatefulSet>(namespace).delete("spire-server", &delete).await.unwrap();
    cluster.pods_gone(namespace, crate::spire::names::SERVER_SELECTOR, &scene.cx().patience()).await.unwrap();
    for server in names::server_pods(&scene.session.lab.spire) {
        let claims = cluster.namespaced::<PersistentVolumeClaim>(namespace);
        let claim = names::server_claim(&server);
        cluster.delete_named(claims, &claim, &claim, &scene.cx().patience()).await.unwrap();
    }
    let present = Present::look(&scene.cx()).await.unwrap();
    assert!(!present.installed && present.claims == 0 && !present.is_empty());
    let mut restoration = scene.restoration("a.tar");
    let version = restoration.version.clone();
    restoration.install = Some((version.clone(), version));
    let plan = restoration.plan(&scene.session.lab);
    let (lab, world, paths) = (scene.session.lab.clone(), scene.session.world.clone(), scene.session.paths.clone());
    let session = Session::with_restore(lab, world, paths, restoration);
    let mut steps = plan.clone();
    // The scene's workload runs of an image that is pulled; there is none to build.
    steps.steps.retain(|step| !step.id.to_string().contains("workload-image"));
    scene.play(&session, &steps).await.unwrap();
    assert_eq!(scene.cas().await, before);
}

#[tokio::test(start_paused = true)]
async fn a_backup_that_cannot_be_taken_leaves_nothing() {
    let scene = Scene::with_spire(|_| {}).await;
    let cluster = scene.cluster().await;
    let namespace = &scene.session.lab.spire.server_namespace;
    for (fault, words) in [
        (Fault::DumpMismatch, "pg_dump is older than the server"),
        (Fault::DatabaseUnreachable, "the database could not be dumped"),
    ] {
        let name = fault.name();
        scene.rehearsal.inject(fault);
        let failure = scene.backup("a.tar").await.unwrap_err();
        assert!(failure.message.contains(words), "{failure:?}");
        scene.rehearsal.cure(name);
    }
    // Its pod is not there.
    cluster.namespaced::<StatefulSet>(namespace).delete("spire-db", &DeleteParams::default()).await.unwrap();
    cluster.pods_gone(namespace, "app=spire-db", &scene.cx().patience()).await.unwrap();
    let failure = scene.backup("a.tar").await.unwrap_err();
    assert!(failure.message.contains("its pod is not there"), "{failure:?}");
    assert!(failure.next.iter().any(|next| next.contains("coastal recover")), "{failure:?}");
    assert!(std::fs::read_dir(scene.session.paths.backups()).unwrap().next().is_none());
    let left = cluster.namespaced::<Pod>(namespace).list(&kube::api::ListParams::default()).await.unwrap();
    assert!(left.items.iter().all(|pod| !pod.metadata.name.as_deref().unwrap_or_default().starts_with("coastal-keys")));
}

#[tokio::test(start_paused = true)]
async fn a_rotation_amid_a_backup_is_noticed_and_ends_what_it_covers() {
    let scene = Scene::with_spire(|_| {}).await;
    let described = scene.backup("a.tar").await.unwrap();
    let first = crate::backup::cover::until(&described.manifest, scene.session.world.clock.now());
    assert!(first.holds(), "{first}");
    // At half of its life each server prepares the next one.
    tokio::time::sleep(Duration::from_secs(13 * 3600)).await;
    let later = scene.backup("b.tar").await.unwrap();
    let prepared = later.manifest.authorities.iter().filter(|one| one.slot == crate::backup::Slot::Prepared && one.key);
    assert_eq!(prepared.count(), 3, "{:?}", later.manifest.authorities);
    // And with a sixth left it signs with that: the first backup covers no more, the second does.
    tokio::time::sleep(Duration::from_secs(8 * 3600)).await;
    let now = scene.session.world.clock.now();
    assert!(!crate::backup::cover::until(&described.manifest, now).holds());
    assert!(crate::backup::cover::until(&later.manifest, now).holds());
}
