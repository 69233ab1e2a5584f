//! Versions of SPIRE, up and down: servers and their database, rollouts that stall, authorities, faults.

use super::*;
use crate::rehearsal::charts::template_merge;
use crate::workload::record::{Line, State};

pub(super) const CONTROL: &str = "spire-server";

impl Scene {
    /// A lab at 1.7.2 with so many workloads that hold SVIDs.
    pub(super) async fn at_1_7_2(faults: &[&str], workloads: u32) -> Self {
        let scene = Scene::with_cluster(faults).await;
        scene.prepare();
        scene.install_spire().await.unwrap();
        scene.until_ready(CONTROL, "spire-server-2").await;
        for object in workload(workloads) {
            scene.apply(&object);
        }
        let all = usize::try_from(workloads).unwrap();
        scene.until(|store| (with_svid(store) == all).then_some(())).await;
        scene
    }

    /// `helm upgrade` to these images, on the chart 0.13.0.
    pub(super) async fn to(&self, server: &str, agent: &str) -> Result<Output, CommandError> {
        self.upgrade("0.13.0", server, agent, json!({})).await
    }

    pub(super) async fn upgrade(
        &self,
        chart: &str,
        server: &str,
        agent: &str,
        more: Value,
    ) -> Result<Output, CommandError> {
        let helm = self.helm();
        self.run(&helm.repo_add("hardened", "https://spiffe.github.io/helm-charts-hardened/")).await.unwrap();
        let path = self.chart("hardened/spire", chart).await;
        let mut values = values_of(chart, server, agent);
        template_merge(&mut values, &more);
        self.run(&helm.upgrade_install("spire", "default", &path, values.to_string(), MINUTES)).await
    }

    /// Waits until the rollout of the servers is over, and all are of that version.
    pub(super) async fn servers_at(&self, version: &str) {
        let set = Key::new("apps/v1", "StatefulSet", CONTROL, "spire-server");
        self.until(|store| {
            let set = store.get(&set)?;
            let status = &set["status"];
            let rolled = is_observed(&set)
                && status["currentRevision"] == status["updateRevision"]
                && status["readyReplicas"] == 3;
            (rolled && servers(store).iter().all(|pod| is_of(pod, version))).then_some(())
        })
        .await;
    }

    /// Waits until the rollout of the agents is over, and the agent is of that version.
    pub(super) async fn agents_at(&self, version: &str) {
        let set = Key::new("apps/v1", "DaemonSet", "spire-system", "spire-agent");
        self.until(|store| {
            let set = store.get(&set)?;
            let status = &set["status"];
            let rolled = is_observed(&set) && status["updatedNumberScheduled"] == 1 && status["numberReady"] == 1;
            let pods = store.list("v1", "Pod", Some("spire-system"));
            let agents: Vec<&Value> =
                pods.iter().filter(|pod| text(pod, "/metadata/name").starts_with("spire-agent")).collect();
            (rolled && agents.len() == 1 && is_of(agents[0], version)).then_some(())
        })
        .await;
    }

    pub(super) async fn hop(&self, version: &str) {
        self.to(version, version).await.unwrap();
        self.servers_at(version).await;
        self.agents_at(version).await;
    }

    async fn psql(&self, query: &str) -> String {
        let argv = ["psql", "-U", "spire", "-tAc", query];
        self.says(&kubectl::exec(&self.target(), CONTROL, "spire-db-0", "postgres", argv)).await
    }

    async fn migrations(&self) -> String {
        self.psql("select version, code_version from migrations").await
    }

    /// The ids of the bundle's authorities.
    pub(super) async fn authorities(&self) -> Vec<String> {
        let argv = ["spire-server", "bundle", "show", "-output", "json"];
        let bundle = self.says(&kubectl::exec(&self.target(), CONTROL, "spire-server-0", CONTROL, argv)).await;
        let bundle: crate::spire::cli::Bundle = serde_json::from_str(&bundle).unwrap();
        bundle.x509_authorities.iter().map(|authority| authority.key_id().unwrap()).collect()
    }

