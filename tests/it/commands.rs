//! Every command, from the command line to what it prints, on the rehearsal world.

use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::rehearsed;
use crate::support::TestLab;

/// The lab's Makefile targets in the order of its README, each with its short name and the steps that it makes so.
const SEED_ORDER: &[(&str, &str, &[&str])] = &[
    (
        "cluster-up",
        "cluster-up",
        &["fetch-cert-manager", "fetch-contour", "cluster", "cert-manager", "cluster-issuer", "contour"],
    ),
    ("add-helm-repos", "add-repos", &["repos"]),
    ("prometheus-helm-install", "prometheus-install", &["fetch-prometheus", "prometheus"]),
    ("namespaces", "namespaces", &["namespaces"]),
    ("deploy-database", "deploy-database", &["database"]),
    ("spire-helm-install", "spire-install", &["fetch-spire", "spire", "spire-servers", "spire-agents"]),
    ("cluster-build-load-image", "build-load-image", &["build-workload-image", "load-workload-image"]),
    ("deploy-workload", "deploy-workload", &["workload"]),
    ("patch-monitors", "patch-monitors", &["monitors"]),
    ("spire-helm-uninstall", "spire-uninstall", &["remove-workload", "remove-spire"]),
    ("prometheus-helm-uninstall", "prometheus-uninstall", &["remove-monitors", "remove-prometheus"]),
    ("tear-down", "tear-down", &["remove-database"]),
    ("cluster-down", "cluster-down", &["remove-cluster"]),
];

