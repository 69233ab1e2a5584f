//! The lab from nothing and back, as `up` and `down`, and by the seed's commands one by one.

use serde_json::json;

use crate::contract::events::Story;
use crate::contract::questions::Stage;
use crate::lab::{Lab, clusters};
use crate::record;
use crate::settings::Settings;

const SPIFFE_ID: &str = "spiffe://coastal-containers.example/ns/default/sa/workload";

/// The seed's commands in its order, by the Makefile's names where those differ.
const ALIASES: [&str; 13] = [
    "cluster-up",
    "add-helm-repos",
    "prometheus-helm-install",
    "namespaces",
    "deploy-database",
    "spire-helm-install",
    "cluster-build-load-image",
    "deploy-workload",
    "patch-monitors",
    "delete-workload",
    "spire-helm-uninstall",
    "prometheus-helm-uninstall",
    "tear-down",
];

#[test]
#[ignore = "needs Docker, kind, helm, kubectl, and the COASTAL_TEST_* variables"]
fn the_lab_from_nothing_and_back() {
    let settings = Settings::read();
    let lab = Lab::new("coastal-test", &settings);
    record::stage(&lab, Stage::Before);

    let up = lab.coastal(&["up", "--output", "json"]);
    assert_eq!(up.code, 0, "{:#}\n{}", up.result(), up.stderr);
    let story = Story::read(&up.stdout);
    assert_eq!(story.disorder(), Vec::<String>::new());
    record::story(&story);

    let status = lab.coastal(&["status", "--output", "json"]);
    assert_eq!(status.code, 0, "{}", status.stderr);
    let status: serde_json::Value = serde_json::from_str(&status.stdout).unwrap();
    assert_eq!(status["cluster"]["state"], "running");
    assert_eq!(status["workload"]["spiffe_id"], SPIFFE_ID);
    assert_eq!(
        (&status["workload"]["wanted"], &status["workload"]["pods"], &status["workload"]["with_svid"]),
        (&json!(5), &json!(5), &json!(5)),
        "{status:#}"
    );
    assert_eq!((&status["spire"]["servers"], &status["spire"]["agents"]), (&json!(["1.7.2"]), &json!(["1.7.2"])));
    assert_eq!(status["spire"]["code_version"], "1.7.2");
    assert_eq!(status["troubles"], json!([]), "{status:#}");

    lab.is_so_already(&["up"]);
    let tests = lab.makes_so(&["test"]);
    assert_eq!(tests["failed"], json!([]));

    the_cluster_holds_what_it_should(&lab);
    record::stage(&lab, Stage::Up);

    lab.makes_so(&["down", "--keep-cluster"]);
    assert_eq!(
        lab.items(&["pods", "--all-namespaces"], |pod| !pod["metadata"]["deletionTimestamp"].is_null()),
        [""; 0]
    );
    let left = lab.items(&["pods", "--all-namespaces"], |pod| {
        let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
        !["kube-system", "local-path-storage"].contains(&namespace)
    });
    assert_eq!(left, [""; 0]);
    lab.is_so_already(&["down", "--keep-cluster"]);

    for alias in ALIASES {
        lab.makes_so(&[alias]);
        lab.is_so_already(&[alias]);
        if alias == "patch-monitors" {
            lab.makes_so(&["test"]);
        }
    }
    assert_eq!(
        lab.items(&["pods", "--all-namespaces"], |pod| !pod["metadata"]["deletionTimestamp"].is_null()),
        [""; 0]
    );

    lab.makes_so(&["cluster-down"]);
    assert!(!clusters().contains(&lab.cluster.to_owned()));
    lab.is_so_already(&["cluster-down"]);
    assert!(
        !lab.paths.kubeconfig().exists(),
        "{} is left in {}",
        lab.paths.kubeconfig().display(),
        lab.directory().display()
    );
}

fn the_cluster_holds_what_it_should(lab: &Lab) {
    for (namespace, level) in [("spire-server", "restricted"), ("spire-system", "privileged")] {
        let object = lab.kubectl(&["get", "namespace", namespace]);
        assert_eq!(object["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], level);
    }
    let set = lab.kubectl(&["get", "statefulset", "spire-server", "--namespace", "spire-server"]);
    assert_eq!(set["status"]["readyReplicas"], 3);
    // The password of the data store: in a Secret, not among the values that helm keeps.
    let secret = lab.kubectl(&["get", "secret", "--namespace", "spire-server"]);
    let passwords: Vec<String> = secret["items"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|secret| secret["data"].as_object().into_iter().flatten())
        .filter(|(key, _)| key.to_lowercase().contains("password"))
        .map(|(_, value)| value.as_str().unwrap_or_default().to_owned())
        .collect();
    assert!(!passwords.is_empty());
    let helm = coastal::tools::helm::Helm {
        repositories: lab.paths.helm_repositories(),
        cache: lab.paths.helm_cache(),
        target: coastal::tools::Target { kubeconfig: lab.paths.kubeconfig(), context: format!("kind-{}", lab.cluster) },
    };
    let values = crate::lab::run(&helm.get_values("spire", "default")).stdout;
    for password in passwords {
        let clear = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, &password).unwrap();
        let clear = String::from_utf8_lossy(&clear);
        // A word of the lab's own vocabulary (`spire`) says nothing about where it came from.
        assert!(clear.len() < 8 || !values.contains(&*clear), "the values of the release hold a password");
    }
    for (pod, log) in logs(lab) {
        assert!(log.contains("-----BEGIN CERTIFICATE-----") && log.contains(SPIFFE_ID), "{pod}: {log}");
        assert!(!log.contains("PRIVATE KEY"), "{pod} logs a private key");
    }
}

fn logs(lab: &Lab) -> Vec<(String, String)> {
    let pods = lab.items(&["pods", "--namespace", "default", "--selector", "app=workload"], |_| true);
    assert_eq!(pods.len(), 5);
    pods.into_iter()
        .map(|pod| {
            let name = pod.trim_start_matches("default/").to_owned();
            let command =
                coastal::tools::Command::new(coastal::tools::Tool::Kubectl, ["logs", "--namespace", "default"]).args([
                    name.clone(),
                    "--kubeconfig".to_owned(),
                    lab.paths.kubeconfig().display().to_string(),
                ]);
            (name, crate::lab::run(&command).stdout)
        })
        .collect()
}