    fn log(&self, namespace: &str, pod: &str, container: &str) -> String {
        let lines = self.store().logs(&Key::pod(namespace, pod), container, false).unwrap_or_default();
        lines.into_iter().map(|(_, line)| line + "\n").collect()
    }

    /// Waits until a pod's first container is in back-off after a crash; what it wrote.
    async fn until_crashed(&self, namespace: &str, pod: &str) -> String {
        let key = Key::pod(namespace, pod);
        let waiting = "/status/containerStatuses/0/state/waiting/reason";
        self.until(|store| (text(&store.get(&key)?, waiting) == "CrashLoopBackOff").then_some(())).await;
        let pod = self.store().get(&key).unwrap();
        self.log(namespace, &key.name, text(&pod, "/spec/containers/0/name"))
    }
}

/// The lab's values for a line of the chart.
pub(super) fn values_of(chart: &str, server: &str, agent: &str) -> Value {
    let since = |version: &str| Version::parse(chart).unwrap() >= Version::parse(version).unwrap();
    let mut all = values();
    all["spire-server"]["image"]["tag"] = server.into();
    all["spire-agent"]["image"] = json!({"tag": agent});
    all["spiffe-oidc-discovery-provider"] = json!({"enabled": false});
    let restricted = all["spire-server"]["securityContext"].clone();
    let spire = &mut all["spire-server"];
    spire["tornjak"]["securityContext"] = restricted;
    spire["controllerManager"]["identities"] = json!({"clusterSPIFFEIDs": {"default": {"type": "raw"}}});
    if since("0.24.0") {
        spire["notifier"] = json!({});
        if since("0.26.0") {
            spire["bundlePublisher"] = json!({"k8sConfigMap": {"namespace": "spire-system"}});
        } else {
            spire["notifier"] = json!({"k8sBundle": {"namespace": "spire-system"}});
        }
    }
    all
}

fn is_observed(set: &Value) -> bool {
    set["status"]["observedGeneration"] == set["metadata"]["generation"]
}

fn is_of(pod: &Value, version: &str) -> bool {
    text(pod, "/spec/containers/0/image").ends_with(&format!(":{version}"))
}

fn servers(store: &Store) -> Vec<Value> {
    let mut pods = store.list("v1", "Pod", Some(CONTROL));
    pods.retain(|pod| text(pod, "/metadata/labels/app.kubernetes.io~1component") == "server");
    pods
}

/// How many workloads have received an SVID.
pub(super) fn with_svid(store: &Store) -> usize {
    logs(store).iter().filter(|(_, log)| !updates_in(log).is_empty()).count()
}

/// How the first workload's connection changed, in order.
fn connections(store: &Store) -> Vec<State> {
    let all = logs(store);
    let lines = all[0].1.lines().filter_map(crate::workload::record::parse_line);
    lines.filter_map(|line| if let Line::Connection(change) = line { Some(change.state) } else { None }).collect()
}

