//! What a user, a tool or the machine gets wrong: the exit code, the sentence, the next command, and how to go on.

use std::process::Stdio;

use serde_json::{Value, json};

use crate::support::TestLab;

/// A fault of the rehearsal, the exit code of `up` under it, its sentence, and what to do next.
struct Bad {
    fault: &'static str,
    code: i32,
    says: &'static str,
    next: &'static str,
}

const fn bad(fault: &'static str, code: i32, says: &'static str, next: &'static str) -> Bad {
    Bad { fault, code, says, next }
}

const GOES_ON: &str = " up` goes on where this run stopped";

const FAULTS: &[Bad] = &[
    bad("tool-missing=helm", 4, "error: helm is not installed", "https://helm.sh/docs/intro/install/"),
    bad("tool-missing=docker", 4, "error: docker is not installed", GOES_ON),
    bad("tool-old=kind", 4, "error: kind 0.7.0 is too old", "kind: upgrade it"),
    bad("tool-garbage=kind", 4, "error: kind did not tell its version", "run `kind version` and see"),
    bad("tool-garbage=kubectl", 4, "error: kubectl did not tell its version", GOES_ON),
    bad("tool-hangs=helm:upgrade", 6, "did not end within 60 s", GOES_ON),
    bad("tool-killed=kind:create", 5, "was ended by signal 9", GOES_ON),
    bad("tool-killed=helm:upgrade", 5, "could not install release", GOES_ON),
    bad("docker-down", 4, "error: the Docker daemon does not answer", "sudo systemctl start docker"),
    bad("port-taken=8443", 4, "port 8443 of this machine is taken", "ss -ltnp 'sport = :8443'"),
    bad("pull-fails=postgres", 5, "ImagePullBackOff", "`[images] archives` in lab.toml"),
    bad("login-refused", 5, "the data store does not accept SPIRE's login", "`coastal tear-down` removes the volume"),
    bad("agent-never-ready", 6, "error: 0 of 1 agents serve the Workload API", GOES_ON),
    bad(
        "server-crash-loop",
        6,
        "error: the agents wait for a SPIRE server, and none comes up",
        "`coastal logs server`",
    ),
    bad("fetch-404", 4, "the server answers 404 Not Found", "correct the URL in lab.toml"),
];

/// `up` under each fault, with a limit that shortens the waits; then `up` without it.
fn up_and_up_again(faults: &[Bad]) {
    for Bad { fault, code, says, next } in faults {
        let lab = TestLab::new();
        let ran = lab.rehearse(&format!("--fault {fault} --timeout 60s up")).ends(*code).says(says).says(next);
        assert!(ran.err.contains("\nerror: ") && ran.err.contains("\nnext: "), "{ran:?}");
        let result = lab.rehearse("--output json up").ok().result();
        assert_eq!(result["outcome"], "ok", "after {fault}");
        let twice = lab.rehearse("--output json up").ok().result();
        assert_eq!(twice["changed"], json!([]), "after {fault}");
    }
}

// Two tests, so that they run side by side.
#[test]
fn after_each_fault_the_same_command_repairs_the_lab() {
    up_and_up_again(&FAULTS[..FAULTS.len() / 2]);
}

#[test]
fn after_each_of_the_other_faults_too() {
    up_and_up_again(&FAULTS[FAULTS.len() / 2..]);
}

#[test]
fn every_fault_of_the_rehearsal_is_tried() {
    let elsewhere = ["foreign-cluster", "webhook-slow", "release-pending"];
    for description in coastal::rehearsal::Fault::ALL {
        let name = description.name;
        let tried = FAULTS.iter().any(|bad| bad.fault.split('=').next() == Some(name));
        assert!(tried || elsewhere.contains(&name), "{name}");
    }
}

#[test]
fn an_image_that_cannot_be_pulled_fails_long_before_the_limit() {
    for (images, failed) in [
        ("", &["database", "cert-manager", "contour", "prometheus"] as &[&str]),
        ("=cert-manager-webhook", &["cert-manager"]),
        ("=envoy", &["contour"]),
        ("=grafana", &["prometheus"]),
        ("=spire-agent", &["spire"]),
    ] {
        let result =
            TestLab::new().coastal(&format!("rehearse --fault pull-fails{images} --output json up")).ends(5).result();
        let said = result["failure"]["message"].as_str().unwrap();
        assert!(said.contains(" cannot start: ImagePullBackOff: "), "{said}");
        assert_eq!(result["failed"].as_array().unwrap().len(), failed.len(), "{images}: {}", result["failed"]);
        for step in failed {
            assert!(result["failed"].as_array().unwrap().contains(&json!(step)), "{images}: {}", result["failed"]);
            let took = result["steps_ms"][step].as_u64().unwrap();
            assert!(took < 30_000, "{step}: {took} ms, the limit being 300000");
        }
    }
}

#[test]
fn servers_that_crash_again_and_again_are_given_up_long_before_the_limit() {
    let ran = TestLab::new().coastal("rehearse --fault server-crash-loop --output json up").ends(5);
    let result = ran.result();
    assert_eq!(result["failed"], json!(["spire-servers", "spire-agents"]));
    for step in ["spire-servers", "spire-agents"] {
        let took = result["steps_ms"][step].as_u64().unwrap();
        assert!(took < 120_000, "{step}: {took} ms, the limits being 900000 and 300000");
    }
    let said = result["failure"]["message"].as_str().unwrap();
    let names_it = said.starts_with("the SPIRE servers do not come up: container spire-server of pod spire-server/");
    assert!(names_it && said.ends_with("unable to load X509 CA: key not found\""), "{said}");
}

