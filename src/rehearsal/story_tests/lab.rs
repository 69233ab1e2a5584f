//! The lab: SPIRE, its workloads, monitoring, the add-ons.

use super::*;

#[tokio::test(start_paused = true)]
async fn the_lab_from_nothing_to_identities_and_back() {
    let begun = Instant::now();
    let scene = Scene::with_cluster(&[]).await;
    // Facts, section 9: kind create takes 19.5 s.
    assert_eq!(begun.elapsed(), Duration::from_millis(19_500));
    assert_eq!(scene.says(&kind::get_clusters()).await, "kind\n");
    scene.prepare();
    scene.until_ready("spire-server", "spire-db-0").await;

    let installed = Instant::now();
    let output = scene.install_spire().await.unwrap();
    assert!(output.stdout.contains("STATUS: deployed\nREVISION: 1"), "{}", output.stdout);
    scene.until_ready("spire-server", "spire-server-2").await;
    // Facts, section 9: 45 s for three servers, 12 to 14 s each.
    assert!((36..=50).contains(&installed.elapsed().as_secs()), "{:?}", installed.elapsed());
    let webhooks = Key::new(
        "admissionregistration.k8s.io/v1",
        "ValidatingWebhookConfiguration",
        "",
        "spire-controller-manager-webhook",
    );
    let policy = |store: &Store| store.get(&webhooks).unwrap()["webhooks"][1]["failurePolicy"].clone();
    assert_eq!(policy(&scene.store()), "Fail", "the post-install hook sets it");

    for object in workload(5) {
        scene.apply(&object);
    }
    let deployed = Instant::now();
    scene
        .until(|store| (logs(store).iter().filter(|(_, log)| !updates_in(log).is_empty()).count() == 5).then_some(()))
        .await;
    // Facts, section 9: 6.6 s after the start of the pod, which takes a second or two.
    assert!((6..=9).contains(&deployed.elapsed().as_secs()), "{:?}", deployed.elapsed());
    for (_, log) in logs(&scene.store()) {
        assert!(log.contains("no identity issued"), "{log}");
        let update = updates_in(&log).remove(0);
        assert_eq!(update.spiffe_id, "spiffe://coastal-containers.example/ns/default/sa/workload");
        assert_eq!((update.authorities, update.verified), (3, Some(true)));
        assert!(update.is_valid_at(scene.rehearsal.world().clock.now()));
        assert!(log.contains("-----BEGIN CERTIFICATE-----"));
    }

    let server = |words: &[&str]| {
        let argv: Vec<String> = ["spire-server"].iter().chain(words).map(|word| (*word).to_owned()).collect();
        kubectl::exec(&scene.target(), "spire-server", "spire-server-0", "spire-server", argv)
    };
    assert_eq!(scene.says(&server(&["healthcheck"])).await, "Server is healthy.\n");
    assert_eq!(scene.run(&server(&["--version"])).await.unwrap().stderr, "1.7.2\n");
    let bundle: Value =
        serde_json::from_str(&scene.says(&server(&["bundle", "show", "-output", "json"])).await).unwrap();
    assert_eq!(bundle["x509_authorities"].as_array().unwrap().len(), 3);
    let entries: Value =
        serde_json::from_str(&scene.says(&server(&["entry", "show", "-output", "json"])).await).unwrap();
    let paths: BTreeSet<&str> =
        entries["entries"].as_array().unwrap().iter().map(|entry| text(entry, "/spiffe_id/path")).collect();
    assert!(
        paths.is_superset(&BTreeSet::from([
            "/ns/default/sa/workload",
            "/ns/spire-server/sa/spire-server",
            "/ns/spire-system/sa/spire-agent"
        ])),
        "{paths:?}"
    );
    assert!(!paths.iter().any(|path| path.contains("kube-system")), "{paths:?}");
    let psql = kubectl::exec(
        &scene.target(),
        "spire-server",
        "spire-db-0",
        "postgres",
        ["psql", "-U", "spire", "-tAc", "select version, code_version from migrations"],
    );
    assert_eq!(scene.says(&psql).await, "22|1.7.2\n");

    let tests = scene.says(&scene.helm().test("spire", "default", MINUTES)).await;
    assert_eq!(tests.matches("Phase:          Succeeded").count(), 3, "{tests}");
    let listed = helm::parse_list(&scene.run(&scene.helm().list("default")).await.unwrap()).unwrap();
    assert!(listed[0].is_of("spire", &Version::new(0, 13, 0)));

    for name in ["Deployment", "ServiceAccount"] {
        let version = if name == "Deployment" { "apps/v1" } else { "v1" };
        scene.store().delete(&Key::new(version, name, "default", "workload"), Propagation::Foreground);
    }
    scene.until(|store| logs(store).is_empty().then_some(())).await;
    scene.run(&scene.helm().uninstall("spire", "default", MINUTES)).await.unwrap();
    scene.until(|store| store.list("v1", "Pod", Some("spire-system")).is_empty().then_some(())).await;
    let claims: Vec<String> = scene
        .store()
        .list("v1", "PersistentVolumeClaim", Some("spire-server"))
        .iter()
        .map(|claim| text(claim, "/metadata/name").to_owned())
        .collect();
    assert_eq!(
        claims,
        ["data-spire-db-0", "spire-data-spire-server-0", "spire-data-spire-server-1", "spire-data-spire-server-2"]
    );
    assert!(scene.fails(&scene.helm().uninstall("spire", "default", MINUTES)).await.contains("release: not found"));

    scene.run(&kind::delete_cluster("kind", &scene.path("kubeconfig"), MINUTES)).await.unwrap();
    assert_eq!(scene.says(&kind::get_clusters()).await, "");
}