#[tokio::test(start_paused = true)]
async fn up_and_down_between_two_minors() {
    let scene = Scene::at_1_7_2(&[], 1).await;
    let before = scene.authorities().await;
    let rolled = Instant::now();
    scene.to("1.8.0", "1.7.2").await.unwrap();
    // Highest ordinal first, one at a time.
    let store = scene.store();
    let version = |ordinal: usize| {
        let pod = store.get(&Key::pod(CONTROL, &format!("spire-server-{ordinal}")));
        pod.is_some_and(|pod| text(&pod, "/spec/containers/0/image").ends_with(":1.8.0") && is_ready(&pod))
    };
    let mut ready = BTreeSet::new();
    let mut ticks = store.ticks();
    while ready.len() < 3 {
        ticks.changed().await.unwrap();
        ready.extend((0..3).filter(|ordinal| version(*ordinal)));
        let expected: BTreeSet<usize> = (3 - ready.len()..3).collect();
        assert_eq!(ready, expected);
    }
    // Facts, section 9: 12 s a server.
    assert!((24..=50).contains(&rolled.elapsed().as_secs()), "{:?}", rolled.elapsed());
    assert_eq!(scene.migrations().await, "23|1.8.0\n");
    assert!(scene.log(CONTROL, "spire-server-2", CONTROL).contains("Running migrations"));
    let agent = scene.agents_at("1.7.2");
    agent.await;
    assert_eq!(connections(&scene.store()), [State::NoIdentity, State::Following], "no agent was touched");

    scene.to("1.8.0", "1.8.0").await.unwrap();
    scene.agents_at("1.8.0").await;
    let after = [State::NoIdentity, State::Following, State::Lost, State::Unreachable, State::Following];
    assert_eq!(connections(&scene.store()), after);
    let updates = updates_in(&logs(&scene.store())[0].1);
    assert!(updates.len() == 2 && updates[0].serial != updates[1].serial && updates[1].verified == Some(true));
    // The first SVID was valid all the time.
    assert!(updates[0].is_valid_at(updates[1].received_at.unwrap()));

    scene.to("1.8.0", "1.7.2").await.unwrap();
    scene.agents_at("1.7.2").await;
    scene.to("1.7.2", "1.7.2").await.unwrap();
    scene.servers_at("1.7.2").await;
    assert_eq!(scene.migrations().await, "23|1.8.0\n", "the code version is never lowered");
    let log = scene.log(CONTROL, "spire-server-0", CONTROL);
    assert!(
        log.contains("level=warning msg=\"DB schema is ahead of code version") && log.contains("version_info=1.8.0"),
        "{log}"
    );
    assert_eq!(scene.authorities().await, before);
}

/// Facts, section 9: "An illegal downgrade looks like success" and "Going back does not heal it".
#[tokio::test(start_paused = true)]
async fn a_broken_server_of_the_wrong_revision_stays_until_it_is_deleted() {
    let scene = Scene::at_1_7_2(&[], 1).await;
    for version in ["1.8.0", "1.9.0"] {
        scene.hop(version).await;
    }
    let output = scene.to("1.7.2", "1.9.0").await.unwrap();
    assert!(output.stdout.contains("STATUS: deployed"), "{}", output.stdout);
    let log = scene.until_crashed(CONTROL, "spire-server-2").await;
    for words in [
        "Incompatible DB schema is too new for code version, upgrade SPIRE Server\" schema=23 subsystem_name=sql version_info=1.9.0",
        "Fatal run error\" error=\"datastore-sql: incompatible DB schema and code version\"",
    ] {
        assert!(log.contains(words), "{log}");
    }
    let broken = Key::pod(CONTROL, "spire-server-2");
    let restarts =
        |store: &Store| store.get(&broken).map(|pod| pod["status"]["containerStatuses"][0]["restartCount"].clone());
    scene.until(|store| (restarts(store)? == 2).then_some(())).await;
    assert_eq!(servers(&scene.store()).iter().filter(|pod| is_ready(pod)).count(), 2);

    scene.to("1.9.0", "1.9.0").await.unwrap();
    sleep(Duration::from_secs(600)).await;
    let set = scene.store().get(&Key::new("apps/v1", "StatefulSet", CONTROL, "spire-server")).unwrap();
    assert_eq!((&set["status"]["updatedReplicas"], &set["status"]["readyReplicas"]), (&json!(2), &json!(2)));
    let healed = Instant::now();
    scene.store().delete(&broken, Propagation::Background);
    scene.servers_at("1.9.0").await;
    assert!(healed.elapsed() <= Duration::from_secs(20), "{:?}", healed.elapsed());
}