#[test]
fn a_slow_webhook_is_waited_for() {
    let result = TestLab::new().coastal("rehearse --fault webhook-slow=120 --output json cluster-up").ok().result();
    let took = result["steps_ms"]["cert-manager"].as_u64().unwrap();
    assert!(took > 120_000, "{took} ms");
}

#[test]
fn a_release_that_a_killed_helm_left_pending_is_repaired() {
    let lab = TestLab::new();
    lab.rehearse("up").ok();
    let result = lab.rehearse("--fault release-pending --output json up").ok().result();
    assert!(result["changed"].as_array().unwrap().contains(&json!("spire")), "{result}");
    assert_eq!(lab.rehearse("--output json up").ok().result()["changed"], json!([]));
}

#[test]
fn a_cluster_that_is_not_the_labs_is_left_alone() {
    let lab = TestLab::new();
    for command in ["up", "cluster-up", "namespaces", "down", "cluster-down", "tear-down"] {
        let fault = if lab.world().exists() { "" } else { "--fault foreign-cluster" };
        lab.rehearse(&format!("{fault} {command}"))
            .ends(7)
            .says("is not this lab's: coastal did not make it; nothing was touched")
            .says("next: `coastal cluster-up --adopt`");
    }
    let world: Value = serde_json::from_slice(&std::fs::read(lab.world()).unwrap()).unwrap();
    assert_eq!(world["clusters"].as_array().unwrap().len(), 1, "it is still there");
    lab.rehearse("cluster-up --adopt").ok();
    lab.rehearse("cluster-down").ok();
}

#[test]
fn a_fault_that_does_not_exist_is_answered_with_the_list() {
    TestLab::new()
        .coastal("rehearse --fault nonsense up")
        .ends(2)
        .says("`nonsense` is not a fault")
        .says("docker-down");
}

#[test]
fn a_wrong_lab_file_is_told_with_every_problem_and_its_place() {
    let lab = TestLab::new();
    for (text, says) in [
        ("schema = 1\n[cluster\n", "lab.toml:2"),
        ("schema = 1\n[cluster]\nnmae = \"x\"\n", "nmae"),
        ("schema = 99\n", "99"),
        ("schema = 1\n[spire]\nservers = 0\n", "servers"),
        ("schema = 1\n[spire]\nserver-version = \"1.7.2\"\nagent-version = \"1.8.0\"\n", "agent-version"),
        ("schema = 1\n[cluster]\nhttp-port = 8080\nhttps-port = 8080\n", "8080"),
        ("", "schema"),
        ("\u{0}\u{1}", "lab.toml"),
    ] {
        lab.write("lab.toml", text);
        for command in ["up --yes", "plan", "status", "rehearse up"] {
            lab.coastal(command).ends(3).says(says).says("lab.toml");
        }
    }
    lab.write("lab.toml", "schema = 1\n[spire]\nserverz = 3\n[workload]\nreplicaz = 3\n");
    lab.coastal("plan").ends(3).says("serverz").says("replicaz");
    lab.coastal("--lab nowhere.toml plan").ends(3).says("nowhere.toml");
    assert!(!lab.state().exists(), "nothing was begun");
}

#[test]
fn a_chart_a_manifest_or_an_archive_that_is_none_is_named() {
    let lab = TestLab::new();
    lab.write("page.html", "<!DOCTYPE html>\n<html><body>Sign in</body></html>\n");
    std::fs::create_dir(lab.at("cwd/empty")).unwrap();
    for (text, says) in [
        ("[spire]\nchart = { path = \"missing.tgz\" }\n", "missing.tgz"),
        ("[spire]\nchart = { path = \"page.html\" }\n", "page.html"),
        ("[spire]\nchart = { path = \"empty\" }\n", "empty"),
        ("[addons.contour]\nmanifest = \"page.html\"\n", "page.html"),
        ("[addons.contour]\nmanifest = \"missing.yaml\"\n", "missing.yaml"),
        ("[images]\narchives = [\"page.html\"]\n", "page.html"),
        ("[images]\narchives = [\"missing.tar\"]\n", "missing.tar"),
    ] {
        lab.write("lab.toml", &format!("schema = 1\n{text}"));
        let ran = lab.coastal("rehearse up").says(says).says("error: ");
        assert!(matches!(ran.code, Some(3..=5)), "{text}{ran:?}");
    }
}

#[test]
fn a_state_directory_that_cannot_be_is_named() {
    let lab = TestLab::with_tools(&[]);
    std::fs::write(lab.at("state"), "a file").unwrap();
    for command in ["up", "cluster-down --yes"] {
        let ran = lab.coastal(command).ends(4).says("error: could not create the directory").says("next: a file is in");
        assert!(ran.err.contains(&lab.state().display().to_string()), "{ran:?}");
    }
}

#[test]
fn a_full_disk_behind_standard_output_is_no_success() {
    let lab = TestLab::new();
    lab.rehearse("up").ok();
    for command in ["status --output json", "status", "plan --output json", "logs workload", "env", "up --output json"]
    {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let words = format!("rehearse --world {} {command}", lab.world().display());
        let ended = lab.start(&words, Stdio::from(full)).wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(!ended.status.success() && ended.status.code().is_some(), "{command}: {said}");
        assert!(said.contains("error: ") && said.contains("No space left on device"), "{command}: {said}");
        assert!(!said.contains("panicked"), "{command}: {said}");
    }
}
