//! The questions, and how they are put.

use std::collections::BTreeMap;

use coastal::spire::names;
use coastal::tools::{Command, CommandError, CommandIo, Target, Tool, docker, helm, kind, kubectl, versions};
use coastal::world::World;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::shape::Shape;
use super::{Answer, Recording};

/// A lab of either world: the names that the questions need.
pub struct Place<'a> {
    /// Where it is.
    pub world: &'a World,
    /// The kind cluster.
    pub cluster: &'a str,
    /// The lab's files.
    pub paths: &'a coastal::session::Paths,
}

/// When a question makes sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// There is no cluster.
    Before,
    /// The whole lab is up.
    Up,
}

impl Stage {
    /// The name of the recording.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Before => "before",
            Stage::Up => "up",
        }
    }
}

/// `select version, code_version …` and `select 1` as the database's steps put them.
const LOGIN: &str =
    r#"PGPASSWORD="$POSTGRES_PASSWORD" psql -h spire-db -U "$POSTGRES_USER" -d "$POSTGRES_DB" -tAc 'select 1'"#;
const MIGRATIONS: &str =
    r#"psql -U "$POSTGRES_USER" -d "$POSTGRES_DB" -tAc 'select version, code_version from migrations'"#;

const SERVER: &str = "/opt/spire/bin/spire-server";
const AGENT: &str = "/opt/spire/bin/spire-agent";