#[tokio::test(start_paused = true)]
async fn agents_wait_for_a_server_and_are_ready_a_minute_later() {
    let scene = Scene::with_cluster(&[]).await;
    scene.prepare();
    scene.install_spire().await.unwrap();
    let agent = scene
        .until(|store| {
            store
                .list("v1", "Pod", Some("spire-system"))
                .into_iter()
                .find(|pod| text(pod, "/metadata/labels/app.kubernetes.io~1name") == "agent")
        })
        .await;
    let (key, name) = (Key::of(&agent), text(&agent, "/metadata/name").to_owned());
    scene
        .until(|store| {
            (!text(&store.get(&key)?, "/status/initContainerStatuses/0/state/running/startedAt").is_empty())
                .then_some(())
        })
        .await;
    let health = kubectl::exec(
        &scene.target(),
        "spire-system",
        &name,
        "spire-agent",
        ["/opt/spire/bin/spire-agent", "healthcheck", "-socketPath", "/run/spire/agent-sockets/spire-agent.sock"],
    );
    assert_eq!(
        scene.fails(&health).await,
        "error: unable to upgrade connection: container not found (\"spire-agent\")\n"
    );
    scene.until(|store| (text(&store.get(&key)?, "/status/phase") == "Running").then_some(())).await;
    let running = Instant::now();
    assert!(condition(&scene.store().get(&Key::pod("spire-server", "spire-server-0")).unwrap(), "Ready"));
    sleep(Duration::from_millis(1_500)).await;
    assert_eq!(scene.says(&health).await, "Agent is healthy.\n");
    assert!(!is_ready(&scene.store().get(&key).unwrap()));
    scene.until_ready("spire-system", &name).await;
    assert_eq!(running.elapsed().as_secs(), 60);
}

#[tokio::test(start_paused = true)]
async fn svids_are_renewed_at_half_life() {
    let scene = Scene::with_cluster(&[]).await;
    scene.prepare();
    scene.install_spire().await.unwrap();
    scene.until_ready("spire-server", "spire-server-2").await;
    for object in workload(1) {
        scene.apply(&object);
    }
    scene.until(|store| logs(store).first().and_then(|(_, log)| updates_in(log).first().cloned())).await;
    sleep(Duration::from_secs(2 * 3600 + 60)).await;
    let updates = updates_in(&logs(&scene.store())[0].1);
    assert_eq!(updates.len(), 2);
    assert_ne!(updates[0].serial, updates[1].serial);
    assert_eq!(updates[1].received_at.unwrap().duration_since(updates[0].received_at.unwrap()).as_secs(), 2 * 3600);
}

#[tokio::test(start_paused = true)]
async fn the_agents_image_stands_in_for_the_workload() {
    let scene = Scene::with_cluster(&[]).await;
    scene.prepare();
    scene.install_spire().await.unwrap();
    let mut objects = workload(1);
    objects[1]["spec"]["template"]["spec"]["containers"][0]["command"] =
        json!(["/opt/spire/bin/spire-agent", "api", "watch"]);
    for object in objects {
        scene.apply(&object);
    }
    let update = scene.until(|store| logs(store).first().and_then(|(_, log)| updates_in(log).first().cloned())).await;
    assert_eq!((update.serial, update.authorities > 0), (None, true));
}

#[tokio::test(start_paused = true)]
async fn servers_need_their_data_store() {
    for (fault, words) in
        [("login-refused", "password authentication failed"), ("server-crash-loop", "unable to load X509 CA")]
    {
        let scene = Scene::with_cluster(&[fault]).await;
        scene.prepare();
        scene.until_ready("spire-server", "spire-db-0").await;
        scene.install_spire().await.unwrap();
        let key = Key::pod("spire-server", "spire-server-0");
        scene
            .until(|store| {
                (text(&store.get(&key)?, "/status/containerStatuses/0/state/waiting/reason") == "CrashLoopBackOff")
                    .then_some(())
            })
            .await;
        let lines = scene.store().logs(&key, "spire-server", false).unwrap();
        assert!(lines.iter().any(|(_, line)| line.contains(words)), "{fault}: {lines:?}");
        scene.rehearsal.cure(fault);
        scene.until_ready("spire-server", "spire-server-0").await;
    }
}

