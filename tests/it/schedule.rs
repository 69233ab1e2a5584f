//! `backup --schedule`: what it prints and applies, and that the job's account may do what a backup does and no more.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use coastal::backup::Seal;
use coastal::config::{Lab, Provider};
use coastal::engine::{self, Emitter, Event, RunInfo, Sink, What};
use coastal::error::Failure;
use coastal::plan::{Backing, Goal, Schedule};
use coastal::session::Session;
use coastal::steps;
use coastal::world::{Connector, World};
use kube::core::DynamicObject;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::rehearsed::Stage;
use crate::support::TestLab;

const RECIPIENT: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";

fn kinds(objects: &[Value]) -> Vec<&str> {
    objects.iter().map(|object| object["kind"].as_str().unwrap()).collect()
}

#[test]
fn it_prints_what_it_applies_and_a_second_time_changes_nothing() {
    let lab = TestLab::new();
    let schedule = ["backup", "--schedule", "0 */6 * * *", "--recipient", RECIPIENT, "--image", "r/coastal:1"];
    let words = |more: &[&str]| {
        let world = lab.world().display().to_string();
        let all = [&["rehearse", "--world", &world], &schedule[..], more].concat();
        lab.coastal_with(&all)
    };
    let printed = words(&[]).ok();
    let objects: Vec<Value> = printed.out.split("---\n").map(|text| serde_yaml::from_str(text).unwrap()).collect();
    let document: Value = serde_json::from_str(&words(&["--output", "json"]).ok().out).unwrap();
    assert_eq!(document["objects"], json!(objects));
    assert_eq!(kinds(&objects).last(), Some(&"CronJob"));
    for object in &objects {
        assert_eq!(object["metadata"]["labels"]["coastal-containers.example/lab"], "day-two", "{object:#}");
    }

    words(&["--apply", "--dry-run"]).ok().says("backup-schedule");
    let first = words(&["--apply", "--output", "json"]).ok().result();
    assert_eq!(first["changed"], json!(["backup-schedule"]));
    let again = words(&["--apply", "--output", "json"]).ok().result();
    assert_eq!(again["changed"], json!([]));
    let other = words(&["--apply", "--output", "json", "--keep", "3"]).ok().result();
    assert_eq!(other["changed"], json!(["backup-schedule"]));
}

#[test]
fn what_cannot_be_scheduled_says_why() {
    let lab = TestLab::new();
    lab.rehearse("up").ok();
    let try_it = |words: &[&str]| {
        let world = lab.world().display().to_string();
        lab.coastal_with(&[&["rehearse", "--world", &world, "backup"], words].concat())
    };
    try_it(&["--schedule", "0 25 * * *", "--recipient", RECIPIENT]).ends(2).says("the hour `25`: 25 is not in 0-23");
    try_it(&["--schedule", "@daily"]).ends(2).says("nothing says who may open it").says("recipients only");
    try_it(&["--schedule", "@daily", "--recipient", "age1x"]).ends(2).says("is no recipient of age's");
    try_it(&["--schedule", "@daily", "--passphrase-file", "p"]).ends(2).says("cannot be used with");
    try_it(&["--schedule", "@daily", "--plaintext", "--image", "a b"]).ends(2).says("`a b` is no image");
    let bare = TestLab::new();
    bare.rehearse("cluster-up").ok();
    let world = bare.world().display().to_string();
    let early = ["--schedule", "0 3 * * *", "--plaintext", "--image", "i:1", "--apply"];
    let failed = bare.coastal_with(&[&["rehearse", "--world", &world, "backup"], &early[..]].concat()).ends(4);
    failed.says("coastal namespaces").says("--schedule '0 3 * * *'");
    try_it(&["--apply"]).ends(2).says("--schedule");
    try_it(&["--schedule", "@daily", "--plaintext"]).ok().says("the archives are not encrypted").says("--plaintext");
    // The workload's image as it is built without more.
    let failed = try_it(&["--schedule", "@daily", "--recipient", RECIPIENT, "--apply"]).ends(4);
    failed.says("cannot take backups: kubectl and helm are not in it").says("build-load-image --with-tools");
    let missing = "--fault tool-missing=kubectl build-load-image --with-tools";
    lab.coastal(&format!("rehearse {missing}")).ends(4).says("`kubectl` is not on the path");
    // The programs of a rehearsal are no files.
    lab.rehearse("build-load-image --with-tools").ends(4).says("cannot run in the image");
}

/// Something that is asked of the API server: verb, group, resource, and in which namespace.
type Asked = (String, String, String, Option<String>);

/// Passes requests on and remembers what they ask.
struct Listening {
    inner: Arc<dyn Connector>,
    asked: Arc<Mutex<BTreeSet<Asked>>>,
}

#[async_trait]
impl Connector for Listening {
    async fn connect(&self, kubeconfig: &str, context: &str) -> Result<kube::Client, Failure> {
        let (client, asked) = (self.inner.connect(kubeconfig, context).await?, Arc::clone(&self.asked));
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            asked.lock().unwrap().extend(asked_by(request.method().as_str(), request.uri()));
            let client = client.clone();
            async move { client.send(request).await }
        });
        Ok(kube::Client::new(service, "default"))
    }
}

