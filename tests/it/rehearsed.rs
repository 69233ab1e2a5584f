//! A lab of local files only, as the real suite's, for the rehearsal world.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use coastal::config::{self, Lab};
use coastal::engine::{self, Emitter, Event, RunInfo, Sink};
use coastal::plan::{self, Goal};
use coastal::rehearsal::{Options, Rehearsal};
use coastal::session::{Paths, Session};
use coastal::{files, steps};
use tokio_util::sync::CancellationToken;

/// Writes the lab's files and its `lab.toml`; the path of the latter.
pub async fn lab_file(directory: &Path) -> PathBuf {
    for (chart, version) in [("spire", "0.13.0"), ("kube-prometheus-stack", "51.9.2")] {
        let chart_directory = directory.join(chart);
        std::fs::create_dir(&chart_directory).unwrap();
        let metadata = format!("apiVersion: v2\nname: {chart}\nversion: {version}\n");
        std::fs::write(chart_directory.join("Chart.yaml"), metadata).unwrap();
    }
    let world = coastal::rehearsal::world(Options::default()).unwrap();
    let cancel = CancellationToken::new();
    for (name, url) in [
        (
            "cert-manager.yaml",
            "https://github.com/cert-manager/cert-manager/releases/download/v1.13.0/cert-manager.yaml",
        ),
        ("contour.yaml", "https://projectcontour.io/quickstart/v1.26.0/contour.yaml"),
    ] {
        world.fetcher.fetch(url, &directory.join(name), &cancel).await.unwrap();
    }
    images(&directory.join("images.tar"), "docker.io/library/postgres:16");
    let file = directory.join("lab.toml");
    let text = r#"
schema = 1
addons.cert-manager.manifest = "cert-manager.yaml"
addons.contour.manifest = "contour.yaml"
monitoring.chart = { path = "kube-prometheus-stack" }
spire.chart = { path = "spire" }
images.archives = ["images.tar"]
"#;
    std::fs::write(&file, text).unwrap();
    file
}

/// An archive as `docker save` writes it, as far as the names go.
pub fn images(path: &Path, name: &str) {
    let mut archive = tar::Builder::new(std::fs::File::create(path).unwrap());
    let manifest = format!(r#"[{{"Config": "0123456789abcdef.json", "RepoTags": ["{name}"], "Layers": []}}]"#);
    let mut header = tar::Header::new_gnu();
    header.set_size(manifest.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    archive.append_data(&mut header, "manifest.json", manifest.as_bytes()).unwrap();
    archive.into_inner().unwrap();
}

/// A rehearsal with such a lab in it.
pub struct Stage {
    /// What is wanted.
    pub lab: Lab,
    /// The world.
    pub rehearsal: Rehearsal,
    /// The lab's files.
    pub paths: Paths,
    _directory: tempfile::TempDir,
}

impl Stage {
    /// Nothing was done yet.
    pub async fn new() -> Stage {
        let directory = tempfile::tempdir().unwrap();
        let lab = config::load(Some(&lab_file(directory.path()).await)).unwrap();
        let rehearsal = Rehearsal::new(Options::default()).unwrap();
        let paths = Paths::new(directory.path().join("state"));
        files::private_dir(paths.state()).unwrap();
        Stage { lab, rehearsal, paths, _directory: directory }
    }

    /// Makes `goal` so.
    pub async fn make(&self, goal: Goal) {
        struct Silence;
        impl Sink for Silence {
            fn take(&self, _event: &Event) {}
        }
        let session = Session::new(self.lab.clone(), self.rehearsal.world(), self.paths.clone());
        let emitter = Emitter::new(Arc::clone(&session.world.clock), Arc::new(Silence));
        let plan = plan::build(&self.lab, goal, None);
        let cancel = CancellationToken::new();
        let result = engine::execute(&plan, &RunInfo::default(), &steps::body, &session, &emitter, &cancel).await;
        assert_eq!(result.outcome, engine::Outcome::Ok, "{:?}", result.failure);
    }
}
