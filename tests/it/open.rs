//! Pages of the lab on this machine: forwards through the API server, with the whole program and with its parts.
//!
//! Sockets are real here, so these tests run in real time and wait for what happens, never for how long it takes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener as StdListener, TcpStream};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coastal::config;
use coastal::kube::{Cluster, Destination, Link};
use coastal::plan::{self, Goal};
use coastal::rehearsal::store::{Key, Store};
use coastal::rehearsal::{Options, Rehearsal};
use coastal::session::{Paths, Session};
use coastal::tools::ports::{self, Wish};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use crate::support::TestLab;

/// The end of everything that should not hang. Nothing below takes a noticeable part of it.
const HANGS: Duration = Duration::from_secs(60);

/// A pod that listens on port 3000 as Grafana.
fn pod(store: &Store, name: &str, ready: bool) {
    let status = if ready { "True" } else { "False" };
    store.upsert(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app.kubernetes.io/name": "grafana"}},
        "spec": {"containers": [{"name": "grafana", "image": "grafana", "ports": [{"containerPort": 3000}]}]},
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": status}, {"type": "ContainersReady", "status": status}],
        },
    }));
}

fn store() -> Store {
    let store = Store::new(jiff::Timestamp::now);
    store.upsert(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}}));
    store
}

fn destination(port: u16) -> Destination {
    Destination { namespace: "default".into(), selector: "app.kubernetes.io/name=grafana".into(), port }
}

/// A forward that runs until it is dropped.
struct Running {
    port: u16,
    links: Arc<Mutex<Vec<Link>>>,
    cancel: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), coastal::error::Failure>>,
}

async fn forward(store: &Store, to: Destination) -> Running {
    let taken = ports::take(Wish::Exactly(0)).await.unwrap();
    let (port, cancel, links) = (taken.port, CancellationToken::new(), Arc::new(Mutex::new(Vec::new())));
    let cluster = Cluster::new(coastal::rehearsal::api::client(store));
    let (stop, heard) = (cancel.clone(), Arc::clone(&links));
    let task = tokio::spawn(async move {
        let tell = move |link: &Link| heard.lock().unwrap().push(link.clone());
        cluster.forward(&to, taken.listeners, &stop, &tell).await
    });
    Running { port, links, cancel, task }
}

/// The whole answer to one request on a connection of its own.
async fn get(port: u16, path: &str) -> String {
    let asking = async {
        let mut stream = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    tokio::time::timeout(HANGS, asking).await.expect("an answer")
}

#[tokio::test]
async fn requests_side_by_side_all_get_their_answer() {
    let store = store();
    pod(&store, "one", true);
    let running = forward(&store, destination(3000)).await;
    let answers = futures::future::join_all((0..200).map(|_| get(running.port, "/api/health"))).await;
    assert!(answers.iter().all(|answer| answer.starts_with("HTTP/1.1 200") && answer.contains("10.1.5")));
    running.cancel.cancel();
    running.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_connection_is_held_until_the_next_pod_is_ready() {
    let store = store();
    pod(&store, "one", true);
    let running = forward(&store, destination(3000)).await;
    assert!(get(running.port, "/login").await.contains("default/one"));
    // The pod goes, another comes and is not ready yet: a request waits, and is answered by the new one.
    store.remove(&Key::pod("default", "one"));
    pod(&store, "two", false);
    let asked = tokio::spawn(get(running.port, "/login"));
    while !running.links.lock().unwrap().iter().any(|link| matches!(link, Link::Waiting(why) if why.contains("two"))) {
        tokio::task::yield_now().await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!asked.is_finished());
    pod(&store, "two", true);
    assert!(asked.await.unwrap().contains("default/two"));
    let links = running.links.lock().unwrap().clone();
    assert_eq!(links.last(), Some(&Link::Through("two".into())), "{links:?}");
}

#[tokio::test]
async fn a_stream_ends_with_its_pod_and_ctrl_c_ends_everything() {
    let store = store();
    pod(&store, "one", true);
    let running = forward(&store, destination(3000)).await;
    let mut idle = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, running.port)).await.unwrap();
    idle.write_all(b"GET /api/health HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut piece = [0; 1024];
    assert!(idle.read(&mut piece).await.unwrap() > 0);
    store.remove(&Key::pod("default", "one"));
    // Kept alive by the program, closed by the end of the pod.
    let closed = tokio::time::timeout(HANGS, idle.read(&mut piece)).await.expect("closed");
    assert!(matches!(closed, Ok(0) | Err(_)));
    running.cancel.cancel();
    tokio::time::timeout(HANGS, running.task).await.expect("ended").unwrap().unwrap();
    assert!(tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, running.port)).await.is_err());
}