/// What a request asks; discovery is everybody's.
fn asked_by(method: &str, uri: &http::Uri) -> Option<Asked> {
    let steps: Vec<&str> = uri.path().split('/').filter(|step| !step.is_empty()).collect();
    let (group, rest) = match steps.as_slice() {
        ["api", _, rest @ ..] if !rest.is_empty() => ("", rest),
        ["apis", group, _, rest @ ..] if !rest.is_empty() => (*group, rest),
        _ => return None,
    };
    let (namespace, rest) = match rest {
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some((*namespace).to_owned()), rest),
        rest => (None, rest),
    };
    let resource = rest.iter().step_by(2).copied().collect::<Vec<_>>().join("/");
    let watches =
        uri.query().is_some_and(|query| query.split('&').any(|pair| pair == "watch=true" || pair == "watch=1"));
    let verb = match (method, rest.len()) {
        ("GET", _) if watches => "watch",
        ("GET", 1) => "list",
        ("GET", _) => "get",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", 1) => "deletecollection",
        ("DELETE", _) => "delete",
        other => panic!("{other:?}"),
    };
    Some((verb.to_owned(), group.to_owned(), resource, namespace))
}

/// What the tools ask for the command.
fn asked_for(line: &str) -> Vec<Asked> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let namespace = words.iter().position(|word| *word == "--namespace").map(|at| words[at + 1].to_owned());
    let asked = |verb: &str, resource: &str| (verb.to_owned(), String::new(), resource.to_owned(), namespace.clone());
    match words.as_slice() {
        ["kubectl" | "helm", "version", ..] => vec![],
        // By WebSocket, or as it was before.
        ["kubectl", "exec", ..] => vec![asked("get", "pods"), asked("get", "pods/exec"), asked("create", "pods/exec")],
        ["helm", "list" | "get", ..] => vec![asked("get", "secrets"), asked("list", "secrets")],
        _ => panic!("nobody said what `{line}` asks of the API server"),
    }
}

struct Commands(Arc<Mutex<BTreeSet<Asked>>>);

impl Sink for Commands {
    fn take(&self, event: &Event) {
        if let What::CommandStarted { line, .. } = &event.what {
            self.0.lock().unwrap().extend(asked_for(line));
        }
    }
}

/// Everything that the job's account may do.
fn granted(lab: &Lab, objects: &[DynamicObject]) -> BTreeSet<Asked> {
    let kind = |object: &DynamicObject| object.types.as_ref().unwrap().kind.clone();
    let place = |object: &DynamicObject| object.metadata.namespace.clone();
    let account = json!([{"kind": "ServiceAccount", "name": Schedule::NAME, "namespace": Schedule::namespace(lab)}]);
    let mut granted = BTreeSet::new();
    for binding in objects.iter().filter(|object| kind(object).ends_with("RoleBinding")) {
        assert_eq!(binding.data["subjects"], account);
        let role = objects
            .iter()
            .find(|role| {
                binding.data["roleRef"]["kind"] == kind(role)
                    && binding.data["roleRef"]["name"] == json!(role.metadata.name)
                    && place(role) == place(binding)
            })
            .unwrap();
        let texts = |rule: &Value, key: &str| -> Vec<String> { serde_json::from_value(rule[key].clone()).unwrap() };
        for rule in role.data["rules"].as_array().unwrap() {
            for group in texts(rule, "apiGroups") {
                for resource in texts(rule, "resources") {
                    for verb in texts(rule, "verbs") {
                        granted.insert((verb, group.clone(), resource.clone(), place(role)));
                    }
                }
            }
        }
    }
    granted
}

#[tokio::test(start_paused = true)]
async fn the_jobs_account_may_do_what_a_backup_asks_and_nothing_else() {
    let stage = Stage::new().await;
    stage.make(Goal::Up).await;
    let asked = Arc::new(Mutex::new(BTreeSet::new()));
    let world = stage.rehearsal.world();
    let connector = Arc::new(Listening { inner: Arc::clone(&world.connector), asked: Arc::clone(&asked) });
    let world = World { connector, ..world };
    // As in the job: a cluster that is there.
    let mut lab = stage.lab.clone();
    lab.cluster.provider =
        Provider::Existing { kubeconfig: stage.paths.kubeconfig(), context: stage.lab.cluster.context() };
    let to = stage.paths.backups().join("a.tar");
    let backing = Backing { to: to.clone(), seal: Seal::Plaintext, is_ours: true };
    let plan = backing.plan(&lab);
    let session = Session::with_backup(lab.clone(), world, stage.paths.clone(), backing);
    let emitter = Emitter::new(Arc::clone(&session.world.clock), Arc::new(Commands(Arc::clone(&asked))));
    let cancel = CancellationToken::new();
    let result = engine::execute(&plan, &RunInfo::default(), &steps::body, &session, &emitter, &cancel).await;
    assert_eq!(result.outcome, engine::Outcome::Ok, "{:?}", result.failure);
    assert!(to.exists());

    let schedule = Schedule { cron: "@daily".into(), image: "i:1".into(), recipients: vec![RECIPIENT.into()], keep: 1 };
    let granted = granted(&lab, &steps::backup::schedule::objects(&stage.lab, &schedule).unwrap());
    let mut asked = asked.lock().unwrap().clone();
    // Of the three kinds that people make themselves this chart does not bring the third.
    asked.insert(("list".into(), "spire.spiffe.io".into(), "clusterstaticentries".into(), None));
    let (missing, unused): (Vec<_>, Vec<_>) =
        (asked.difference(&granted).collect(), granted.difference(&asked).collect());
    assert!(missing.is_empty() && unused.is_empty(), "missing: {missing:#?}\nof no use: {unused:#?}");
}