/// Facts, section 9: "A jump over 1.9 makes new CAs in silence".
#[tokio::test(start_paused = true)]
async fn authorities_survive_the_way_that_knows_both_journals() {
    let scene = Scene::at_1_7_2(&[], 0).await;
    let before = scene.authorities().await;
    assert_eq!(before.len(), 3);
    for version in ["1.8.0", "1.9.0", "1.10.0", "1.11.0"] {
        scene.hop(version).await;
        assert_eq!(scene.authorities().await, before, "{version}");
    }
    for version in ["1.10.0", "1.9.0", "1.8.0"] {
        scene.hop(version).await;
        assert_eq!(scene.authorities().await, before, "{version}");
    }
    // The database is at 23 now, and so nothing stops this one.
    scene.hop("1.11.0").await;
    assert_eq!(scene.authorities().await, before, "1.9 had left a journal in the database");

    let scene = Scene::at_1_7_2(&[], 0).await;
    scene.hop("1.8.0").await;
    scene.hop("1.11.3").await;
    let after = scene.authorities().await;
    assert!(after.len() == 6 && after.starts_with(&scene_authorities(&after)), "{after:?}");
    let show = ["spire-server", "localauthority", "x509", "show", "-output", "json"];
    let own = scene.says(&kubectl::exec(&scene.target(), CONTROL, "spire-server-1", CONTROL, show)).await;
    let own: crate::spire::cli::LocalAuthorities = serde_json::from_str(&own).unwrap();
    assert!(after[3..].contains(&own.active.authority_id));
}

/// The first three.
fn scene_authorities(all: &[String]) -> Vec<String> {
    all[..3].to_vec()
}

#[tokio::test(start_paused = true)]
async fn servers_that_skip_the_oldest_schema_refuse() {
    let scene = Scene::at_1_7_2(&[], 0).await;
    scene.to("1.11.0", "1.7.2").await.unwrap();
    let log = scene.until_crashed(CONTROL, "spire-server-2").await;
    assert!(log.contains("migrating from schema version 22 requires a previous SPIRE release"), "{log}");
    assert_eq!(scene.migrations().await, "22|1.7.2\n");
}

#[tokio::test(start_paused = true)]
async fn versions_that_were_never_published_cannot_be_pulled() {
    let scene = Scene::at_1_7_2(&[], 0).await;
    scene.to("1.7.7", "1.7.2").await.unwrap();
    let key = Key::pod(CONTROL, "spire-server-2");
    let waiting = "/status/containerStatuses/0/state/waiting/message";
    let words =
        scene.until(|store| Some(text(&store.get(&key)?, waiting).to_owned()).filter(|words| !words.is_empty()));
    assert!(words.await.contains("spire-server:1.7.7: not found"));
}

#[tokio::test(start_paused = true)]
async fn a_dump_takes_the_database_back() {
    let scene = Scene::at_1_7_2(&[], 1).await;
    let before = scene.authorities().await;
    let sh = |script: &str| kubectl::exec(&scene.target(), CONTROL, "spire-db-0", "postgres", ["sh", "-c", script]);
    let dump = scene.says(&sh("pg_dump --clean --if-exists -U \"$POSTGRES_USER\" -d \"$POSTGRES_DB\"")).await;
    assert!(dump.contains("COPY public.migrations") && dump.contains("\t22\t1.7.2\n\\."), "{dump}");
    for version in ["1.8.0", "1.9.0"] {
        scene.hop(version).await;
    }
    let set = Key::new("apps/v1", "StatefulSet", CONTROL, "spire-server");
    scene.store().update(&set, |set| set["spec"]["replicas"] = 0.into());
    scene.until(|store| servers(store).is_empty().then_some(())).await;
    let claims = scene.store().list("v1", "PersistentVolumeClaim", Some(CONTROL)).len();
    assert_eq!(claims, 4, "claims stay");
    let restore = |input: &str| {
        let argv = ["sh", "-c", "psql --quiet -v ON_ERROR_STOP=1"];
        kubectl::exec_with_input(&scene.target(), CONTROL, "spire-db-0", "postgres", argv, input.as_bytes().to_vec())
    };
    assert!(scene.fails(&restore(&dump[..dump.len() / 2])).await.contains("ERROR"));
    assert_eq!(scene.says(&restore(&dump)).await, "");
    assert_eq!(scene.migrations().await, "22|1.7.2\n");
    scene.to("1.7.2", "1.7.2").await.unwrap();
    scene.servers_at("1.7.2").await;
    assert_eq!(scene.authorities().await, before);
}

