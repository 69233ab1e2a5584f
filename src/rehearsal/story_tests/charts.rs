//! The traps on the way from one chart to the next (facts, section 2).

use super::upgrade::{CONTROL, with_svid};
use super::*;

impl Scene {
    async fn crds(&self, version: &str) -> Result<Output, CommandError> {
        let helm = self.helm();
        self.run(&helm.repo_add("hardened", "https://spiffe.github.io/helm-charts-hardened/")).await.unwrap();
        let path = self.chart("hardened/spire-crds", version).await;
        self.run(&helm.upgrade_install("spire-crds", "default", &path, "{}".into(), MINUTES)).await
    }

    /// Hands the CRDs that the chart 0.13 left behind to a release of their own.
    fn adopt_crds(&self) {
        for crd in self.store().list("apiextensions.k8s.io/v1", "CustomResourceDefinition", None) {
            if text(&crd, "/spec/group") == "spire.spiffe.io" {
                self.store().update(&Key::of(&crd), |crd| {
                    super::super::object::set(crd, "/metadata/labels/app.kubernetes.io~1managed-by", "Helm");
                    super::super::object::set(crd, "/metadata/annotations/meta.helm.sh~1release-name", "spire-crds");
                    super::super::object::set(crd, "/metadata/annotations/meta.helm.sh~1release-namespace", "default");
                });
            }
        }
    }

    /// A lab with these images on this chart, brought there at once.
    async fn on_chart(chart: &str, version: &str, workloads: u32) -> Self {
        let scene = Scene::with_cluster(&[]).await;
        scene.prepare();
        scene.crds("0.5.0").await.unwrap();
        scene.upgrade(chart, version, version, json!({})).await.unwrap();
        scene.servers_at(version).await;
        scene.agents_at(version).await;
        for object in workload(workloads) {
            scene.apply(&object);
        }
        let all = usize::try_from(workloads).unwrap();
        scene.until(|store| (with_svid(store) == all).then_some(())).await;
        scene
    }
}

fn words(error: CommandError) -> String {
    let CommandError::Exit { output, .. } = error else { panic!("{error:?}") };
    output.stderr
}

