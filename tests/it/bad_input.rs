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

const FAULTS: &[Bad] = &[
    bad("tool-missing=helm", 4, "helm is not installed", "https://helm.sh/docs/intro/install/"),
    bad("tool-missing=docker", 4, "docker is not installed", "docker: install"),
    bad("tool-old=kind", 4, "kind 0.7.0 is too old", "kind: upgrade it"),
    bad("tool-garbage=kind", 4, "kind did not tell its version", "run `kind version` and see"),
    bad("tool-garbage=kubectl", 4, "kubectl did not tell its version", "run `kubectl version --client"),
    bad("tool-hangs=helm:upgrade", 6, "`prometheus` did not end within 60 s", "`coastal status`"),
    bad("tool-killed=kind:create", 5, "was ended by signal 9", "`sudo dmesg | tail`"),
    bad("tool-killed=helm:upgrade", 5, "could not install release", "`free -m`"),
    bad("docker-down", 4, "the Docker daemon does not answer", "docker: start it: `"),
    bad("port-taken=8443", 4, "port 8443 of this machine is taken", "`ss -ltnp 'sport = :8443'`"),
    bad("pull-fails=postgres", 5, "ImagePullBackOff", "`[images] archives` in lab.toml"),
    bad("login-refused", 5, "the data store does not accept SPIRE's login", "`coastal tear-down` removes the volume"),
    bad("database-unreachable", 5, "the data store does not accept SPIRE's login", "`coastal logs database`"),
    bad("helm-dies-in=install", 5, "could not install release spire", "`free -m`"),
    bad("agent-never-ready", 6, "the SPIRE agents do not come up: 0 of 1 agents serve", "`coastal logs agent`"),
    bad("server-crash-loop", 6, "the agents wait for a SPIRE server, and none comes up", "`coastal logs server`"),
    bad("fetch-404", 4, "the server answers 404 Not Found", "correct the URL in lab.toml"),
];

/// What the tools and the cluster do in the middle of a run.
const MIDWAY: &[Bad] = &[
    bad(
        "webhook-slow=300",
        6,
        "gave up after 60 s: cert-manager-webhook: 0 of 1",
        "describe deployment/cert-manager-webhook`",
    ),
    bad("tool-garbage=helm:list", 5, "`helm list` printed something unexpected", "reinstall helm"),
    bad("tool-garbage=helm:get", 5, "`helm get values` printed something unexpected", "reinstall helm"),
    bad("tool-garbage=docker:exec", 5, "kind loaded the image, and yet node", "`docker exec NODE df -h /var`"),
    bad("tool-garbage=kubectl:exec", 5, "does not accept SPIRE's login", "`coastal logs database`"),
    bad("tool-hangs=helm:repo", 6, "`helm repo list --output json` did not end within 60 s", "`--timeout TIME`"),
    bad("tool-hangs=helm:pull", 6, "did not end within 60 s", "`-vv`"),
    bad("tool-hangs=kind:create", 6, "did not end within 60 s", "`docker ps --all`"),
    bad("tool-hangs=kind:load", 6, "did not end within 60 s", "`docker ps --all`"),
    bad("tool-hangs=kubectl:exec", 6, "`database` did not end within 60 s", "`coastal status`"),
    bad("tool-killed=helm:pull", 5, "could not fetch chart", "`helm search repo "),
    bad("tool-killed=kind:load", 5, "was ended by signal 9", "`sudo dmesg | tail`"),
    bad("tool-killed=docker:exec", 5, "was ended by signal 9", "`docker ps --all`"),
];

/// `up` under the fault, with a limit that shortens the waits. Whatever goes wrong, what is known is said, and what
/// to do.
fn fails(lab: &TestLab, Bad { fault, code, says, next }: &Bad) {
    let words = "--timeout 60s --output json up";
    let result = lab.rehearse(&format!("--fault {fault} {words}")).ends(*code).result();
    let failure = &result["failure"];
    assert!(failure["message"].as_str().unwrap().contains(says), "{fault}: {failure:#}");
    assert!(!failure["facts"].as_array().unwrap().is_empty(), "{fault}: {failure:#}");
    let all_next: Vec<&str> = failure["next"].as_array().unwrap().iter().map(|next| next.as_str().unwrap()).collect();
    assert!(all_next.iter().any(|line| line.contains(next)), "{fault}: {failure:#}");
    assert!(result["next"][0].as_str().unwrap().ends_with(words), "what goes on where it stopped: {result:#}");
}