fn sorted(names: &Value) -> Vec<String> {
    let mut names: Vec<String> =
        names.as_array().into_iter().flatten().map(|name| name.as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

#[test]
fn the_seed_lab_goes_through_in_its_makefiles_names_and_each_second_time_changes_nothing() {
    let lab = TestLab::new();
    for (alias, short, makes) in SEED_ORDER {
        let result = lab.rehearse(&format!("--output json {alias}")).ok().result();
        assert_eq!(result["outcome"], "ok", "{alias}");
        assert_eq!(sorted(&result["changed"]), sorted(&json!(makes)), "{alias}");
        let again = lab.rehearse(&format!("--output json {short}")).ok().result();
        assert_eq!(again["changed"], json!([]), "{short} for the second time");
        if *alias == "patch-monitors" {
            lab.rehearse("test").ok().says("identity-test");
            lab.rehearse("status").ok().says("5 of 5 pods hold an SVID").says("spire-server 3 of 3");
        }
    }
}

/// Each command alone is brought to where it begins, does its own work there, and says so.
#[test]
fn a_command_alone_begins_where_it_makes_sense() {
    let lab = TestLab::new();
    for (command, says) in [
        ("add-repos", "2 repositories are known"),
        ("deploy-database", "accepts SPIRE's login"),
        ("build-load-image", "every node has it"),
        ("deploy-workload", "5 pods hold SVIDs of spiffe://coastal-containers.example/ns/default/sa/workload"),
        ("delete-workload", "nothing of it is there"),
        ("spire-helm-uninstall", "there is no release spire"),
        ("test", "pass    identity-test"),
    ] {
        let ran = lab.coastal(&format!("rehearse {command}")).ok().says(says).says("next: `coastal ");
        assert!(ran.out.is_empty() || command == "status", "progress is no result: {ran:?}");
    }
    lab.coastal("--rehearse namespaces").ok().says("spire-server, spire-system");
}

#[test]
fn up_twice_changes_nothing_and_down_leaves_nothing_of_the_lab() {
    let lab = TestLab::new();
    lab.rehearse("up").ok().says("19 steps done, 2 already so").says("next: `coastal status`");
    lab.rehearse("up").ok().says("nothing to change: all 21 steps are already so");
    lab.rehearse("down --keep-cluster").ok().says("next: `coastal cluster-down`");

    let world: Value = serde_json::from_slice(&std::fs::read(lab.world()).unwrap()).unwrap();
    let cluster = &world["clusters"][0];
    assert_eq!(cluster["name"], "kind", "the cluster is kept");
    let objects = cluster["objects"]["objects"].as_array().unwrap();
    let of_kind = |kind: &str| objects.iter().filter(|o| o["kind"] == kind).collect::<Vec<_>>();
    assert!(of_kind("Namespace").iter().any(|o| o["metadata"]["name"] == "default"));
    let ours = ["spire-server", "spire-system", "cert-manager", "projectcontour"];
    assert!(!of_kind("Namespace").iter().any(|o| ours.contains(&o["metadata"]["name"].as_str().unwrap())));
    let pods = of_kind("Pod").into_iter().filter(|o| o["metadata"]["namespace"] != "kube-system");
    let left: Vec<_> = pods.filter(|o| o["metadata"]["namespace"] != "local-path-storage").collect();
    assert!(left.is_empty(), "{left:?}");
    let status = lab.rehearse("--output json status").ok();
    let status: Value = serde_json::from_str(&status.out).unwrap();
    assert_eq!(status["releases"].as_array().map_or(0, Vec::len), 0, "{status}");
    assert_eq!(
        status["workload"].as_object().and_then(|w| w.get("pods")).and_then(Value::as_array).map_or(0, Vec::len),
        0
    );

    lab.rehearse("--output json down").ok();
    let world: Value = serde_json::from_slice(&std::fs::read(lab.world()).unwrap()).unwrap();
    assert_eq!(world["clusters"], json!([]));
    assert_eq!(lab.rehearse("--output json down").ok().result()["changed"], json!([]));
}

#[test]
fn plan_tells_by_its_exit_code_whether_something_is_to_do() {
    let lab = TestLab::new();
    lab.rehearse("plan").ok().says("20 to make (+), 1 already so (=)");
    lab.rehearse("plan --detailed-exitcode").ends(9).says("there is no cluster yet");
    lab.rehearse("up").ok();
    lab.rehearse("plan --detailed-exitcode").ok().says("nothing to change");
    lab.rehearse("delete-workload").ok();
    lab.rehearse("plan --detailed-exitcode").ends(9).says("+ workload").says("1 to make (+)");
}

#[test]
fn a_dry_run_touches_nothing() {
    let lab = TestLab::new();
    lab.rehearse("--dry-run up").ok().says("20 to make (+)");
    assert!(!lab.at("world.json.state").join("runs").exists(), "no run, no journal");
    lab.rehearse("up").ok();
    let before = lab.rehearse("--output json status").ok().out;
    lab.rehearse("down --dry-run").ok().says("remove-cluster");
    lab.rehearse("spire-uninstall --dry-run").ok().says("remove-spire");
    assert_eq!(lab.rehearse("--output json status").ok().out, before);
}

#[test]
fn what_reads_prints_one_document() {
    let lab = TestLab::new();
    lab.rehearse("up").ok();
    let status: Value = serde_json::from_str(&lab.rehearse("status --output json").ok().out).unwrap();
    assert_eq!(status["schema"], 1);
    assert_eq!(status["cluster"]["state"], "running");

    let plan: Value = serde_json::from_str(&lab.rehearse("plan --output json").ok().out).unwrap();
    assert!(plan.is_object(), "{plan}");

    let logs = lab.rehearse("logs workload --tail 5").ok();
    let updates: Vec<&str> = logs.out.lines().filter(|line| line.contains(r#""type":"svid-update""#)).collect();
    assert_eq!(updates.len(), 5, "one of each pod: {}", logs.out);
    assert!(updates.iter().all(|line| line.contains("coastal-containers.example/ns/default/sa/workload")));
    assert_eq!(logs.out.lines().count(), 25);
}

#[test]
fn env_points_kubectl_and_helm_at_the_lab_from_any_directory() {
    let lab = TestLab::new();
    let world = lab.at("cwd").join("w.json");
    let ran = lab.coastal("rehearse --world w.json env").ok();
    let kubeconfig = world.with_extension("json.state").join("kubeconfig");
    ran.out.lines().find(|line| *line == format!("export KUBECONFIG='{}'", kubeconfig.display())).unwrap();
    assert!(ran.out.lines().all(|line| line.starts_with("export ")), "only exports may be evaluated: {}", ran.out);

    let ran = lab.coastal("env").ok();
    assert!(ran.out.contains(&format!("export KUBECONFIG='{}'", lab.state().join("kubeconfig").display())));
}

#[test]
fn explain_gives_reasons_and_commands() {
    TestLab::new()
        .coastal("rehearse --explain namespaces")
        .ok()
        .says("Servers run under the `restricted` Pod Security level")
        .says("$ kubectl create namespace spire-server");
}

#[test]
fn init_writes_a_lab_file_once_and_replaces_nothing() {
    let lab = TestLab::new();
    lab.coastal("init").ok().says("wrote lab.toml").says("next: `coastal plan`");
    let written = std::fs::read_to_string(lab.at("cwd/lab.toml")).unwrap();
    lab.coastal("init").ok().says("is there already");
    lab.coastal("rehearse plan").ok().says("lab `day-two`");
    let mine = lab.write("lab.toml", "schema = 1\nname = \"mine\"\n");
    lab.coastal("init").ends(2).says("it was left as it is").says("coastal init other.toml");
    assert_eq!(std::fs::read_to_string(mine).unwrap(), "schema = 1\nname = \"mine\"\n");
    lab.coastal("init other.toml").ok();
    assert_eq!(std::fs::read_to_string(lab.at("cwd/other.toml")).unwrap(), written);
    lab.coastal("init nowhere/lab.toml").ends(4).says("could not create `nowhere/lab.toml`");
}

#[test]
fn the_story_brings_the_lab_up_shows_it_and_takes_it_down() {
    let ran = TestLab::new().coastal("rehearse").ok();
    for part in ["$ coastal up", "19 steps done", "$ coastal status", "5 of 5 pods hold an SVID", "$ coastal down"] {
        assert!(ran.out.contains(part) || ran.err.contains(part), "{part}: {ran:?}");
    }
}

#[test]
fn what_cannot_be_rehearsed_says_so() {
    let lab = TestLab::new();
    lab.coastal("rehearse rehearse").ends(2).says("a rehearsal cannot be rehearsed");
    lab.coastal("rehearse init").ends(2);
    lab.coastal("rehearse nonsense").ends(2).says("nonsense");
    lab.coastal("up --output xml").ends(2).says("possible values: text, json");
    lab.coastal("").ends(2).says("Usage");
    lab.coastal("--help").ok().says("Exit codes:");
}

#[test]
fn tests_change_nothing_and_say_so() {
    let lab = TestLab::new();
    let result = lab.rehearse("--output json test").ok().result();
    assert_eq!(result["changed"], json!([]));
    assert_eq!(sorted(&result["passed"]), ["chart-tests", "identity-test"]);
    lab.rehearse("test").ok().says("2 tests passed, in ");
    lab.rehearse("--dry-run test").ok().says("2 to test (*)");
}

#[test]
fn each_image_archive_is_told_and_loaded_once() {
    let lab = TestLab::new();
    for (file, image) in [("one.tar", "docker.io/library/postgres:16"), ("two.tar", "quay.io/x/y:1")] {
        rehearsed::images(&lab.at("cwd").join(file), image);
    }
    lab.write("lab.toml", "schema = 1\nimages.archives = [\"one.tar\", \"two.tar\"]\n");
    let events = lab.rehearse("--output json cluster-up").ok().lines();
    let of_step = |kind: &str, field: &str| -> Vec<String> {
        let wanted = events.iter().filter(|event| event["type"] == kind && event["step"] == "load-images");
        wanted.map(|event| event[field].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(
        of_step("step-progress", "message"),
        ["loading one.tar (1 of 2, 1 MiB)", "loading two.tar (2 of 2, 1 MiB)"]
    );
    let commands = of_step("command-started", "line");
    let count = |what: &str| commands.iter().filter(|line| line.contains(what)).count();
    // Before, to see what each archive adds, and after; not once more for each archive.
    assert_eq!((count("kind load image-archive"), count("images list")), (2, 3 * 2), "{commands:#?}");
    assert_eq!(lab.rehearse("--output json cluster-up").ok().result()["changed"], json!([]));
}

/// It holds the cluster administrator's key, whoever writes it: kind, or coastal when it was lost.
#[test]
fn nobody_else_can_read_the_kubeconfig() {
    let lab = TestLab::new();
    let kubeconfig = lab.at("world.json.state/kubeconfig");
    let is_private = || std::fs::metadata(&kubeconfig).unwrap().permissions().mode() & 0o777 == 0o600;
    lab.rehearse("cluster-up").ok();
    assert!(is_private(), "after it was made");
    std::fs::remove_file(&kubeconfig).unwrap();
    lab.rehearse("cluster-up").ok();
    assert!(is_private(), "after it was found again");
}

#[test]
fn what_a_rehearsal_advises_leads_back_to_it() {
    let lab = TestLab::new();
    let said = |words: &str| {
        let ended = lab.start(&format!("rehearse --world w.json {words}"), Stdio::piped()).wait_with_output().unwrap();
        String::from_utf8_lossy(&ended.stdout).into_owned() + &String::from_utf8_lossy(&ended.stderr)
    };
    let told = said("cluster-up");
    let next: Vec<&str> =
        told.lines().filter_map(|line| line.strip_prefix("next: `coastal ")?.strip_suffix('`')).collect();
    assert!(!next.is_empty(), "{told}");
    for command in next {
        assert!(command.starts_with("rehearse --world w.json "), "{told}");
        lab.coastal(command).ok();
    }
    // Commands that only look as well.
    lab.coastal("rehearse --world w.json deploy-malicious").ok();
    for (look, way) in [("audit", "contain spiffe://"), ("check", "contain pirate-coast"), ("rotate", "upgrade --to ")]
    {
        let told = said(look);
        assert!(told.contains(&format!("`coastal rehearse --world w.json {way}")), "{told}");
        assert!(!told.contains(&format!("`coastal {way}")), "{told}");
    }
    lab.coastal("rehearse up").ok().says("next: `coastal rehearse status`");
    let gone =
        lab.coastal("rehearse --fault tool-missing=helm up").ends(4).says("with `rehearse --world FILE` it is kept");
    assert!(!gone.err.contains("goes on where") && !gone.err.contains("journal:"), "{}", gone.err);
}
