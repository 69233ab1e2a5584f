//! The tools: what they refuse, how they fail, and what is kept of the world.

use super::*;

#[tokio::test(start_paused = true)]
async fn the_world_survives_in_its_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = Some(directory.path().join("world.json"));
    let options = || Options { world_file: file.clone(), ..Options::default() };
    let mut scene = Scene { rehearsal: Rehearsal::new(options()).unwrap(), directory };
    scene.create_cluster().await;
    scene.prepare();
    scene.install_spire().await.unwrap();
    scene.until_ready("spire-server", "spire-server-2").await;
    let (before, objects) = (scene.rehearsal.world().clock.now(), scene.store().list("v1", "Pod", None).len());
    scene.rehearsal.save().unwrap();
    scene.rehearsal = Rehearsal::new(options()).unwrap();
    assert_eq!(scene.rehearsal.world().clock.now(), before);
    assert_eq!(scene.store().list("v1", "Pod", None).len(), objects);
    let count = kubectl::exec(
        &scene.target(),
        "spire-server",
        "spire-server-1",
        "spire-server",
        ["spire-server", "bundle", "show", "-output", "json"],
    );
    let bundle: Value = serde_json::from_str(&scene.says(&count).await).unwrap();
    assert_eq!(bundle["x509_authorities"].as_array().unwrap().len(), 3);
    for object in workload(1) {
        scene.apply(&object);
    }
    scene.until(|store| logs(store).first().and_then(|(_, log)| updates_in(log).first().cloned())).await;

    std::fs::write(file.as_ref().unwrap(), "{}").unwrap();
    assert!(Rehearsal::new(options()).is_err_and(|failure| failure.message.contains("world.json")));
}

