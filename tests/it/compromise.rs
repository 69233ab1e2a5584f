//! The lab's compromise: a workload that nobody expects gets an identity, is found, cut off and removed.

use serde_json::json;

use crate::support::TestLab;

#[test]
fn the_pirate_ship_comes_with_an_identity_and_goes_without_a_trace() {
    let lab = TestLab::new();
    lab.rehearse("up").ok();
    let explained = lab.rehearse("deploy-malicious --explain").ok();
    explained
        .says("ClusterSPIFFEID gives every pod an identity")
        .says("SPIRE gives it spiffe://coastal-containers.example/ns/pirate-coast/sa/pirate-ship");
    let again = lab.rehearse("--output json deploy-malicious").ok().result();
    assert_eq!(again["changed"], json!([]), "{again:#}");
    lab.rehearse("delete-malicious").ok();
    let again = lab.rehearse("--output json delete-malicious").ok().result();
    assert_eq!(again["changed"], json!([]), "{again:#}");
}

#[test]
fn whoever_takes_spire_away_takes_the_pirate_ship_first() {
    for (command, removes) in [("spire-uninstall", "remove-spire"), ("down --keep-cluster", "remove-namespaces")] {
        let lab = TestLab::new();
        lab.rehearse("up").ok();
        lab.rehearse("deploy-malicious").ok();
        let changed = lab.rehearse(&format!("--output json {command}")).ok().result()["changed"].clone();
        let place = |step: &str| changed.as_array().unwrap().iter().position(|changed| changed == step);
        assert!(place("remove-malicious").unwrap() < place(removes).unwrap(), "{changed}");
    }
}
