//! Probes on the rehearsal world.

use super::*;
use crate::steps::identity;
use crate::steps::testing::Scene;

async fn authorities(scene: &Scene) -> BTreeSet<String> {
    let bundle = identity::bundle(&scene.cx()).await.unwrap();
    bundle.x509_authorities.iter().filter_map(crate::spire::cli::X509Authority::key_id).collect()
}

async fn names(scene: &Scene) -> Vec<String> {
    let there = leftovers(&scene.cx(), &scene.cluster().await).await.unwrap();
    there.iter().map(ResourceExt::name_any).collect()
}

#[tokio::test(start_paused = true)]
async fn a_new_pod_on_each_node_shows_its_svid_and_is_gone() {
    let scene = Scene::up().await;
    let authorities = authorities(&scene).await;
    let now = scene.session.world.clock.now();
    let asked = Asked { purpose: "1.8.0-agents", issued_after: now, authorities: &authorities };
    let proofs = prove(&scene.cx(), asked).await.unwrap();
    println!("{proofs:#?}\n{}", in_words(&proofs));
    assert_eq!(names(&scene).await, Vec::<String>::new());
}