/// What is read from the API server: id, path.
const OBJECTS: [(&str, &str); 20] = [
    ("api nodes", "/api/v1/nodes"),
    ("api namespaces", "/api/v1/namespaces"),
    ("api server pods", "/api/v1/namespaces/spire-server/pods?labelSelector=app.kubernetes.io%2Fcomponent%3Dserver"),
    ("api agent pods", "/api/v1/namespaces/spire-system/pods?labelSelector=app.kubernetes.io%2Fname%3Dagent"),
    ("api workload pods", "/api/v1/namespaces/default/pods?labelSelector=app%3Dworkload"),
    ("api database pod", "/api/v1/namespaces/spire-server/pods/spire-db-0"),
    ("api claims", "/api/v1/namespaces/spire-server/persistentvolumeclaims"),
    ("api servers", "/apis/apps/v1/namespaces/spire-server/statefulsets/spire-server"),
    ("api database", "/apis/apps/v1/namespaces/spire-server/statefulsets/spire-db"),
    ("api agents", "/apis/apps/v1/namespaces/spire-system/daemonsets/spire-agent"),
    ("api csi driver", "/apis/apps/v1/namespaces/spire-system/daemonsets/spire-spiffe-csi-driver"),
    ("api workload", "/apis/apps/v1/namespaces/default/deployments/workload"),
    ("api tornjak", "/apis/apps/v1/namespaces/spire-server/deployments/spire-tornjak-frontend"),
    ("api webhook", "/apis/apps/v1/namespaces/cert-manager/deployments/cert-manager-webhook"),
    ("api envoy", "/apis/apps/v1/namespaces/projectcontour/daemonsets/envoy"),
    ("api issuer", "/apis/cert-manager.io/v1/clusterissuers/selfsigned"),
    ("api crd", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/clusterspiffeids.spire.spiffe.io"),
    ("api monitors", "/apis/monitoring.coreos.com/v1/podmonitors"),
    ("api absent", "/api/v1/namespaces/no-such-namespace"),
    ("api kind that is not served", "/apis/no-such.example/v1/things/one"),
];

/// Members of objects that are part of the shape beside `metadata` and `status`; the rest of a spec is the lab's own
/// text, not an answer.
const SPEC: [&str; 12] = [
    "spec",
    "spec.replicas",
    "spec.selector",
    "spec.providerID",
    "spec.taints",
    "spec.taints[].key",
    "spec.taints[].effect",
    "spec.nodeName",
    "spec.containers",
    "spec.containers[].name",
    "spec.containers[].image",
    "spec.volumes[].csi.driver",
];

impl Place<'_> {
    fn context(&self) -> String {
        format!("kind-{}", self.cluster)
    }

    fn target(&self) -> Target {
        Target { kubeconfig: self.paths.kubeconfig(), context: self.context() }
    }

    fn helm(&self) -> helm::Helm {
        helm::Helm {
            repositories: self.paths.helm_repositories(),
            cache: self.paths.helm_cache(),
            target: self.target(),
        }
    }

    /// Puts every question of the stage.
    pub async fn ask(&self, stage: Stage) -> Recording {
        let mut recording = Recording { versions: self.versions().await, answers: BTreeMap::new() };
        let mut names = self.names();
        let mut commands = self.anywhere();
        if stage == Stage::Up {
            let client = self.client().await;
            recording.versions.insert("kubernetes".into(), kubernetes(&client).await);
            let agent = only_pod(&client, OBJECTS[3].1).await;
            names.insert(0, (agent.clone(), "<agent>".into()));
            commands.extend(self.inside(&agent));
            for (id, path) in OBJECTS {
                recording.answers.insert(id.to_owned(), get(&client, path).await);
            }
        }
        for (id, command) in commands {
            recording.answers.insert(id.to_owned(), self.run(&command, &names).await);
        }
        recording
    }

    /// What a rehearsal or a machine is made of.
    async fn versions(&self) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        for tool in Tool::ALL {
            let output = self.output(&versions::ask(tool)).await;
            let version = output.and_then(|output| versions::read(tool, &output));
            found.insert(
                tool.to_string(),
                version.map_or_else(|error| error.to_string(), |version| version.to_string()),
            );
        }
        found
    }

    fn names(&self) -> Vec<(String, String)> {
        [
            (self.paths.state().display().to_string(), "<state>"),
            (format!("{}-control-plane", self.cluster), "<control-plane>"),
            (format!("{}-worker", self.cluster), "<worker>"),
            (self.context(), "<context>"),
            (format!("--name {}", self.cluster), "--name <cluster>"),
            (format!("cluster={}", self.cluster), "cluster=<cluster>"),
            (format!("\"{}\"", self.cluster), "\"<cluster>\""),
        ]
        .map(|(name, stands_for)| (name, stands_for.to_owned()))
        .to_vec()
    }

    /// Questions that need no cluster, and whose answers tell whether there is one.
    fn anywhere(&self) -> Vec<(&'static str, Command)> {
        vec![
            ("docker version", docker::version()),
            ("kind version", kind::version()),
            ("helm version", helm::version()),
            ("kubectl version", kubectl::version()),
            ("kind get clusters", kind::get_clusters()),
            ("docker containers", docker::kind_containers(self.cluster)),
            ("docker node images", docker::node_images(&format!("{}-worker", self.cluster))),
            ("helm repo list", self.helm().repo_list()),
        ]
    }

    /// Questions to the lab that is up. `agent` is an agent's pod.
    fn inside(&self, agent: &str) -> Vec<(&'static str, Command)> {
        let (helm, target) = (self.helm(), self.target());
        let server = |argv: &[&str]| {
            let argv = std::iter::once(SERVER).chain(argv.iter().copied());
            kubectl::exec(&target, "spire-server", "spire-server-0", names::SERVER_CONTAINER, argv)
        };
        let at_agent =
            |argv: &[&str]| kubectl::exec(&target, "spire-system", agent, names::AGENT_CONTAINER, argv.iter().copied());
        let database =
            |query: &str| kubectl::exec(&target, "spire-server", "spire-db-0", "postgres", ["sh", "-c", query]);
        vec![
            ("helm list", helm.list("default")),
            ("helm list absent", helm.list("no-such-namespace")),
            ("helm get values", helm.get_values("spire", "default")),
            ("helm get values absent", helm.get_values("no-such-release", "default")),
            ("helm uninstall absent", helm.uninstall("no-such-release", "default", std::time::Duration::from_secs(20))),
            ("server version", server(&["--version"])),
            ("server healthcheck", server(&["healthcheck"])),
            ("server bundle", server(&["bundle", "show", "-output", "json"])),
            ("server entry count", server(&["entry", "count", "-output", "json"])),
            ("server entries", server(&["entry", "show", "-output", "json"])),
            ("server agents", server(&["agent", "list", "-output", "json"])),
            ("server agent count", server(&["agent", "count", "-output", "json"])),
            ("agent version", at_agent(&[AGENT, "--version"])),
            ("agent healthcheck", at_agent(&[AGENT, "healthcheck", "-socketPath", names::AGENT_SOCKET])),
            ("agent has no shell", at_agent(&["sh"])),
            ("database login", database(LOGIN)),
            ("database migrations", database(MIGRATIONS)),
            (
                "exec in a pod that is not there",
                kubectl::exec(&target, "spire-server", "no-such-pod", names::SERVER_CONTAINER, [SERVER, "--version"]),
            ),
        ]
    }

    async fn output(&self, command: &Command) -> Result<coastal::tools::Output, CommandError> {
        let cancel = CancellationToken::new();
        self.world.runner.run(command, CommandIo { on_line: &|_, _| {}, cancel: &cancel }).await
    }

    async fn run(&self, command: &Command, names: &[(String, String)]) -> Answer {
        let (code, output) = match self.output(command).await {
            Ok(output) => (0, output),
            Err(CommandError::Exit { code, output, .. }) => (code, output),
            Err(other) => panic!("{other}"),
        };
        let out = if command.tool == Tool::Docker && command.args.contains(&"ctr".to_owned()) {
            images(&output.stdout)
        } else if command.args.starts_with(&["get".into(), "clusters".into()]) {
            // Clusters of others are none of ours.
            let own = output.stdout.lines().filter(|line| *line == self.cluster).map(|_| "<cluster>");
            Shape::of(&own.collect::<String>(), names)
        } else if command.args.starts_with(&["get".into(), "values".into()]) && code == 0 {
            // The values are the lab's own text, and hold a password: only that it is an object.
            let value: Value = serde_json::from_str(&output.stdout).expect("helm prints JSON");
            Shape::of(if value.is_object() { "{}" } else { &output.stdout }, names)
        } else {
            Shape::of(&output.stdout, names)
        };
        let err = if command.args.starts_with(&["get".into(), "clusters".into()]) {
            Shape::Empty
        } else {
            Shape::of(&output.stderr, names)
        };
        Answer { asked: asked(command, names), code, out, err }
    }

    async fn client(&self) -> kube::Client {
        let kubeconfig = std::fs::read_to_string(self.paths.kubeconfig()).expect("the lab's kubeconfig");
        self.world.connector.connect(&kubeconfig, &self.context()).await.expect("a client")
    }
}