#[tokio::test(start_paused = true)]
async fn short_lives_show_renewals_and_authorities_that_rotate() {
    let scene = Scene::at_1_7_2(&[], 1).await;
    let lives = json!({"spire-server": {"defaultX509SvidTTL": "5m", "caTTL": "1h"}});
    scene.upgrade("0.13.0", "1.7.2", "1.7.2", lives).await.unwrap();
    scene.servers_at("1.7.2").await;
    let before = scene.authorities().await;
    assert_eq!(before.len(), 3, "a known authority lives on as it was made");
    // The SVID of before lives four hours; the agent does not look at the new setting until it renews it.
    sleep(Duration::from_secs(2 * 3600)).await;
    let told = updates_in(&logs(&scene.store())[0].1);
    let short = |update: &crate::workload::Update| update.not_after.duration_since(update.not_before).as_secs() <= 310;
    let first = told.iter().position(short).unwrap_or(told.len());
    sleep(Duration::from_secs(1800)).await;
    let updates = updates_in(&logs(&scene.store())[0].1);
    assert!(updates.len() >= first + 10, "{} of {first}", updates.len());
    for pair in updates[first..].windows(2) {
        let apart = pair[1].received_at.unwrap().duration_since(pair[0].received_at.unwrap()).as_secs();
        assert!(apart <= 150 && pair[0].is_valid_at(pair[1].received_at.unwrap()), "{apart}");
    }
    // At half of its day each server prepares the next authority; it has an hour, and is replaced from then on.
    sleep(Duration::from_secs(11 * 3600)).await;
    assert!(scene.authorities().await.len() >= 6);
    sleep(Duration::from_secs(12 * 3600)).await;
    let last = updates_in(&logs(&scene.store())[0].1).pop().unwrap();
    assert!(last.is_valid_at(scene.store().now()) && last.verified == Some(true));
    assert!(!before.contains(last.issuer_key_id.as_ref().unwrap()));
}

#[tokio::test(start_paused = true)]
async fn a_probe_gets_an_identity_wherever_a_workload_does() {
    let scene = Scene::at_1_7_2(&[], 1).await;
    let mut probe = scene.store().list("v1", "Pod", Some("default")).remove(0);
    probe = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probe", "namespace": "default"},
        "spec": {"serviceAccountName": "workload", "restartPolicy": "Never", "containers": probe["spec"]["containers"], "volumes": probe["spec"]["volumes"],
            "nodeName": "kind-worker"}});
    scene.apply(&probe);
    let key = Key::pod("default", "probe");
    let begun = Instant::now();
    scene.until(|store| (!updates_in(&log_of(store, &key)).is_empty()).then_some(())).await;
    assert!((6..=9).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    assert_eq!(text(&scene.store().get(&key).unwrap(), "/status/phase"), "Running");
    scene.store().delete(&key, Propagation::Background);
    scene.until(|store| store.get(&key).is_none().then_some(())).await;
}

fn log_of(store: &Store, key: &Key) -> String {
    store.logs(key, "workload", false).unwrap_or_default().into_iter().map(|(_, line)| line + "\n").collect()
}