/// Under each fault, then without it.
fn up_and_up_again(faults: &[Bad]) {
    for bad in faults {
        let lab = TestLab::new();
        fails(&lab, bad);
        let result = lab.rehearse("--output json up").ok().result();
        assert_eq!(result["outcome"], "ok", "after {}", bad.fault);
        let twice = lab.rehearse("--output json up").ok().result();
        assert_eq!(twice["changed"], json!([]), "after {}", bad.fault);
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
fn whatever_goes_wrong_midway_is_told_with_what_to_do() {
    for bad in MIDWAY {
        fails(&TestLab::new(), bad);
    }
}

#[test]
fn a_failure_is_a_sentence_then_facts_then_next_steps() {
    let ran = TestLab::new().rehearse("--fault tool-missing=helm up").ends(4);
    let (_, told) = ran.err.split_once("\nerror: helm is not installed\n").unwrap();
    let (facts, next) = told.split_once("\n\n").unwrap();
    assert!(facts.lines().all(|line| line.starts_with("  ")) && facts.contains("helm: not on the path"), "{facts}");
    assert!(next.lines().all(|line| line.starts_with("next: ")), "{next}");
    assert!(next.trim_end().ends_with("up` goes on where this run stopped"), "{next}");
}

#[test]
fn every_fault_of_the_rehearsal_is_tried() {
    let elsewhere = [
        "foreign-cluster",
        "foreign-upgrade",
        "release-pending",
        "tool-cut",
        "server-restarts",
        "server-loses-keys",
        "server-unreachable",
        "agent-never-syncs",
        "dump-mismatch",
        "rolled-back",
    ];
    for description in coastal::rehearsal::Fault::ALL {
        let name = description.name;
        let tried = FAULTS.iter().chain(MIDWAY).any(|bad| bad.fault.split('=').next() == Some(name));
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
            lab.coastal(command)
                .ends(3)
                .says(says)
                .says("lab.toml")
                .says("next: correct the file; `coastal init` writes");
        }
    }
    lab.write("lab.toml", "schema = 1\n[spire]\nserverz = 3\n[workload]\nreplicaz = 3\n");
    lab.coastal("plan").ends(3).says("serverz").says("replicaz");
    lab.coastal("--lab nowhere.toml plan").ends(3).says("nowhere.toml").says("next: `coastal init` writes a lab.toml");
    lab.write("lab.toml", "");
    std::fs::write(lab.at("cwd/lab.toml"), [0xff, 0xfe, 0x00]).unwrap();
    lab.coastal("plan").ends(3).says("it is not text (UTF-8) from byte 0 on").says("next: `coastal init` writes");
    assert!(!lab.state().exists(), "nothing was begun");
}

#[test]
fn a_chart_a_manifest_or_an_archive_that_is_none_is_named() {
    let lab = TestLab::new();
    lab.write("page.html", "<!DOCTYPE html>\n<html><body>Sign in</body></html>\n");
    std::fs::create_dir(lab.at("cwd/empty")).unwrap();
    for (text, says, next) in [
        ("[spire]\nchart = { path = \"missing.tgz\" }\n", "missing.tgz`: No such file", "set `chart` in lab.toml"),
        ("[spire]\nchart = { path = \"page.html\" }\n", "page.html` is not a helm chart", "set `chart` in lab.toml"),
        ("[spire]\nchart = { path = \"empty\" }\n", "empty` is not a helm chart", "set `chart` in lab.toml"),
        ("[addons.contour]\nmanifest = \"page.html\"\n", "page.html", "the file must hold Kubernetes manifests"),
        (
            "[addons.contour]\nmanifest = \"missing.yaml\"\n",
            "missing.yaml`: No such file",
            "[addons.contour] of lab.toml",
        ),
        ("[database]\nmanifest = \"missing.yaml\"\n", "missing.yaml`: No such file", "[database] of lab.toml"),
        ("[images]\narchives = [\"page.html\"]\n", "page.html` is not an image archive", "`docker save IMAGE -o FILE`"),
        ("[images]\narchives = [\"missing.tar\"]\n", "missing.tar`: No such file", "`[images] archives` in lab.toml"),
    ] {
        lab.write("lab.toml", &format!("schema = 1\n{text}"));
        let ran = lab.coastal("rehearse up").ends(4).says("error: ").says(says);
        let told: Vec<&str> = ran.err.lines().filter(|line| line.starts_with("next: ")).collect();
        assert!(told.len() > 1 && told.iter().any(|line| line.contains(next)), "{text}{told:#?}");
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