#[tokio::test]
async fn what_does_not_listen_in_the_pod_is_said_and_not_waited_for_by_questions() {
    let store = store();
    pod(&store, "one", true);
    let cluster = Cluster::new(coastal::rehearsal::api::client(&store));
    let (status, body) = cluster.http_get(&destination(3000), "/api/health", HANGS).await.unwrap();
    assert_eq!(
        (status.as_u16(), serde_json::from_slice::<Value>(&body).unwrap()["database"].clone()),
        (200, json!("ok"))
    );
    let failure = cluster.http_get(&destination(4000), "/", HANGS).await.unwrap_err();
    assert!(failure.message.starts_with("one does not answer on port 4000"), "{failure}");
    store.remove(&Key::pod("default", "one"));
    let failure = cluster.http_get(&destination(3000), "/", HANGS).await.unwrap_err();
    assert!(failure.message.starts_with("there is no pod in namespace default"), "{failure}");
}

/// Reads the lines that a started `coastal` writes until one contains `text`.
fn until(lines: &mut impl BufRead, text: &str) -> String {
    let mut all = String::new();
    while lines.read_line(&mut all).unwrap() > 0 {
        if all.lines().last().is_some_and(|line| line.contains(text)) {
            return all;
        }
    }
    panic!("no line with {text:?} in {all}");
}

fn end(child: &mut std::process::Child) -> Option<i32> {
    let pid = i32::try_from(child.id()).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGINT).unwrap();
    child.wait().unwrap().code()
}