#[tokio::test(start_paused = true)]
async fn faults_may_be_about_one_version() {
    let scene = Scene::at_1_7_2(&["server-crash-loop=1.8.0", "agent-never-ready=1.8.1"], 1).await;
    scene.to("1.8.0", "1.7.2").await.unwrap();
    assert!(scene.until_crashed(CONTROL, "spire-server-2").await.contains("unable to load X509 CA"));
    assert_eq!(servers(&scene.store()).iter().filter(|pod| is_ready(pod)).count(), 2);
    scene.to("1.8.1", "1.7.2").await.unwrap();
    scene.store().delete(&Key::pod(CONTROL, "spire-server-2"), Propagation::Background);
    scene.servers_at("1.8.1").await;
    scene.to("1.8.1", "1.8.1").await.unwrap();
    let agent = scene.until(|store| {
        let pods = store.list("v1", "Pod", Some("spire-system"));
        pods.into_iter().find(|pod| text(pod, "/spec/containers/0/image").ends_with("spire-agent:1.8.1"))
    });
    let agent = text(&agent.await, "/metadata/name").to_owned();
    assert!(scene.until_crashed("spire-system", &agent).await.contains("token not authenticated"));
    assert_eq!(connections(&scene.store()).last(), Some(&State::Unreachable));
}

#[tokio::test(start_paused = true)]
async fn without_the_database_servers_serve_nobody_new() {
    let scene = Scene::at_1_7_2(&[], 1).await;
    scene.rehearsal.inject(Fault::DatabaseUnreachable);
    let health = kubectl::exec(&scene.target(), CONTROL, "spire-server-0", CONTROL, ["spire-server", "healthcheck"]);
    assert!(scene.fails(&health).await.contains("unhealthy"));
    let dump = kubectl::exec(&scene.target(), CONTROL, "spire-db-0", "postgres", ["pg_dump", "-U", "spire", "spire"]);
    assert!(scene.fails(&dump).await.contains("pg_dump: error: connection to server"));
    scene.to("1.8.0", "1.7.2").await.unwrap();
    scene.until(|store| servers(store).iter().all(|pod| !is_ready(pod)).then_some(())).await;
    assert_eq!(connections(&scene.store()).last(), Some(&State::Following), "agents serve on");
    scene.rehearsal.cure("database-unreachable");
    scene.servers_at("1.8.0").await;
}

#[tokio::test(start_paused = true)]
async fn a_helm_that_dies_leaves_a_pending_release_and_half_the_change() {
    let scene = Scene::at_1_7_2(&["helm-dies-in=upgrade"], 0).await;
    assert!(matches!(scene.to("1.8.0", "1.7.2").await, Err(CommandError::Signal { signal: 9, .. })));
    let listed = helm::parse_list(&scene.run(&scene.helm().list("default")).await.unwrap()).unwrap();
    assert!(listed[0].status.is_pending() && listed[0].revision == 2);
    assert!(helm::is_operation_in_progress(&scene.to("1.8.0", "1.7.2").await.unwrap_err()));
    scene.store().delete(&Key::new("v1", "Secret", "default", "sh.helm.release.v1.spire.v2"), Propagation::Background);
    scene.to("1.8.0", "1.7.2").await.unwrap();
    scene.servers_at("1.8.0").await;
}

#[tokio::test(start_paused = true)]
async fn somebody_else_may_change_the_release_in_between() {
    let scene = Scene::at_1_7_2(&["foreign-upgrade"], 0).await;
    scene.to("1.8.0", "1.7.2").await.unwrap();
    sleep(Duration::from_secs(20)).await;
    let listed = helm::parse_list(&scene.run(&scene.helm().list("default")).await.unwrap()).unwrap();
    assert_eq!((listed[0].revision, listed[0].status), (3, helm::ReleaseStatus::Deployed));
    let values = helm::parse_values(&scene.run(&scene.helm().get_values("spire", "default")).await.unwrap()).unwrap();
    assert_eq!(values["spire-server"]["image"]["tag"], "1.7.2");
    scene.servers_at("1.7.2").await;
    scene.rehearsal.inject(Fault::parse("foreign-upgrade=1.8.2").unwrap());
    scene.to("1.8.0", "1.7.2").await.unwrap();
    scene.servers_at("1.8.2").await;
    scene.agents_at("1.8.2").await;
}