#[tokio::test(start_paused = true)]
async fn monitoring_comes_up_and_leaves_what_the_real_one_leaves() {
    let scene = Scene::with_cluster(&[]).await;
    let helm = scene.helm();
    scene
        .run(&helm.repo_add("prometheus-community", "https://prometheus-community.github.io/helm-charts"))
        .await
        .unwrap();
    let version = Version::new(51, 9, 2);
    scene
        .run(&helm.pull("prometheus-community/kube-prometheus-stack", &version, scene.directory.path(), MINUTES))
        .await
        .unwrap();
    let chart = scene.path("kube-prometheus-stack-51.9.2.tgz");
    let begun = Instant::now();
    scene.run(&helm.upgrade_install("prometheus", "default", &chart, "{}".into(), MINUTES)).await.unwrap();
    scene.until_ready("default", "prometheus-prometheus-kube-prometheus-prometheus-0").await;
    scene.until_ready("default", "alertmanager-prometheus-kube-prometheus-alertmanager-0").await;
    let grafana = Key::new("apps/v1", "Deployment", "default", "prometheus-grafana");
    scene.until(|store| condition(&store.get(&grafana)?, "Available").then_some(())).await;
    // Facts, section 9: 24 s, images loaded; here they are pulled.
    assert!((15..=40).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    scene.run(&helm.uninstall("prometheus", "default", MINUTES)).await.unwrap();
    scene.until(|store| store.list("v1", "Pod", Some("default")).is_empty().then_some(())).await;
    for key in [
        Key::new("v1", "Service", "kube-system", "prometheus-kube-prometheus-kubelet"),
        Key::new("v1", "Secret", "default", "prometheus-kube-prometheus-admission"),
        Key::new("apiextensions.k8s.io/v1", "CustomResourceDefinition", "", "podmonitors.monitoring.coreos.com"),
    ] {
        assert!(scene.store().get(&key).is_some(), "{key:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn manifests_come_up() {
    let scene = Scene::with_cluster(&["fetch-404=missing"]).await;
    let (world, cancel) = (scene.rehearsal.world(), CancellationToken::new());
    for url in [
        "https://github.com/cert-manager/cert-manager/releases/download/v1.13.0/cert-manager.yaml",
        "https://projectcontour.io/quickstart/v1.26.0/contour.yaml",
    ] {
        let file = scene.path("manifest.yaml");
        world.fetcher.fetch(url, &file, &cancel).await.unwrap();
        let objects = crate::kube::parse(url, &std::fs::read_to_string(&file).unwrap()).unwrap();
        for object in objects {
            let object = serde_json::to_value(object).unwrap();
            scene.until(|store| store.kind(text(&object, "/apiVersion"), text(&object, "/kind"))).await;
            scene.apply(&object);
        }
    }
    for (namespace, kind, name) in
        [("cert-manager", "Deployment", "cert-manager-webhook"), ("projectcontour", "Deployment", "contour")]
    {
        let key = Key::new("apps/v1", kind, namespace, name);
        scene.until(|store| condition(&store.get(&key)?, "Available").then_some(())).await;
    }
    let envoy = Key::new("apps/v1", "DaemonSet", "projectcontour", "envoy");
    scene.until(|store| (store.get(&envoy)?["status"]["numberReady"] == 1).then_some(())).await;
    let issuer = json!({"apiVersion": "cert-manager.io/v1", "kind": "ClusterIssuer", "metadata": {"name": "selfsigned"}, "spec": {"selfSigned": {}}});
    sleep(Duration::from_secs(5)).await;
    scene.apply(&issuer);
    scene.until(|store| condition(&store.get(&Key::of(&issuer))?, "Ready").then_some(())).await;
    for url in ["https://example.org/missing/contour.yaml", "https://example.org/other.yaml"] {
        let failure = world.fetcher.fetch(url, &scene.path("x"), &cancel).await.unwrap_err();
        assert!(failure.message.contains("404") && failure.message.contains(url), "{}", failure.message);
    }
}

#[tokio::test(start_paused = true)]
async fn two_runs_of_a_story_are_alike() {
    let mut told = Vec::new();
    for _ in 0..2 {
        let scene = Scene::with_cluster(&[]).await;
        scene.prepare();
        scene.install_spire().await.unwrap();
        for object in workload(2) {
            scene.apply(&object);
        }
        scene
            .until(|store| {
                (logs(store).iter().filter(|(_, log)| !updates_in(log).is_empty()).count() == 2).then_some(())
            })
            .await;
        told.push((logs(&scene.store()), scene.store().revision()));
    }
    assert_eq!(told[0], told[1]);
}