fn page(port: u16) -> String {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.set_read_timeout(Some(HANGS)).unwrap();
    stream.write_all(b"GET /login HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_page_is_opened_with_its_login_until_ctrl_c() {
    let lab = TestLab::new();
    let mut child = lab.start("rehearse --output json open grafana --port 0 --browser", Stdio::piped());
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let said = until(&mut out, "\"opened\"");
    let opened: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!(opened["login"], json!({"user": "admin", "password": "prom-operator"}));
    let url = opened["url"].as_str().unwrap();
    let port: u16 = url.strip_prefix("http://localhost:").unwrap().parse().unwrap();
    assert!(page(port).contains("Grafana (rehearsal)"));
    assert_eq!(end(&mut child), Some(0));
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert!(err.contains(&format!("the browser would be opened at {url}")), "{err}");
}

#[test]
fn a_usual_port_that_is_taken_is_left_to_its_holder() {
    let Ok(_theirs) = StdListener::bind((Ipv4Addr::LOCALHOST, 9090)) else { return };
    let lab = TestLab::new();
    let mut child = lab.start("rehearse open prometheus", Stdio::piped());
    let mut err = BufReader::new(child.stderr.take().unwrap());
    let said = until(&mut err, "through prometheus-");
    assert!(said.contains("prometheus: port 9090 is taken by "), "{said}");
    assert_eq!(end(&mut child), Some(0));
}

#[test]
fn a_port_that_was_asked_for_or_that_tornjaks_page_needs_is_that_port_or_none() {
    let theirs = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = theirs.local_addr().unwrap().port();
    let lab = TestLab::new();
    lab.coastal(&format!("rehearse open grafana --port {port}"))
        .ends(4)
        .says(&format!("port {port} is taken by "))
        .says("or leave out `--port`");
    // Whoever has 10000, this test or somebody else, it is not ours.
    let _theirs = StdListener::bind((Ipv4Addr::LOCALHOST, 10000));
    lab.coastal("rehearse open tornjak --port 0")
        .ends(4)
        .says("port 10000 is taken by ")
        .says("Tornjak's page asks for localhost:10000 from inside the browser");
}

#[test]
fn what_is_not_there_cannot_be_opened() {
    let lab = TestLab::new();
    lab.write("lab.toml", "schema = 1\n[monitoring]\nenabled = false\n[spire]\ntornjak = false\n");
    for page in ["grafana", "prometheus", "tornjak"] {
        lab.coastal(&format!("rehearse open {page}")).ends(4).says(&format!("this lab has no {page}"));
    }
    lab.coastal("rehearse metrics").ends(4).says("this lab has no prometheus");
    let lab = TestLab::new();
    lab.rehearse("cluster-up").ok();
    lab.rehearse("open prometheus")
        .ends(4)
        .says("prometheus is not installed")
        .says("`coastal prometheus-install` brings it");
    lab.rehearse("metrics").ends(4).says("Prometheus is not installed").says("`coastal prometheus-install` brings it");
    lab.coastal("open").ends(2);
    lab.coastal("open grafana --all").ends(2);
}

#[test]
fn access_says_where_everything_is() {
    let lab = TestLab::new();
    let document: Value = serde_json::from_str(&lab.coastal("rehearse --output json access").ok().out).unwrap();
    let pages = document["pages"].as_array().unwrap();
    let urls: Vec<&str> = pages.iter().map(|page| page["url"].as_str().unwrap()).collect();
    assert_eq!(urls, ["http://localhost:8081", "http://localhost:9090", "http://localhost:3000"]);
    assert_eq!(pages[0]["login"]["user"], "admin");
    assert!(pages.iter().all(|page| page["pod"].is_string() && page.get("troubles").is_none()));
}

#[test]
fn metrics_prove_that_prometheus_sees_every_server_and_agent() {
    let lab = TestLab::new();
    let document: Value = serde_json::from_str(&lab.coastal("rehearse --output json metrics").ok().out).unwrap();
    let targets = document["targets"].as_array().unwrap();
    let of = |monitor: &str| targets.iter().filter(|target| target["monitor"] == monitor).count();
    assert!(of("spire-server/spire-server") >= 3 && of("spire-system/spire-agent") >= 1, "{targets:?}");
    assert!(targets.iter().all(|target| target["up"] == true));
    let lifetime =
        &document["panels"].as_array().unwrap().iter().find(|panel| panel["id"] == "ca-lifetime").unwrap()["series"];
    assert_eq!(lifetime.as_array().unwrap().len(), 3, "one for each server");
    // Without its monitors Prometheus is blind, and that is a failed check.
    lab.rehearse("up").ok();
    lab.rehearse("prometheus-uninstall").ok();
    lab.rehearse("prometheus-install").ok();
    lab.rehearse("metrics").ends(8).says("no target in spire-server").says("coastal patch-monitors");
    lab.rehearse("patch-monitors").ok();
    lab.rehearse("metrics").ok().says("X.509 CA: lifetime when activated");
}

/// A lab in the rehearsal, reached as the program's parts reach it.
async fn lab_that_is_up() -> (Rehearsal, Arc<Session>, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let rehearsal = Rehearsal::new(Options::default()).unwrap();
    let lab = config::embedded().unwrap();
    let paths = Paths::new(directory.path().join("state"));
    coastal::files::private_dir(paths.state()).unwrap();
    let session = Session::new(lab.clone(), rehearsal.world(), paths);
    let info = coastal::engine::RunInfo {
        run: "up".into(),
        command: "up".into(),
        coastal: "0".into(),
        next_ok: Vec::new(),
        resume: None,
    };
    let silence: Arc<dyn coastal::engine::Sink> = Arc::new(coastal::engine::Tee(Vec::new()));
    let emitter = coastal::engine::Emitter::new(Arc::clone(&session.world.clock), silence);
    let plan = plan::build(&lab, Goal::Up, None);
    let cancel = CancellationToken::new();
    let result = coastal::engine::execute(&plan, &info, &coastal::steps::body, &session, &emitter, &cancel).await;
    assert_eq!(result.code(), coastal::error::ExitCode::Ok, "{result:?}");
    (rehearsal, session, directory)
}

#[tokio::test(start_paused = true)]
async fn a_login_that_is_missing_is_one_sentence() {
    let (rehearsal, session, _directory) = lab_that_is_up().await;
    let cancel = CancellationToken::new();
    let cx = coastal::observe::looking(&session, &cancel);
    let cluster = coastal::steps::reach::cluster(&cx).await.unwrap();
    let store = rehearsal.store("kind").unwrap();
    let key = Key::new("v1", "Secret", "default", "prometheus-grafana");
    let page = coastal::steps::access::Page::Grafana;
    store.update(&key, |secret| secret["data"] = json!({"admin-user": "YQ=="})).unwrap();
    let failure = coastal::steps::access::login(&cluster, &session.lab, page).await.unwrap_err();
    assert!(failure.message.ends_with("has no text under `admin-password`"), "{failure}");
    assert!(store.remove(&key));
    let failure = coastal::steps::access::login(&cluster, &session.lab, page).await.unwrap_err();
    assert!(failure.message.starts_with("Grafana's login is not known: there is no Secret"), "{failure}");
}

#[tokio::test(start_paused = true)]
async fn a_bundle_holds_no_secret_wherever_it_was_planted() {
    const SECRET: &str = "Pl4nted-hunter2";
    let (rehearsal, session, directory) = lab_that_is_up().await;
    let store = rehearsal.store("kind").unwrap();
    let encoded = base64_of(SECRET);
    // In a Secret, and from there in everything that somebody may have copied it to.
    store.upsert(json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "planted", "namespace": "default"},
        "type": "Opaque", "data": {"anything": encoded, "username": base64_of("spire")},
    }));
    store.upsert(json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "planted", "namespace": "spire-server"},
        "data": {"a": format!("connection = \"host=db password={SECRET}\""), "b": encoded,
                 "c": "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIPlantedKey\n-----END EC PRIVATE KEY-----\n"},
    }));
    store.append_log("spire-server", "spire-server-0", "spire-server", &format!("level=debug msg=\"login {SECRET}\""));
    store.append_log(
        "spire-server",
        "spire-server-0",
        "spire-server",
        "token=eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJ4In0.cGxhbnRlZA",
    );
    store.update(&Key::pod("spire-server", "spire-db-0"), |pod| {
        pod["metadata"]["annotations"] = json!({"note": SECRET, "api-token": "Unkn0wn-to-any-Secret"});
    });
    let run = session.paths.runs().join("20260821T143000.000Z-up");
    std::fs::create_dir_all(&run).unwrap();
    std::fs::write(
        run.join("events.jsonl"),
        format!("{{\"line\":\"PGPASSWORD={SECRET} {encoded}\"}}\nnot json {SECRET}\n"),
    )
    .unwrap();
    let cancel = CancellationToken::new();
    let cx = coastal::observe::looking(&session, &cancel);
    let bundle = coastal::steps::bundle::collect(&cx).await.unwrap();
    assert_eq!(bundle.missing, Vec::<String>::new());
    let file = directory.path().join("bundle.tar.gz");
    bundle.write(&file).unwrap();
    let mut text = String::new();
    let mut names = Vec::new();
    for entry in tar::Archive::new(flate2::read::GzDecoder::new(std::fs::File::open(&file).unwrap())).entries().unwrap()
    {
        let mut entry = entry.unwrap();
        names.push(entry.path().unwrap().display().to_string());
        entry.read_to_string(&mut text).unwrap();
    }
    for planted in [SECRET, &encoded, "PlantedKey", "cGxhbnRlZA", "Unkn0wn-to-any-Secret", "prom-operator"] {
        assert!(!text.contains(planted), "{planted} is in the bundle");
    }
    assert!(text.contains("planted (Opaque): anything, username"), "the Secret's keys are named");
    for wanted in [
        "lab.toml",
        "status.json",
        "runs/20260821T143000.000Z-up.jsonl",
        "cluster/spire-server/logs/spire-server-0.spire-server.log",
        "cluster/default/events.txt",
    ] {
        assert!(names.contains(&format!("coastal-bundle/{wanted}")), "{wanted} in {names:?}");
    }
}

fn base64_of(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}
