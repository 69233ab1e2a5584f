//! Authorities by hand: each server has slots of its own, and refuses as SPIRE 1.11.3 does.

use super::*;
use crate::spire::cli::{Bundle, LocalAuthorities};

async fn at_1_11() -> Scene {
    let scene = Scene::with_cluster(&[]).await;
    scene.prepare();
    let chart = scene.pull().await;
    let mut values = values();
    values["spire-server"]["image"]["tag"] = "1.11.3".into();
    values["spire-agent"]["image"] = json!({"tag": "1.11.3"});
    scene.run(&scene.helm().upgrade_install("spire", "default", &chart, values.to_string(), MINUTES)).await.unwrap();
    scene.until_ready("spire-server", "spire-server-2").await;
    scene
}

fn server(scene: &Scene, ordinal: u8, words: &str) -> Command {
    let argv = format!("/opt/spire/bin/spire-server {words} -output json");
    let pod = format!("spire-server-{ordinal}");
    kubectl::exec(&scene.target(), "spire-server", &pod, "spire-server", argv.split(' '))
}

async fn slots(scene: &Scene, ordinal: u8, key: &str) -> LocalAuthorities {
    let shown = scene.says(&server(scene, ordinal, &format!("localauthority {key} show"))).await;
    serde_json::from_str(&shown).unwrap()
}

async fn bundle(scene: &Scene) -> (Vec<(String, bool)>, usize) {
    let bundle: Bundle = serde_json::from_str(&scene.says(&server(scene, 0, "bundle show")).await).unwrap();
    let x509 = bundle.x509_authorities.iter().map(|authority| (authority.key_id().unwrap(), authority.tainted));
    (x509.collect(), bundle.jwt_authorities.len())
}

#[tokio::test(start_paused = true)]
async fn slots_are_each_servers_own_and_the_bundle_is_everybodys() {
    let scene = at_1_11().await;
    let fails = async |ordinal: u8, words: &str| scene.fails(&server(&scene, ordinal, words)).await;
    let before = slots(&scene, 0, "x509").await;
    assert!(before.prepared.is_none() && before.old.is_none());
    let old = before.active.authority_id;

    scene.says(&server(&scene, 0, "localauthority x509 prepare")).await;
    let new = slots(&scene, 0, "x509").await.prepared.unwrap().authority_id;
    assert_eq!(bundle(&scene).await.0.len(), 4);
    for (ordinal, words, refusal) in [
        (1, format!("activate -authorityID {new}"), "code = InvalidArgument desc = unexpected authority ID"),
        (0, format!("taint -authorityID {old}"), "desc = unable to taint current local authority"),
        (0, format!("taint -authorityID {new}"), "only Old local authorities can be tainted"),
        (0, format!("revoke -authorityID {old}"), "invalid authority ID: unable to use current authority"),
        (0, format!("revoke -authorityID {new}"), "invalid authority ID: only Old local authority can be revoked"),
        (0, "activate".to_owned(), "an authority ID is required"),
    ] {
        let said = fails(ordinal, &format!("localauthority x509 {words}")).await;
        assert!(said.contains(refusal), "{words}: {said}");
    }

    scene.says(&server(&scene, 0, &format!("localauthority x509 activate -authorityID {new}"))).await;
    let swapped = slots(&scene, 0, "x509").await;
    assert_eq!((&swapped.active.authority_id, &swapped.old.unwrap().authority_id), (&new, &old));
    let said = fails(0, &format!("localauthority x509 revoke -authorityID {old}")).await;
    assert!(said.contains("it is not possible to revoke an untainted root CA"), "{said}");
    scene.says(&server(&scene, 0, &format!("localauthority x509 taint -authorityID {old}"))).await;
    assert!(bundle(&scene).await.0.contains(&(old.clone(), true)));
    let said = fails(0, &format!("localauthority x509 taint -authorityID {old}")).await;
    assert!(said.contains("root CA is already tainted"), "{said}");
    scene.says(&server(&scene, 0, &format!("localauthority x509 revoke -authorityID {old}"))).await;
    assert_eq!(bundle(&scene).await.0.len(), 3);
    // The webhook beside that server has its certificate of the authority that is gone, until its pod starts anew.
    let identity = json!({
        "apiVersion": "spire.spiffe.io/v1alpha1", "kind": "ClusterSPIFFEID", "metadata": {"name": "mine"},
        "spec": {"spiffeIDTemplate": "spiffe://td/x", "podSelector": {}},
    });
    let options = WriteOptions { manager: "coastal", force: true, dry_run: true };
    let refused = api::apply(&scene.store(), &identity, Part::Main, options).unwrap_err();
    assert!(refused.message.contains("x509: certificate signed by unknown authority"), "{refused:?}");
    // It is shown until the next prepare, or a restart.
    assert_eq!(slots(&scene, 0, "x509").await.old.unwrap().authority_id, old);
}

#[tokio::test(start_paused = true)]
async fn a_prepare_puts_what_it_overwrites_out_of_reach() {
    let scene = at_1_11().await;
    scene.says(&server(&scene, 0, "localauthority jwt prepare")).await;
    let first = slots(&scene, 0, "jwt").await.prepared.unwrap().authority_id;
    scene.says(&server(&scene, 0, "localauthority jwt prepare")).await;
    assert_eq!(bundle(&scene).await.1, 5);
    let said = scene.fails(&server(&scene, 0, &format!("localauthority jwt taint -authorityID {first}"))).await;
    assert!(said.contains("desc = unexpected authority ID"), "{said}");
    let said = scene.fails(&server(&scene, 1, &format!("localauthority jwt revoke -authorityID {first}"))).await;
    assert!(said.contains("it is not possible to revoke an untainted key"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn below_1_11_there_is_no_such_command() {
    let scene = Scene::with_cluster(&[]).await;
    scene.prepare();
    scene.install_spire().await.unwrap();
    scene.until_ready("spire-server", "spire-server-0").await;
    match scene.run(&server(&scene, 0, "localauthority x509 show")).await {
        Err(CommandError::Exit { code, .. }) => assert_eq!(code, 127),
        other => panic!("{other:?}"),
    }
}
