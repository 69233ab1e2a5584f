//! A support bundle: what somebody who helps needs to see, in one archive, without secrets.
//!
//! Secrets are not collected in the first place (of a Secret only the names of its keys), and every file goes through a
//! [`Redactor`] that knows the values of the cluster's Secrets. What could not be collected is listed, so that a hole is
//! seen as one.

mod cluster;

use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use futures::future::join_all;

use crate::config;
use crate::engine::StepContext;
use crate::engine::journal;
use crate::error::{Failure, io_failure};
use crate::observe;
use crate::redact::Redactor;
use crate::steps::reach;
use crate::tools::{Tool, versions};

/// How many of the last runs go in.
const RUNS: usize = 10;

/// Files and their texts, already clean.
#[derive(Debug, Clone, Default)]
pub struct Bundle {
    files: Vec<(String, String)>,
    /// What could not be collected, and why.
    pub missing: Vec<String>,
}

impl Bundle {
    /// The names of its files.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        self.files.iter().map(|(name, _)| name.as_str()).collect()
    }

    fn add(&mut self, name: impl Into<String>, text: impl Into<String>) {
        self.files.push((name.into(), text.into()));
    }

    /// Adds what was found, or why nothing was.
    fn take(&mut self, name: &str, found: Result<String, Failure>) {
        match found {
            // A namespace has few of the kinds that are looked for.
            Ok(text) if text.is_empty() => {}
            Ok(text) => self.add(name, text),
            Err(failure) => self.missing.push(format!("{name}: {}", failure.message)),
        }
    }

    fn clean(&mut self, redactor: &Redactor) {
        for text in self.files.iter_mut().map(|(_, text)| text).chain(&mut self.missing) {
            *text = redactor.text(text);
        }
    }

    /// Writes the archive, mode 0600.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), Failure> {
        let failed = |error: std::io::Error| io_failure("write the bundle", path, &error);
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(parent).map_err(failed)?;
        let mut archive = tar::Builder::new(GzEncoder::new(file.as_file_mut(), Compression::default()));
        for (name, text) in &self.files {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o600);
            archive.append_data(&mut header, format!("coastal-bundle/{name}"), text.as_bytes()).map_err(failed)?;
        }
        archive.into_inner().and_then(GzEncoder::finish).map_err(failed)?;
        file.persist(path).map_err(|error| failed(error.error))?;
        Ok(())
    }
}

/// Collects whatever can be had. A lab without a cluster still has its file, its tools and its journals.
///
/// # Errors
/// The run is to stop.
pub async fn collect(cx: &StepContext) -> Result<Bundle, Failure> {
    let mut bundle = Bundle::default();
    let lab = &cx.session.lab;
    bundle.take(
        "lab.toml",
        match &lab.file {
            Some(path) => std::fs::read_to_string(path).map_err(|error| io_failure("read the lab file", path, &error)),
            None => Ok(config::DEFAULT.to_owned()),
        },
    );
    bundle.add("versions.txt", versions_of(cx).await);
    journals(cx, &mut bundle);
    let status = Box::pin(observe::status(&cx.session, &cx.cancel)).await;
    bundle.take(
        "status.json",
        status.and_then(|status| {
            serde_json::to_string_pretty(&status).map_err(|error| Failure::unexpected(error.to_string()))
        }),
    );
    let redactor = match reach::cluster(cx).await {
        Ok(cluster) => {
            cluster::collect(&cluster, lab, &mut bundle).await;
            cluster::redactor(&cluster, lab, &mut bundle).await
        }
        Err(failure) => {
            bundle.missing.push(format!("cluster/: {}", failure.message));
            Redactor::default()
        }
    };
    bundle.clean(&redactor);
    let missing =
        if bundle.missing.is_empty() { "everything is here\n".into() } else { bundle.missing.join("\n") + "\n" };
    bundle.add("missing.txt", missing);
    if cx.cancel.is_cancelled() { Err(Failure::interrupted()) } else { Ok(bundle) }
}

async fn versions_of(cx: &StepContext) -> String {
    let tools = join_all(Tool::ALL.into_iter().map(|tool| async move {
        let said = cx.run(&versions::ask(tool)).await.and_then(|output| versions::read(tool, &output));
        match said {
            Ok(version) => format!("{tool} {version}"),
            Err(error) => format!("{tool}: {error}"),
        }
    }));
    let mut lines = vec![
        format!("coastal {}", env!("CARGO_PKG_VERSION")),
        format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
    ];
    lines.extend(tools.await);
    lines.join("\n") + "\n"
}

/// The last runs, damage included: it may be what the trouble is about.
fn journals(cx: &StepContext, bundle: &mut Bundle) {
    let directory = cx.session.paths.runs();
    let ids = journal::runs(&directory).unwrap_or_else(|failure| {
        bundle.missing.push(format!("runs/: {}", failure.message));
        Vec::new()
    });
    for id in ids.iter().rev().take(RUNS) {
        let path = directory.join(id).join("events.jsonl");
        let text = std::fs::read(&path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        bundle.take(&format!("runs/{id}.jsonl"), text.map_err(|error| io_failure("read the journal", &path, &error)));
    }
}