#[tokio::test(start_paused = true)]
async fn crds_have_to_be_handed_over_at_0_14() {
    let scene = Scene::at_1_7_2(&[], 1).await;
    let refused = words(scene.crds("0.0.1").await.unwrap_err());
    assert!(
        refused.contains("exists and cannot be imported into the current release: invalid ownership metadata; label validation error: missing key \"app.kubernetes.io/managed-by\": must be set to \"Helm\"; annotation validation error: missing key \"meta.helm.sh/release-name\": must be set to \"spire-crds\""),
        "{refused}"
    );
    scene.adopt_crds();
    scene.crds("0.0.1").await.unwrap();
    scene.upgrade("0.14.0", "1.7.2", "1.7.2", json!({})).await.unwrap();
    scene.servers_at("1.7.2").await;
    // Without the CRDs the newer chart has nothing to stand on.
    let bare = Scene::with_cluster(&[]).await;
    bare.prepare();
    let refused = words(bare.upgrade("0.14.0", "1.8.2", "1.8.2", json!({})).await.unwrap_err());
    assert!(refused.contains("no matches for kind \"ClusterSPIFFEID\""), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn the_agents_selector_stops_whoever_jumps_over_0_19() {
    let scene = Scene::on_chart("0.18.2", "1.9.2", 1).await;
    let refused = words(scene.upgrade("0.20.0", "1.9.2", "1.9.2", json!({})).await.unwrap_err());
    assert!(
        refused.starts_with("Error: UPGRADE FAILED: cannot patch \"spire-agent\" with kind DaemonSet: DaemonSet.apps \"spire-agent\" is invalid: spec.selector: Invalid value: ")
            && refused.contains("field is immutable"),
        "{refused}"
    );
    // All else was changed: the servers' port too, which the agents do not know of.
    assert_eq!(
        scene.store().get(&Key::new("v1", "Service", CONTROL, "spire-server")).unwrap()["spec"]["ports"][0]["port"],
        443
    );
    scene.store().delete(&Key::new("apps/v1", "DaemonSet", "spire-system", "spire-agent"), Propagation::Background);
    scene.upgrade("0.20.0", "1.9.2", "1.9.2", json!({})).await.unwrap();
    scene.agents_at("1.9.2").await;

    let scene = Scene::on_chart("0.18.2", "1.9.2", 0).await;
    scene.upgrade("0.19.0", "1.9.2", "1.9.2", json!({})).await.unwrap();
    scene.agents_at("1.9.2").await;
    let agents = scene.store().get(&Key::new("apps/v1", "DaemonSet", "spire-system", "spire-agent")).unwrap();
    assert_eq!(text(&agents, "/spec/selector/matchLabels/app.kubernetes.io~1component"), "default");
}

#[tokio::test(start_paused = true)]
async fn a_changed_selector_of_the_servers_is_refused() {
    let scene = Scene::at_1_7_2(&[], 0).await;
    let set = Key::new("apps/v1", "StatefulSet", CONTROL, "spire-server");
    scene.store().remove(&set);
    let labels = json!({"app.kubernetes.io/name": "server", "app.kubernetes.io/instance": "spire"});
    let mut old =
        scene.store().list("apps/v1", "ControllerRevision", Some(CONTROL)).remove(0)["data"]["spec"]["template"]
            .clone();
    old["metadata"]["labels"] = labels.clone();
    // As the chart 0.11 had it.
    let mut object = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "spire-server", "namespace": CONTROL, "labels": {"app.kubernetes.io/managed-by": "Helm"},
        "annotations": {"meta.helm.sh/release-name": "spire", "meta.helm.sh/release-namespace": "default"}}, "spec": {"replicas": 3, "serviceName": "spire-server",
        "selector": {"matchLabels": labels}, "template": old}});
    scene.until(|store| (store.list("v1", "Pod", Some(CONTROL)).len() == 2).then_some(())).await;
    object["spec"]["replicas"] = 0.into();
    scene.apply(&object);
    let refused = words(scene.to("1.7.2", "1.7.2").await.unwrap_err());
    assert!(
        refused.contains("cannot patch \"spire-server\" with kind StatefulSet: StatefulSet.apps \"spire-server\" is invalid: spec: Forbidden: updates to statefulset spec for fields other than"),
        "{refused}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_workload_loses_its_entry_at_0_17_unless_the_identity_is_raw() {
    for (kind, keeps) in [("base", false), ("raw", true)] {
        let scene = Scene::on_chart("0.16.0", "1.8.7", 1).await;
        let identity = json!({"spire-server": {"controllerManager": {"identities": {"clusterSPIFFEIDs": {"default": {"type": kind}}}}}});
        scene.upgrade("0.17.0", "1.8.7", "1.8.7", identity).await.unwrap();
        scene.servers_at("1.8.7").await;
        scene.agents_at("1.8.7").await;
        sleep(Duration::from_secs(30)).await;
        let argv = ["spire-server", "entry", "show", "-output", "json"];
        let entries = scene.says(&kubectl::exec(&scene.target(), CONTROL, "spire-server-0", CONTROL, argv)).await;
        assert_eq!(entries.contains("/ns/default/sa/workload"), keeps, "{kind}");
        assert_eq!(logs(&scene.store())[0].1.lines().last().unwrap().contains("no-identity"), !keeps, "{kind}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_moved_port_leaves_agents_of_before_alone() {
    let scene = Scene::on_chart("0.19.2", "1.9.4", 1).await;
    // As in a phase that is the servers' alone: agents keep what they were told.
    let service = Key::new("v1", "Service", CONTROL, "spire-server");
    scene.store().update(&service, |service| service["spec"]["ports"][0]["port"] = 443.into());
    for object in workload(2) {
        scene.apply(&object);
    }
    sleep(Duration::from_secs(60)).await;
    assert_eq!(with_svid(&scene.store()), 1, "who is new gets nothing");
    scene.upgrade("0.20.0", "1.9.4", "1.9.4", json!({})).await.unwrap();
    scene.until(|store| (with_svid(store) == 2).then_some(())).await;
    let argv = ["spire-server", "entry", "show", "-output", "json"];
    scene.servers_at("1.9.4").await;
    sleep(Duration::from_secs(10)).await;
    let entries = scene.says(&kubectl::exec(&scene.target(), CONTROL, "spire-server-0", CONTROL, argv)).await;
    assert!(entries.contains("\"id\":\"kind-kind."), "{entries}");
}

#[tokio::test(start_paused = true)]
async fn programs_refuse_what_newer_charts_write() {
    for (chart, server, agent, pod, words) in [
        (
            "0.19.1",
            "1.9.1",
            "1.9.1",
            "spire-agent",
            "keys=retry_bootstrap section=agent\nunknown configuration detected",
        ),
        ("0.27.0", "1.13.0", "1.12.6", "spire-agent", "keys=\"rebootstrap_delay,rebootstrap_mode\" section=agent"),
        (
            "0.26.0",
            "1.12.3",
            "1.12.3",
            "spire-server-0",
            "no built-in plugin \\\"k8s_configmap\\\" for type \\\"BundlePublisher\\\"",
        ),
        ("0.30.0", "1.13.6", "1.13.6", "spire-server-0", "keys=disable_jwt_svids section=server"),
    ] {
        let scene = Scene::with_cluster(&[]).await;
        scene.prepare();
        scene.crds("0.5.0").await.unwrap();
        scene.upgrade(chart, server, agent, json!({})).await.unwrap();
        let found = scene.until(|store| {
            let waiting = "/status/containerStatuses/0/state/waiting/reason";
            let pods = store.list("v1", "Pod", None);
            let pod = pods.into_iter().find(|other| text(other, "/metadata/name").starts_with(pod))?;
            (text(&pod, waiting) == "CrashLoopBackOff").then_some(Key::of(&pod))
        });
        let key = found.await;
        let container = if pod == "spire-agent" { "spire-agent" } else { CONTROL };
        let log: String =
            scene.store().logs(&key, container, false).unwrap().into_iter().map(|(_, line)| line + "\n").collect();
        assert!(log.contains(words), "{chart}: {log}");
    }
}

#[tokio::test(start_paused = true)]
async fn from_0_26_the_bundle_must_go_where_the_agents_are() {
    let map = |namespace: &str| Key::new("v1", "ConfigMap", namespace, "spire-bundle");
    let scene = Scene::on_chart("0.25.0", "1.12.4", 1).await;
    assert!(scene.store().get(&map("spire-system")).unwrap()["data"].get("bundle.crt").is_some());
    scene.upgrade("0.26.0", "1.12.4", "1.12.4", json!({})).await.unwrap();
    scene.servers_at("1.12.4").await;
    scene.agents_at("1.12.4").await;
    let bundle = scene.store().get(&map("spire-system")).unwrap();
    let bundle: Value = serde_json::from_str(text(&bundle, "/data/bundle.spiffe")).unwrap();
    for kind in ["x509-svid", "jwt-svid"] {
        let keys = bundle["keys"].as_array().unwrap().iter().filter(|key| key["use"] == kind);
        assert_eq!(keys.count(), 3, "{kind}: {bundle}");
    }
    assert_eq!(with_svid(&scene.store()), 1);

    // The notifier's key decides nothing any more but who may write where.
    let trap = json!({"spire-server": {"bundlePublisher": {"k8sConfigMap": {"namespace": ""}}, "notifier": {"k8sBundle": {"namespace": "spire-system"}}}});
    let scene = Scene::on_chart("0.25.0", "1.12.4", 0).await;
    scene.upgrade("0.26.0", "1.12.4", "1.12.4", trap).await.unwrap();
    scene.servers_at("1.12.4").await;
    sleep(Duration::from_secs(120)).await;
    assert!(["spire-system", CONTROL].iter().all(|namespace| scene.store().get(&map(namespace)).is_none()));
    let log: String = scene
        .store()
        .logs(&Key::pod(CONTROL, "spire-server-2"), CONTROL, false)
        .unwrap()
        .into_iter()
        .map(|(_, line)| line + "\n")
        .collect();
    assert!(log.contains("Failed to publish bundle") && log.contains("is forbidden"), "{log}");
    let events = scene.store().list("v1", "Event", Some("spire-system"));
    assert!(events.iter().any(|event| text(event, "/message").contains("configmap \"spire-bundle\" not found")));
}

#[tokio::test(start_paused = true)]
async fn values_of_an_older_line_do_not_render() {
    let scene = Scene::on_chart("0.23.0", "1.11.0", 0).await;
    let path = scene.chart("hardened/spire", "0.24.0").await;
    let values = super::upgrade::values_of("0.23.0", "1.11.0", "1.11.0");
    let install = scene.helm().upgrade_install("spire", "default", &path, values.to_string(), MINUTES);
    let refused = scene.fails(&install).await;
    assert!(refused.contains("k8sbundle was renmaed to k8sBundle. Please update your config."), "{refused}");
    let render = scene.helm().template("spire", "default", &path, values.to_string());
    assert!(
        scene
            .fails(&render)
            .await
            .contains("execution error at (spire/charts/spire-server/templates/server-resource.yaml")
    );
    let listed = helm::parse_list(&scene.run(&scene.helm().list("default")).await.unwrap()).unwrap();
    assert_eq!((listed[0].revision, listed[0].status), (1, helm::ReleaseStatus::Deployed), "nothing was changed");
}

/// The lab, all the way: images before charts, as they need each other.
#[tokio::test(start_paused = true)]
async fn the_whole_way_up_no_svid_runs_out() {
    let scene = Scene::at_1_7_2(&[], 1).await;
    scene.adopt_crds();
    let mut version = "1.7.2";
    for (chart, crds, to) in [
        ("0.13.0", "", "1.8.11"),
        ("0.14.0", "0.0.1", "1.8.11"),
        ("0.15.1", "0.2.0", "1.8.11"),
        ("0.16.0", "0.2.0", "1.8.11"),
        ("0.17.2", "0.3.0", "1.9.6"),
        ("0.18.2", "0.3.0", "1.9.6"),
        ("0.19.2", "0.3.0", "1.9.6"),
        ("0.20.0", "0.4.0", "1.9.6"),
        ("0.21.1", "0.4.0", "1.10.4"),
        ("0.22.0", "0.4.0", "1.10.4"),
        ("0.23.0", "0.4.0", "1.11.3"),
        ("0.24.5", "0.5.0", "1.12.6"),
        ("0.25.0", "0.5.0", "1.12.6"),
        ("0.26.1", "0.5.0", "1.13.6"),
        ("0.27.1", "0.5.0", "1.14.7"),
        ("0.28.5", "0.5.0", "1.15.3"),
        ("0.29.0", "0.5.0", "1.15.3"),
        ("0.30.0", "0.6.0", "1.15.3"),
    ] {
        if !crds.is_empty() {
            scene.crds(crds).await.unwrap();
        }
        for (server, agent) in [(version, version), (to, version), (to, to)] {
            scene.upgrade(chart, server, agent, json!({})).await.unwrap();
            scene.servers_at(server).await;
            scene.agents_at(agent).await;
        }
        version = to;
    }
    sleep(Duration::from_secs(20)).await;
    let kept = scene.store().list("v1", "Secret", Some("default"));
    let kept = kept.iter().filter(|secret| text(secret, "/metadata/labels/name") == "spire").count();
    assert_eq!(kept, 10, "helm forgets the older revisions");
    let updates = updates_in(&logs(&scene.store())[0].1);
    for pair in updates.windows(2) {
        assert!(pair[0].is_valid_at(pair[1].received_at.unwrap()), "{pair:?}");
    }
    assert!(updates.last().unwrap().is_valid_at(scene.store().now()));
    assert_eq!(scene.authorities().await.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_hook_fails_on_a_webhook_that_is_not_there() {
    let scene = Scene::on_chart("0.14.0", "1.8.7", 0).await;
    // Only the lines 0.15 and 0.16 look for the name of before.
    let refused = words(scene.upgrade("0.17.0", "1.8.7", "1.8.7", json!({})).await.unwrap_err());
    assert!(
        refused.contains("pre-upgrade hooks failed: 1 error occurred:\n\t* timed out waiting for the condition"),
        "{refused}"
    );
    let lenient =
        json!({"spire-server": {"controllerManager": {"validatingWebhookConfiguration": {"failurePolicy": "Ignore"}}}});
    scene.upgrade("0.17.0", "1.8.7", "1.8.7", lenient).await.unwrap();
    scene.servers_at("1.8.7").await;
}

#[tokio::test(start_paused = true)]
async fn agents_can_be_held_while_servers_move() {
    let scene = Scene::on_chart("0.18.2", "1.9.2", 1).await;
    let held = json!({"spire-agent": {"updateStrategy": {"type": "OnDelete"}, "readinessProbe": {"periodSeconds": 4}}});
    scene.upgrade("0.18.2", "1.9.4", "1.9.2", held.clone()).await.unwrap();
    scene.servers_at("1.9.4").await;
    let agents = Key::new("apps/v1", "DaemonSet", "spire-system", "spire-agent");
    assert_eq!(scene.store().get(&agents).unwrap()["status"]["updatedNumberScheduled"], 0);
    let released = json!({"spire-agent": {"readinessProbe": {"periodSeconds": 4}}});
    scene.upgrade("0.18.2", "1.9.4", "1.9.4", released).await.unwrap();
    scene.agents_at("1.9.4").await;
}

#[tokio::test(start_paused = true)]
async fn a_world_begins_where_a_real_one_stands() {
    let text = r#"{"spire": {"servers": ["1.13.6", "1.14.0"], "agents": ["1.13.6"], "schema": 23, "code_version": "1.14.0", "chart": "0.27.1"}}"#;
    let begin = Begin::read(text).unwrap();
    let scene = Scene::at_1_7_2(&[], 1).await;
    let before = scene.authorities().await;
    scene.rehearsal.bring_to(&begin, super::upgrade::values_of("0.27.1", "1.14.0", "1.13.6")).await.unwrap();
    let version = |pod: &str| kubectl::exec(&scene.target(), CONTROL, pod, CONTROL, ["spire-server", "--version"]);
    for (pod, expected) in
        [("spire-server-0", "1.13.6\n"), ("spire-server-1", "1.14.0\n"), ("spire-server-2", "1.14.0\n")]
    {
        assert_eq!(scene.run(&version(pod)).await.unwrap().stderr, expected, "{pod}");
        let health = kubectl::exec(&scene.target(), CONTROL, pod, CONTROL, ["spire-server", "healthcheck"]);
        assert_eq!(scene.says(&health).await, "Server is healthy.\n");
    }
    scene.agents_at("1.13.6").await;
    let psql = ["psql", "-U", "spire", "-tAc", "select version, code_version from migrations"];
    let row = scene.says(&kubectl::exec(&scene.target(), CONTROL, "spire-db-0", "postgres", psql)).await;
    assert_eq!(row, "23|1.14.0\n");
    let listed = helm::parse_list(&scene.run(&scene.helm().list("default")).await.unwrap()).unwrap();
    assert!(listed[0].is_of("spire", &Version::new(0, 27, 1)));
    assert_eq!(scene.authorities().await, before, "as if it had always been so");
    let unknown = Begin { chart: Some(Version::new(0, 99, 0)), ..begin };
    assert!(
        scene.rehearsal.bring_to(&unknown, json!({})).await.is_err_and(|failure| failure.message.contains("0.99.0"))
    );
}
