//! Images on the nodes of a kind cluster: from archives at hand, and the workload's own.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use futures::future::try_join_all;
use serde::{Deserialize, Serialize};

use crate::config::Provider;
use crate::engine::{Body, StepContext};
use crate::error::{Failure, Kind, io_failure};
use crate::files;
use crate::plan::Finding;
use crate::steps::{inspect, reach};
use crate::tools::{Runner, Tool, docker, kind};
use crate::workload::{image, programs};

const ARCHIVE_HINT: &str =
    "make it with `docker save IMAGE -o FILE`, or take it out of `[images] archives` in lab.toml";

/// What the workload's pods run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// `coastal workload`, in an image made of this very executable (or of a Dockerfile that the user named).
    Coastal,
    /// The agent image's `spire-agent api watch`, because this executable cannot run in a Linux container; says why.
    AgentWatch(String),
}

/// Decides what the workload's pods run.
///
/// # Errors
/// The own executable cannot be found.
pub fn program() -> Result<Program, Failure> {
    Ok(match image::can_run_in_linux_container(&executable()?) {
        Ok(_) => Program::Coastal,
        Err(reason) => Program::AgentWatch(reason.to_string()),
    })
}

/// Decides what a pod can run whose log has to be read by us. An image of the user's own need not write our lines.
///
/// # Errors
/// As [`program`]; or it cannot be told where the workload's image comes from.
pub fn readable_program(cx: &StepContext) -> Result<Program, Failure> {
    match source(cx)? {
        Source::Coastal { .. } => program(),
        Source::Dockerfile { directory } => {
            Ok(Program::AgentWatch(format!("the workload's image is built from {}", directory.display())))
        }
    }
}

fn executable() -> Result<PathBuf, Failure> {
    std::env::current_exe().map_err(|error| Failure::unexpected(format!("cannot find the running executable: {error}")))
}

/// Where the workload's image comes from; remembered from `build-load-image` to the next one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "from")]
enum Source {
    /// This executable.
    Coastal {
        /// Programs beside it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        beside: Vec<PathBuf>,
    },
    /// A directory with a Dockerfile.
    Dockerfile { directory: PathBuf },
}

fn source(cx: &StepContext) -> Result<Source, Failure> {
    if let Some(directory) = &cx.session.dockerfile {
        return Ok(Source::Dockerfile { directory: directory.clone() });
    }
    if !cx.session.image_tools.is_empty() {
        return Ok(Source::Coastal { beside: cx.session.image_tools.clone() });
    }
    let record = record(cx);
    match std::fs::read(&record) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
            Failure::unexpected(format!("`{}` does not parse: {error}", record.display()))
                .next("`coastal build-load-image` writes it anew")
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Source::Coastal { beside: Vec::new() }),
        Err(error) => Err(io_failure("read", &record, &error)),
    }
}

/// What a backup starts, and so has to be in the image of a job that takes backups.
const FOR_BACKUPS: [Tool; 2] = [Tool::Kubectl, Tool::Helm];

/// This machine's kubectl and helm, for an image of this executable.
///
/// # Errors
/// One is missing, or could not run there; or this executable could not.
pub fn tools_for_image(runner: &dyn Runner) -> Result<Vec<PathBuf>, Failure> {
    let executable = executable()?;
    let architecture = image::can_run_in_linux_container(&executable).map_err(|why| {
        Failure::prerequisite(format!("`{}` cannot run in a Linux container: {why}", executable.display()))
            .next("name an image that has coastal, kubectl and helm in it: `coastal backup --schedule … --image IMAGE`")
    })?;
    FOR_BACKUPS
        .iter()
        .map(|tool| {
            let found = runner.locate(*tool).ok_or_else(|| {
                Failure::prerequisite(format!("`{tool}` is not on the path: it cannot be put into the image")).next(
                    format!("put the {tool} that its project publishes for Linux on the path, then run this again"),
                )
            })?;
            let file = std::fs::canonicalize(&found).unwrap_or(found);
            programs::fits(tool.program(), &file, architecture)?;
            Ok(file)
        })
        .collect()
}

/// Whether the workload's image can take backups, too.
///
/// # Errors
/// It cannot; says what is missing in it.
pub fn has_tools(cx: &StepContext) -> Result<(), Failure> {
    let missing = match source(cx)? {
        Source::Coastal { beside } if !beside.is_empty() => match program()? {
            Program::Coastal => return Ok(()),
            Program::AgentWatch(reason) => format!("coastal is not in it: {reason}"),
        },
        Source::Coastal { .. } => "kubectl and helm are not in it".to_owned(),
        Source::Dockerfile { directory } => {
            format!("it is built from {}, and what is in it is not known", directory.display())
        }
    };
    let image = &cx.session.lab.workload.image;
    Err(Failure::prerequisite(format!("the image {image} cannot take backups: {missing}"))
        .next("`coastal build-load-image --with-tools` puts them there")
        .next("or name an image that has coastal, kubectl and helm in it: `--image IMAGE`"))
}

