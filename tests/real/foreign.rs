//! A cluster that somebody else made: refused, and taken only when told so.

use std::time::Duration;

use coastal::tools::{Command, Tool};

use crate::lab::{Lab, run};
use crate::settings::Settings;

const LABEL: &str = coastal::config::Lab::LABEL;

#[test]
#[ignore = "needs Docker, kind, helm, kubectl, and the COASTAL_TEST_* variables"]
fn a_foreign_cluster_is_refused_until_adopted() {
    let settings = Settings::read();
    let lab = Lab::new("coastal-test-foreign", &settings);
    let kubeconfig = lab.directory().join("theirs");
    let image = settings.node_image.iter().flat_map(|image| ["--image".to_owned(), image.clone()]);
    let create = Command::new(Tool::Kind, ["create", "cluster", "--name", lab.cluster, "--wait", "120s"])
        .args(["--kubeconfig".to_owned(), kubeconfig.display().to_string()])
        .args(image)
        .timeout(Duration::from_secs(300));
    run(&create);
    let objects = || {
        let command = Command::new(Tool::Kubectl, ["get", "namespaces,nodes,customresourcedefinitions"])
            .args(["--kubeconfig".to_owned(), kubeconfig.display().to_string()])
            .args(["--output", "jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.labels}{'\\n'}{end}"]);
        run(&command).stdout
    };
    let before = objects();
    assert!(!before.contains(LABEL), "{before}");

    for command in ["cluster-up", "up", "cluster-down", "namespaces"] {
        let ended = lab.coastal(&[command, "--yes", "--output", "json"]);
        let result = ended.result();
        // Refused by a rule, not failed by accident.
        assert_eq!(ended.code, i32::from(coastal::error::ExitCode::Refused as u8), "{command}: {result:#}");
        assert!(result["failure"].to_string().contains(lab.cluster), "{result:#}");
    }
    assert_eq!(objects(), before, "something was written into a cluster that is not the lab's");

    let unasked = lab.coastal(&["cluster-up", "--adopt"]);
    assert_eq!(unasked.code, i32::from(coastal::error::ExitCode::Usage as u8), "{}", unasked.stderr);
    assert_eq!(objects(), before, "adopted without a yes");

    lab.makes_so(&["cluster-up", "--adopt"]);
    let after = objects();
    let marked = after.lines().filter(|line| line.starts_with("Node/") && line.contains(LABEL)).count();
    assert_eq!(marked, 1, "{after}");
    assert!(after.contains("Namespace/cert-manager"), "{after}");
    lab.is_so_already(&["cluster-up"]);
    lab.makes_so(&["cluster-down"]);
}
