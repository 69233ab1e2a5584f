//! A lab of the suite's own: its lab file, its state directory, its cluster; gone when dropped, whatever happened.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use coastal::session::Paths;
use coastal::tools::{self, Command, CommandIo, Output, Tool, kind};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::settings::Settings;

const HTTP_PORT: u16 = 28080;
const HTTPS_PORT: u16 = 28443;

/// See the module.
pub struct Lab {
    /// The kind cluster.
    pub cluster: &'static str,
    /// The lab's files.
    pub paths: Paths,
    directory: tempfile::TempDir,
}

/// How a run of `coastal` ended.
pub struct Ended {
    /// The command line.
    pub line: String,
    /// The exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// How long it took.
    pub took: Duration,
}

impl Lab {
    /// A lab that is not up. Its cluster must not exist: what is not ours is not touched.
    pub fn new(cluster: &'static str, settings: &Settings) -> Lab {
        let directory = tempfile::tempdir().expect("a directory");
        let state = directory.path().join("state");
        let file = lab_file(cluster, settings);
        std::fs::write(directory.path().join("lab.toml"), file).expect("the lab file");
        let lab = Lab { cluster, paths: Paths::new(state.join("real")), directory };
        assert!(!clusters().contains(&cluster.to_owned()), "there is a kind cluster `{cluster}` already; remove it");
        lab
    }

    /// Runs the built binary on the lab.
    pub fn coastal(&self, args: &[&str]) -> Ended {
        let begun = Instant::now();
        let output = assert_cmd::Command::new(env!("CARGO_BIN_EXE_coastal"))
            .args(["--lab", &self.directory.path().join("lab.toml").display().to_string()])
            .args(args)
            .env("COASTAL_STATE_DIR", self.directory.path().join("state"))
            // The suite's own context must never be somebody's.
            .env("KUBECONFIG", self.directory.path().join("no-kubeconfig"))
            .current_dir(self.directory.path())
            .output()
            .expect("coastal starts");
        let ended = Ended {
            line: args.join(" "),
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            took: begun.elapsed(),
        };
        println!("{:>6.1} s  exit {}  coastal {}", ended.took.as_secs_f64(), ended.code, ended.line);
        ended
    }

    /// Runs a command that must go well; its result.
    pub fn makes_so(&self, args: &[&str]) -> Value {
        let all: Vec<&str> = args.iter().copied().chain(["--yes", "--output", "json"]).collect();
        let ended = self.coastal(&all);
        let result = ended.result();
        assert_eq!(ended.code, 0, "`coastal {}` failed: {result:#}\n{}", ended.line, ended.stderr);
        result
    }

    /// The same once more, which must change nothing.
    pub fn is_so_already(&self, args: &[&str]) {
        let result = self.makes_so(args);
        assert_eq!(result["changed"], serde_json::json!([]), "`coastal {}` changed something again", args.join(" "));
    }

    /// kubectl with the lab's kubeconfig; its JSON.
    pub fn kubectl(&self, args: &[&str]) -> Value {
        let command = Command::new(Tool::Kubectl, args.iter().copied())
            .args(["--kubeconfig".to_owned(), self.paths.kubeconfig().display().to_string()])
            .args(["--output", "json"]);
        serde_json::from_str(&run(&command).stdout).expect("kubectl prints JSON")
    }

    /// Of `kubectl get`: the items that pass.
    pub fn items(&self, what: &[&str], passes: impl Fn(&Value) -> bool) -> Vec<String> {
        let args: Vec<&str> = std::iter::once("get").chain(what.iter().copied()).collect();
        let list = self.kubectl(&args);
        let items = list["items"].as_array().expect("a list").iter().filter(|item| passes(item));
        items
            .map(|item| {
                let metadata = &item["metadata"];
                let word = |key: &str| metadata[key].as_str().unwrap_or_default().to_owned();
                format!("{}/{}", word("namespace"), word("name"))
            })
            .collect()
    }

    /// Where the lab's files may be written.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

impl Ended {
    /// The last line of its JSON.
    pub fn result(&self) -> Value {
        let last = self.stdout.lines().last().unwrap_or_default();
        let result: Value = serde_json::from_str(last).unwrap_or_else(|error| {
            panic!("`coastal {}` printed no result ({error}):\n{}\n{}", self.line, self.stdout, self.stderr)
        });
        assert_eq!(result["type"], "result");
        result
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Also after a failure; the name is the suite's own, and was free when it began.
        let command = kind::delete_cluster(
            self.cluster,
            &self.directory.path().join("kubeconfig-of-the-end"),
            Duration::from_secs(120),
        );
        run(&command);
    }
}

/// The names of kind's clusters.
pub fn clusters() -> Vec<String> {
    kind::parse_clusters(&run(&kind::get_clusters()))
}

/// Runs a command on this machine that must go well.
pub fn run(command: &Command) -> Output {
    block_on(async {
        let cancel = CancellationToken::new();
        let world = tools::real_world();
        world.runner.run(command, CommandIo { on_line: &|_, _| {}, cancel: &cancel }).await
    })
    .unwrap_or_else(|error| panic!("{error}: {}", error.tail(5).join("\n")))
}

/// Runs to the end.
pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
}

fn lab_file(cluster: &str, settings: &Settings) -> String {
    let path = |path: &PathBuf| {
        let path = std::path::absolute(path).expect("an absolute path");
        toml::Value::String(path.display().to_string()).to_string()
    };
    let mut text = format!(
        "schema = 1\nname = \"real\"\n\n[cluster]\nprovider = \"kind\"\nname = \"{cluster}\"\nhttp-port = {HTTP_PORT}\nhttps-port = {HTTPS_PORT}\n"
    );
    let mut line = |words: std::fmt::Arguments<'_>| text.write_fmt(words).expect("a string takes everything");
    if let Some(image) = &settings.node_image {
        line(format_args!("node-image = \"{image}\"\n"));
    }
    line(format_args!("\n[addons.cert-manager]\nmanifest = {}\n", path(&settings.cert_manager_manifest)));
    line(format_args!("\n[addons.contour]\nmanifest = {}\n", path(&settings.contour_manifest)));
    line(format_args!("\n[monitoring]\nchart = {{ path = {} }}\n", path(&settings.prometheus_chart)));
    line(format_args!("\n[spire]\nchart = {{ path = {} }}\n", path(&settings.spire_chart)));
    let archives: Vec<String> = settings.images.iter().map(path).collect();
    line(format_args!("\n[images]\narchives = [{}]\n", archives.join(", ")));
    text
}

/// A lab file that the program refuses would make every other test of the suite fail for the wrong reason.
#[test]
fn the_lab_file_is_one() {
    let settings = Settings {
        spire_chart: "spire.tgz".into(),
        prometheus_chart: "prometheus.tgz".into(),
        cert_manager_manifest: "cert-manager.yaml".into(),
        contour_manifest: "contour.yaml".into(),
        images: vec!["a \"b\".tar".into()],
        node_image: Some("kindest/node:v1.32.3".into()),
    };
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("lab.toml");
    std::fs::write(&file, lab_file("coastal-test", &settings)).unwrap();
    let lab = coastal::config::load(Some(&file)).unwrap();
    assert_eq!(lab.cluster.context(), "kind-coastal-test");
}