fn record(cx: &StepContext) -> PathBuf {
    cx.session.paths.images().join("workload.json")
}

fn archive(cx: &StepContext) -> PathBuf {
    cx.session.paths.images().join("workload.tar")
}

/// [`crate::plan::StepId::BuildWorkloadImage`].
pub struct Build;

#[async_trait]
impl Body for Build {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        let beside = match source(cx)? {
            Source::Coastal { beside } => beside,
            Source::Dockerfile { directory } if cx.session.dockerfile.is_some() => {
                return Ok(Finding::Missing(format!("docker decides whether {} changed", directory.display())));
            }
            Source::Dockerfile { directory } => {
                return Ok(Finding::Satisfied(format!("built from {}", directory.display())));
            }
        };
        if let Program::AgentWatch(reason) = program()? {
            return Ok(Finding::Satisfied(format!(
                "not needed: {reason}; the agent image's `api watch` is used instead"
            )));
        }
        Ok(if image::is_current(&archive(cx), &executable()?, &beside, &cx.session.lab.workload.image)? {
            Finding::Satisfied("the archive holds this executable".into())
        } else {
            Finding::Missing("there is no archive of this executable yet".into())
        })
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        let source = source(cx)?;
        let tag = &cx.session.lab.workload.image;
        match &source {
            Source::Dockerfile { directory } => {
                if !directory.join("Dockerfile").is_file() {
                    return Err(Failure::usage(format!("there is no Dockerfile in `{}`", directory.display()))
                        .next("`coastal build-load-image DIR` builds the Dockerfile of DIR; without DIR the workload is coastal itself"));
                }
                cx.run(&docker::build(directory, tag, cx.remaining())).await?;
            }
            Source::Coastal { beside } => {
                files::private_dir(&cx.session.paths.images())?;
                image::build_archive(&executable()?, beside, tag, &archive(cx))?;
            }
        }
        let bytes = serde_json::to_vec(&source).map_err(|error| Failure::unexpected(error.to_string()))?;
        files::write_private(&record(cx), &bytes)
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        Ok(match source(cx)? {
            Source::Dockerfile { directory } => {
                format!("{} built from {}", cx.session.lab.workload.image, directory.display())
            }
            Source::Coastal { .. } => {
                let size = std::fs::metadata(archive(cx)).map(|file| file.len()).unwrap_or_default();
                format!("{}, {} MiB", image::read_archive(&archive(cx))?.name, size >> 20)
            }
        })
    }
}

/// [`crate::plan::StepId::LoadWorkloadImage`].
pub struct Workload;

#[async_trait]
impl Body for Workload {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        if matches!(source(cx)?, Source::Coastal { .. })
            && let Program::AgentWatch(reason) = program()?
        {
            return Ok(Finding::Satisfied(format!("not needed: {reason}")));
        }
        let wanted = docker::full_reference(&cx.session.lab.workload.image);
        let wanted = match source(cx)? {
            // Named by content as well: an image of another build under the same name is not the one.
            Source::Coastal { .. } if archive(cx).is_file() => vec![wanted, image::read_archive(&archive(cx))?.id],
            _ => vec![wanted],
        };
        Ok(match Nodes::look(cx).await?.lacking(&wanted) {
            None => Finding::Satisfied("every node has it".into()),
            Some((node, _)) => Finding::Missing(format!("node {node} does not have it")),
        })
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        let name = cluster_name(cx)?;
        let command = match source(cx)? {
            Source::Dockerfile { .. } => kind::load_docker_image(&cx.session.lab.workload.image, name, cx.remaining()),
            Source::Coastal { .. } => kind::load_image_archive(&archive(cx), name, cx.remaining()),
        };
        cx.run(&command).await?;
        Ok(())
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        match self.check(cx).await? {
            Finding::Satisfied(proof) => Ok(proof),
            other => Err(not_loaded("image", &other)),
        }
    }
}

/// [`crate::plan::StepId::LoadImages`].
pub struct Archives;