/// The command line without the names of this run.
fn asked(command: &Command, names: &[(String, String)]) -> String {
    names.iter().fold(command.line(), |line, (name, stands_for)| line.replace(name.as_str(), stands_for))
}

/// Names of images as their forms: which images there are is the lab's matter.
fn images(text: &str) -> Shape {
    let forms = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(|line| {
        if line.starts_with("sha256:") {
            "sha256:<hex>"
        } else if line.contains("@sha256:") {
            "<name>@sha256:<hex>"
        } else {
            "<name>:<tag>"
        }
    });
    let lines: std::collections::BTreeSet<String> = forms.map(str::to_owned).collect();
    if lines.is_empty() { Shape::Empty } else { Shape::Text(lines) }
}

async fn get(client: &kube::Client, path: &str) -> Answer {
    let request = http::Request::get(path).body(Vec::new()).expect("a request");
    let (code, body) = match client.request::<Value>(request).await {
        Ok(body) => (200, body),
        Err(kube::Error::Api(status)) => {
            (i32::from(status.code), serde_json::json!({ "code": status.code, "reason": status.reason }))
        }
        Err(other) => panic!("GET {path}: {other}"),
    };
    let Shape::Json(mut paths) = Shape::of(&body.to_string(), &[]) else { panic!("GET {path}: no JSON") };
    paths.retain(|path, _| {
        let own = path.strip_prefix("items[].").unwrap_or(path);
        !own.starts_with("spec") || SPEC.contains(&own)
    });
    Answer { asked: path.to_owned(), code, out: Shape::Json(paths), err: Shape::Empty }
}

async fn kubernetes(client: &kube::Client) -> String {
    client.apiserver_version().await.map_or_else(|error| error.to_string(), |info| info.git_version)
}

async fn only_pod(client: &kube::Client, path: &str) -> String {
    let request = http::Request::get(path).body(Vec::new()).expect("a request");
    let list = client.request::<Value>(request).await.expect("a list of pods");
    list.pointer("/items/0/metadata/name").and_then(Value::as_str).expect("a pod").to_owned()
}