#[tokio::test(start_paused = true)]
async fn what_is_not_known_is_an_error_that_names_it() {
    let scene = Scene::with_cluster(&[]).await;
    for command in [
        Command::new(Tool::Kind, ["export", "logs"]),
        Command::new(Tool::Kind, ["get", "clusters", "--everywhere"]),
        Command::new(Tool::Helm, ["plugin", "list"]),
        Command::new(Tool::Kubectl, ["get", "pods"]),
        Command::new(Tool::Docker, ["system", "prune"]),
    ] {
        let error = scene.run(&command).await.unwrap_err();
        assert!(matches!(error, CommandError::Io { .. }) && error.to_string().contains(&command.line()), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn refusals_are_in_the_tools_words() {
    let scene = Scene::new(&[]);
    let helm = scene.helm();
    let chart = scene.pull().await;
    let install = helm.upgrade_install("spire", "default", &chart, values().to_string(), MINUTES);
    assert!(scene.fails(&install).await.contains("Kubernetes cluster unreachable"));
    scene.create_cluster().await;
    assert!(scene.fails(&helm.get_values("spire", "default")).await.contains("release: not found"));
    let missing = helm.upgrade_install("spire", "default", &scene.path("no.tgz"), String::new(), MINUTES);
    assert!(scene.fails(&missing).await.contains("not found"));
    assert!(scene.fails(&install).await.contains("namespaces \"spire-server\" not found"));
    assert!(scene.says(&helm.list("default")).await.contains("\"status\":\"failed\""));
    let unknown = helm.pull("spiffe/spire", &Version::new(0, 99, 0), scene.directory.path(), MINUTES);
    assert!(scene.fails(&unknown).await.contains("no chart version found for spire-0.99.0"));
    assert!(
        scene
            .fails(&helm.pull("nobody/spire", &Version::new(0, 13, 0), scene.directory.path(), MINUTES))
            .await
            .contains("repo nobody not found")
    );
    assert!(
        scene.fails(&helm.repo_add("x", "https://nowhere.example/")).await.contains("not a valid chart repository")
    );
    let exec = kubectl::exec(&scene.target(), "default", "x", "c", ["true"]);
    assert_eq!(scene.fails(&exec).await, "Error from server (NotFound): pods \"x\" not found\n");
    let config = kind::cluster_config("kind", 8080, 8443, MARKER);
    let again = kind::create_cluster("kind", config, &scene.path("k"), None, MINUTES);
    assert!(scene.fails(&again).await.contains("node(s) already exist for a cluster with the name \"kind\""));
    let other = kind::create_cluster(
        "other",
        kind::cluster_config("other", 8080, 9443, MARKER),
        &scene.path("k"),
        None,
        MINUTES,
    );
    let error = scene.run(&other).await.unwrap_err();
    assert!(kind::explain_create_error(&error).unwrap().message.contains("port 8080"));
}

#[tokio::test(start_paused = true)]
async fn a_pending_release_blocks_until_its_secret_goes() {
    let scene = Scene::with_cluster(&["release-pending=7200"]).await;
    scene.prepare();
    let error = scene.install_spire().await.unwrap_err();
    assert!(helm::is_operation_in_progress(&error), "{error:?}");
    let listed = helm::parse_list(&scene.run(&scene.helm().list("default")).await.unwrap()).unwrap();
    assert!(listed[0].status.is_pending());
    let age = scene.rehearsal.world().clock.now().duration_since(listed[0].updated.unwrap());
    assert!((7200..7300).contains(&age.as_secs()), "{age:?}");
    scene.store().delete(&Key::new("v1", "Secret", "default", "sh.helm.release.v1.spire.v1"), Propagation::Background);
    scene.install_spire().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_somebody_elses_is_not_taken_over() {
    let scene = Scene::with_cluster(&[]).await;
    scene.prepare();
    let metadata = json!({"name": "spire-server", "namespace": "spire-server"});
    scene.apply(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}));
    let Err(CommandError::Exit { output, .. }) = scene.install_spire().await else { panic!("installed") };
    assert!(
        output.stderr.contains("ServiceAccount \"spire-server\" in namespace \"spire-server\" exists"),
        "{}",
        output.stderr
    );
    let list = scene.helm().list("default");
    assert_eq!(scene.says(&list).await, "[]\n", "helm finds it out before it makes a revision");
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_kind_leaves_its_nodes() {
    let scene = Scene::new(&[]);
    let config = kind::cluster_config("kind", 8080, 8443, MARKER);
    let create = kind::create_cluster("kind", config, &scene.path("kubeconfig"), None, MINUTES);
    let cancel = CancellationToken::new();
    let runner = scene.rehearsal.world().runner;
    let io = CommandIo { on_line: &|_, _| {}, cancel: &cancel };
    let (result, ()) = tokio::join!(runner.run(&create, io), async {
        sleep(Duration::from_secs(6)).await;
        cancel.cancel();
    });
    assert!(matches!(result, Err(CommandError::Interrupted { .. })), "{result:?}");
    assert_eq!(scene.says(&kind::get_clusters()).await, "kind\n");
    assert_eq!(
        docker::parse_kind_containers(&scene.run(&docker::kind_containers("kind")).await.unwrap()).unwrap().len(),
        2
    );
    assert!(!scene.path("kubeconfig").exists());
    scene.run(&kind::delete_cluster("kind", &scene.path("kubeconfig"), MINUTES)).await.unwrap();
    scene.create_cluster().await;
}

#[tokio::test(start_paused = true)]
async fn a_cut_off_helm_leaves_a_failed_revision() {
    let scene = Scene::with_cluster(&[]).await;
    scene.prepare();
    let chart = scene.pull().await;
    let install = scene.helm().upgrade_install("spire", "default", &chart, values().to_string(), MINUTES);
    let cancel = CancellationToken::new();
    let runner = scene.rehearsal.world().runner;
    let io = CommandIo { on_line: &|_, _| {}, cancel: &cancel };
    let (result, ()) = tokio::join!(runner.run(&install, io), async {
        sleep(Duration::from_secs(3)).await;
        cancel.cancel();
    });
    assert!(matches!(result, Err(CommandError::Interrupted { .. })), "{result:?}");
    assert!(scene.says(&scene.helm().list("default")).await.contains("\"status\":\"failed\""));
    // The hook's job of the first try goes on without helm; until it is over it would spoil the second.
    sleep(Duration::from_secs(10)).await;
    let output = scene.run(&install).await.unwrap();
    assert!(output.stdout.contains("REVISION: 2"), "{}", output.stdout);
}

#[tokio::test(start_paused = true)]
async fn tools_fail_as_they_are_told() {
    let scene = Scene::new(&[
        "tool-missing=helm",
        "tool-garbage=kubectl",
        "tool-killed=kind:create",
        "tool-hangs=docker:build",
        "tool-old=kind",
    ]);
    let runner = scene.rehearsal.world().runner;
    assert!(runner.locate(Tool::Helm).is_none() && runner.locate(Tool::Kind).is_some());
    assert_eq!(scene.run(&helm::version()).await, Err(CommandError::NotFound { tool: Tool::Helm }));
    assert!(kubectl::parse_version(&scene.run(&kubectl::version()).await.unwrap()).is_err());
    assert!(kind::parse_version(&scene.run(&kind::version()).await.unwrap()).unwrap() < Version::new(0, 20, 0));
    let create = kind::create_cluster("kind", String::new(), &scene.path("k"), None, MINUTES);
    assert!(matches!(scene.run(&create).await, Err(CommandError::Signal { signal: 9, .. })));
    let build = docker::build(scene.directory.path(), "x:1", Duration::from_secs(30));
    let begun = Instant::now();
    assert!(matches!(scene.run(&build).await, Err(CommandError::TimedOut { .. })));
    assert_eq!(begun.elapsed().as_secs(), 30);
    scene.rehearsal.cure("tool-missing");
    assert_eq!(helm::parse_version(&scene.run(&helm::version()).await.unwrap()).unwrap(), Version::new(3, 17, 2));
    scene.rehearsal.inject(Fault::DockerDown);
    let error = scene.run(&docker::version()).await.unwrap_err();
    assert!(docker::daemon_trouble(&error).is_some());
    assert!(docker::daemon_trouble(&scene.run(&kind::get_clusters()).await.unwrap_err()).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_foreign_cluster_carries_no_marker() {
    let scene = Scene::new(&["foreign-cluster"]);
    assert_eq!(scene.says(&kind::get_clusters()).await, "kind\n");
    let nodes = scene.store().list("v1", "Node", None);
    assert!(!nodes.is_empty() && nodes.iter().all(|node| node["metadata"]["labels"][MARKER.0].is_null()));
}

#[tokio::test(start_paused = true)]
async fn images_come_from_archives_registries_or_not_at_all() {
    let scene = Scene::with_cluster(&[]).await;
    let mut archive = tar::Builder::new(Vec::new());
    let index = json!({"manifests": [{"annotations": {"io.containerd.image.name": "docker.io/library/workload:1"}}]})
        .to_string();
    let mut header = tar::Header::new_gnu();
    header.set_size(index.len() as u64);
    archive.append_data(&mut header, "index.json", index.as_bytes()).unwrap();
    std::fs::write(scene.path("workload.tar"), archive.into_inner().unwrap()).unwrap();
    let pod = |name: &str, image: &str, policy: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
            "spec": {"containers": [{"name": "c", "image": image, "imagePullPolicy": policy}]}})
    };
    scene.until(|store| store.get(&Key::new("v1", "ServiceAccount", "default", "default"))).await;
    scene.apply(&pod("early", "workload:1", "IfNotPresent"));
    let early = Key::pod("default", "early");
    let message = scene.until(|store| {
        let pod = store.get(&early)?;
        let waiting = pod.pointer("/status/containerStatuses/0/state/waiting")?.clone();
        (text(&waiting, "/reason") == "ErrImagePull").then(|| text(&waiting, "/message").to_owned())
    });
    assert!(message.await.contains("pull access denied"));
    scene.run(&kind::load_image_archive(&scene.path("workload.tar"), "kind", MINUTES)).await.unwrap();
    scene.until_ready("default", "early").await;
    for node in ["kind-control-plane", "kind-worker"] {
        let images = docker::parse_node_images(&scene.run(&docker::node_images(node)).await.unwrap());
        assert!(images.contains(&"docker.io/library/workload:1".to_owned()), "{node}: {images:?}");
    }
    scene.rehearsal.inject(Fault::parse("pull-fails=postgres").unwrap());
    scene.apply(&pod("late", "postgres:16", "IfNotPresent"));
    let late = Key::pod("default", "late");
    scene
        .until(|store| {
            (text(&store.get(&late)?, "/status/containerStatuses/0/state/waiting/reason") == "ErrImagePull")
                .then_some(())
        })
        .await;
    assert!(
        scene.fails(&kind::load_image_archive(&scene.path("no.tar"), "kind", MINUTES)).await.contains("no such file")
    );
}