#[async_trait]
impl Body for Archives {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        let mut names = Vec::new();
        for archive in &cx.session.lab.images.archives {
            names.extend(names_in(archive)?);
        }
        Ok(match Nodes::look(cx).await?.lacking(&names) {
            None => Finding::Satisfied(format!("every node has all {} images", names.len())),
            Some((node, image)) => Finding::Missing(format!("node {node} does not have {image}")),
        })
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        let name = cluster_name(cx)?;
        let nodes = Nodes::look(cx).await?;
        let archives = &cx.session.lab.images.archives;
        for (number, archive) in archives.iter().enumerate() {
            if nodes.lacking(&names_in(archive)?).is_none() {
                continue;
            }
            let bytes = std::fs::metadata(archive).map(|file| file.len()).unwrap_or_default();
            cx.progress(format!(
                "loading {} ({} of {}, {} MiB)",
                archive.file_name().unwrap_or_default().to_string_lossy(),
                number + 1,
                archives.len(),
                bytes.div_ceil(1 << 20)
            ));
            cx.run(&kind::load_image_archive(archive, name, cx.session.lab.timeouts.image)).await?;
        }
        Ok(())
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        match self.check(cx).await? {
            Finding::Satisfied(proof) => Ok(proof),
            other => Err(not_loaded("archives", &other)),
        }
    }
}

fn not_loaded(what: &str, found: &Finding) -> Failure {
    Failure::tool(format!("kind loaded the {what}, and yet {}", found.detail()))
        .fact("a node was asked with `docker exec NODE ctr --namespace k8s.io images list`")
        .next("`docker exec NODE df -h /var` shows whether a node's disk is full; else run the same command again")
}

fn cluster_name(cx: &StepContext) -> Result<&str, Failure> {
    match &cx.session.lab.cluster.provider {
        Provider::Kind { name, .. } => Ok(name),
        Provider::Existing { .. } => Err(Failure::new(Kind::Usage, "images can be loaded into a kind cluster only")
            .next("push the image to a registry that the cluster reaches")),
    }
}

/// The images on each node: full references and ids.
struct Nodes(Vec<(String, BTreeSet<String>)>);

impl Nodes {
    async fn look(cx: &StepContext) -> Result<Self, Failure> {
        let cluster = reach::cluster(cx).await?;
        // kind names a node as the container that it is.
        let names = inspect::nodes(&cluster).await?.into_values();
        let asked = names.map(|name| async move {
            let output = cx.run(&docker::node_images(&name)).await?;
            Ok::<_, Failure>((name, output.stdout.lines().map(|line| line.trim().to_owned()).collect()))
        });
        let mut nodes = try_join_all(asked).await?;
        nodes.sort();
        Ok(Nodes(nodes))
    }

    /// The first node that lacks one of the images, and that image.
    fn lacking<'a>(&'a self, images: &'a [String]) -> Option<(&'a str, &'a str)> {
        self.0.iter().find_map(|(node, there)| {
            let missing = images.iter().find(|image| !there.contains(*image))?;
            Some((node.as_str(), missing.as_str()))
        })
    }
}

/// The names of the images in an archive: of docker's `manifest.json` or an OCI layout's `index.json`.
fn names_in(archive: &Path) -> Result<Vec<String>, Failure> {
    #[derive(Deserialize)]
    struct Saved {
        #[serde(rename = "RepoTags")]
        tags: Option<Vec<String>>,
    }
    #[derive(Deserialize)]
    struct Index {
        manifests: Vec<Manifest>,
    }
    #[derive(Deserialize)]
    struct Manifest {
        #[serde(default)]
        annotations: std::collections::BTreeMap<String, String>,
    }
    let wrong = |why: String| {
        Failure::prerequisite(format!("`{}` is not an image archive: {why}", archive.display())).next(ARCHIVE_HINT)
    };
    let file = std::fs::File::open(archive)
        .map_err(|error| io_failure("read the image archive", archive, &error).next(ARCHIVE_HINT))?;
    let mut names = BTreeSet::new();
    let mut known = false;
    // Seekable: the layers between the two small files are skipped, not read.
    let mut tar = tar::Archive::new(file);
    for entry in tar.entries_with_seek().map_err(|error| wrong(error.to_string()))? {
        let entry = entry.map_err(|error| wrong(error.to_string()))?;
        let path = entry.path().map_err(|error| wrong(error.to_string()))?.into_owned();
        if path.as_os_str() == "manifest.json" {
            known = true;
            let saved: Vec<Saved> = serde_json::from_reader(entry).map_err(|error| wrong(error.to_string()))?;
            names.extend(saved.into_iter().flat_map(|image| image.tags.unwrap_or_default()));
        } else if path.as_os_str() == "index.json" {
            known = true;
            let index: Index = serde_json::from_reader(entry).map_err(|error| wrong(error.to_string()))?;
            names.extend(
                index.manifests.into_iter().filter_map(|m| m.annotations.get("io.containerd.image.name").cloned()),
            );
        }
    }
    if !known {
        return Err(wrong("it holds neither manifest.json nor index.json".into()));
    }
    Ok(names.iter().map(|name| docker::full_reference(name)).collect())
}
