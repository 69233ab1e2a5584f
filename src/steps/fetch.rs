//! Charts and manifests as local files: fetched once, checked, then used as they are.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use kube::core::DynamicObject;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::config::{ChartRef, ManifestRef};
use crate::engine::{Body, StepContext};
use crate::error::{Failure, Kind, io_failure};
use crate::files;
use crate::kube::parse;
use crate::plan::Finding;
use crate::spire::hex;
use crate::steps::reach;
use crate::tools::helm;

const CHART_HINT: &str =
    "set `chart` in lab.toml to a chart directory, a .tgz archive, or a repository with name and version";

/// Downloads fail for reasons that pass; three tries, a second, then two, apart.
const ATTEMPTS: u32 = 3;

/// [`crate::plan::StepId::Repos`].
pub struct Repos;

#[async_trait]
impl Body for Repos {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        let known = helm::parse_repo_list(cx.run(&reach::helm(cx).repo_list()).await)?;
        let missing: Vec<String> = cx
            .session
            .lab
            .chart_repositories()
            .into_iter()
            .filter(|(name, url)| !known.iter().any(|repo| repo.name == *name && same_url(&repo.url, url)))
            .map(|(name, _)| name)
            .collect();
        Ok(if missing.is_empty() {
            Finding::Satisfied(format!("{} repositories are known", known.len()))
        } else {
            Finding::Missing(format!("not known yet: {}", missing.join(", ")))
        })
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        add_repositories(cx, cx.session.lab.chart_repositories()).await
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        match self.check(cx).await? {
            Finding::Satisfied(proof) => Ok(proof),
            other => Err(Failure::tool(format!("helm does not list what it was told to add; {}", other.detail()))
                .fact(format!("its list: `{}`", cx.session.paths.helm_repositories().display()))
                .next("move that file away, and run the same command again")),
        }
    }
}

/// Makes repositories, name and URL, known to the lab's helm.
///
/// # Errors
/// One does not answer, or is no repository.
pub async fn add_repositories(cx: &StepContext, repositories: Vec<(String, String)>) -> Result<(), Failure> {
    files::private_dir(&cx.session.paths.helm_cache())?;
    // One after the other: helm locks its repository file.
    for (name, url) in repositories {
        let command = reach::helm(cx).repo_add(&name, &url).timeout(cx.session.lab.timeouts.download);
        retrying(cx, || async { cx.run(&command).await.map(|_| ()).map_err(Failure::from) }).await.map_err(
            |failure| {
                failure.context(format!("could not add the helm repository {name}")).first(format!(
                    "is {url} reachable? a chart can also be a local file: `chart = {{ path = \"…\" }}` in lab.toml"
                ))
            },
        )?;
    }
    Ok(())
}

/// Whether all charts are local files.
///
/// # Errors
/// One that should be a local file is none, or is no chart.
pub fn at_hand<'a>(cx: &StepContext, sources: impl IntoIterator<Item = &'a ChartRef>) -> Result<Finding, Failure> {
    let mut seen = Vec::new();
    for source in sources {
        match (source, read_chart(&chart_path(cx, source))) {
            (_, Ok(chart)) => seen.push(format!("{} {}", chart.name, chart.version)),
            (ChartRef::Repo { chart, version, .. }, Err(_)) => {
                return Ok(Finding::Missing(format!("chart {chart} {version} is not in the lab's cache yet")));
            }
            (ChartRef::Path(_), Err(failure)) => return Err(failure),
        }
    }
    Ok(Finding::Satisfied(format!("{} at hand", seen.join(" and "))))
}

/// Fetches the charts that come from a repository and are not in the lab's cache yet.
///
/// # Errors
/// The repository is not known or does not have them.
pub async fn pull<'a>(cx: &StepContext, sources: impl IntoIterator<Item = &'a ChartRef>) -> Result<(), Failure> {
    let downloads = cx.session.paths.downloads();
    files::private_dir(&downloads)?;
    for source in sources {
        let ChartRef::Repo { repo_name, chart, version, url } = source else { continue };
        if read_chart(&chart_path(cx, source)).is_ok() {
            continue;
        }
        let limit = cx.session.lab.timeouts.download;
        let command = reach::helm(cx).pull(&format!("{repo_name}/{chart}"), version, &downloads, limit);
        retrying(cx, || async { cx.run(&command).await.map(|_| ()).map_err(Failure::from) }).await.map_err(
            |failure| {
                failure.context(format!("could not fetch chart {chart} {version}")).first(format!(
                    "does {url} have it? `coastal env` lets you look: `helm search repo {chart} --versions`"
                ))
            },
        )?;
    }
    Ok(())
}

fn same_url(one: &str, other: &str) -> bool {
    one.trim_end_matches('/') == other.trim_end_matches('/')
}

/// Which add-on's manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// cert-manager.
    CertManager,
    /// Contour.
    Contour,
}

impl Which {
    /// Its table in lab.toml.
    fn table(self) -> &'static str {
        match self {
            Which::CertManager => "addons.cert-manager",
            Which::Contour => "addons.contour",
        }
    }
}

/// [`crate::plan::StepId::FetchCertManager`] and [`crate::plan::StepId::FetchContour`].
pub struct Manifest(pub Which);

#[async_trait]
impl Body for Manifest {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        let (path, url) = manifest_path(cx, self.0)?;
        match url {
            Some(_) if !path.exists() => Ok(Finding::Missing("not in the lab's cache yet".into())),
            // A cached file that does not parse is fetched again; a local one is the user's to mend.
            Some(_) => Ok(match manifest(cx, self.0) {
                Ok(objects) => Finding::Satisfied(format!("{} objects, in the lab's cache", objects.len())),
                Err(failure) => Finding::Differs(failure.message),
            }),
            None => Ok(Finding::Satisfied(format!("{} objects in {}", manifest(cx, self.0)?.len(), path.display()))),
        }
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        let (path, Some(url)) = manifest_path(cx, self.0)? else { return Ok(()) };
        files::private_dir(&cx.session.paths.downloads())?;
        retrying(cx, || cx.session.world.fetcher.fetch(&url, &path, &cx.cancel))
            .await
            .map_err(|failure| failure.fact(format!("it is `manifest` in [{}] of lab.toml", self.0.table())))
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        Ok(format!("{} objects", manifest(cx, self.0)?.len()))
    }
}

/// Where the manifest lies, and the URL it comes from if it is fetched.
fn manifest_path(cx: &StepContext, which: Which) -> Result<(PathBuf, Option<String>), Failure> {
    let lab = &cx.session.lab;
    let source = match which {
        Which::CertManager => lab.cert_manager.as_ref(),
        Which::Contour => lab.contour.as_ref(),
    };
    match source {
        Some(ManifestRef::File(path)) => Ok((path.clone(), None)),
        Some(ManifestRef::Url(url)) => {
            let digest = Sha256::digest(url.as_bytes());
            let short = hex(&digest[..4]);
            let name = url.rsplit('/').next().unwrap_or("manifest.yaml");
            Ok((cx.session.paths.downloads().join(format!("{short}-{name}")), Some(url.clone())))
        }
        None => Err(Failure::unexpected(format!("{which:?} is switched off in this lab"))),
    }
}

/// The manifest's objects, as the file has them.
///
/// # Errors
/// Not there, or not a manifest.
pub fn manifest(cx: &StepContext, which: Which) -> Result<Vec<DynamicObject>, Failure> {
    let (path, _) = manifest_path(cx, which)?;
    let text = std::fs::read_to_string(&path).map_err(|error| {
        io_failure("read the manifest", &path, &error)
            .next(format!("set `manifest` in [{}] of lab.toml to a file or an address", which.table()))
    })?;
    parse(&path.display().to_string(), &text)
}

/// Which chart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhichChart {
    /// kube-prometheus-stack.
    Prometheus,
    /// spire, and spire-crds where the lab has it.
    Spire,
}

/// [`crate::plan::StepId::FetchPrometheus`] and [`crate::plan::StepId::FetchSpire`].
pub struct Chart(pub WhichChart);

impl Chart {
    fn sources<'a>(&self, cx: &'a StepContext) -> Vec<&'a ChartRef> {
        let lab = &cx.session.lab;
        match self.0 {
            WhichChart::Prometheus => lab.monitoring.iter().map(|monitoring| &monitoring.chart).collect(),
            WhichChart::Spire => std::iter::once(&lab.spire.chart).chain(lab.spire.crds_chart.as_ref()).collect(),
        }
    }
}

#[async_trait]
impl Body for Chart {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        at_hand(cx, self.sources(cx))
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        pull(cx, self.sources(cx)).await
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        let mut seen = Vec::new();
        for source in self.sources(cx) {
            let chart = read_chart(&chart_path(cx, source))?;
            seen.push(format!("{} {}", chart.name, chart.version));
        }
        Ok(seen.join(" and "))
    }
}

/// The directory or archive to install from.
#[must_use]
pub fn chart_path(cx: &StepContext, source: &ChartRef) -> PathBuf {
    match source {
        ChartRef::Repo { chart, version, .. } => cx.session.paths.downloads().join(helm::archive_name(chart, version)),
        ChartRef::Path(path) => path.clone(),
    }
}

/// What `Chart.yaml` says.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ChartMeta {
    /// The chart's name.
    pub name: String,
    /// The chart's version.
    pub version: String,
}

/// Reads `Chart.yaml` of a chart directory or archive.
///
/// # Errors
/// Not there, or not a chart.
pub fn read_chart(path: &Path) -> Result<ChartMeta, Failure> {
    let wrong = |why: String| {
        Failure::new(Kind::Prerequisite, format!("`{}` is not a helm chart: {why}", path.display())).next(CHART_HINT)
    };
    if path.is_dir() {
        let file = path.join("Chart.yaml");
        let text = std::fs::read_to_string(&file).map_err(|error| wrong(format!("Chart.yaml: {error}")))?;
        return serde_yaml::from_str(&text).map_err(|error| wrong(error.to_string()));
    }
    let file =
        std::fs::File::open(path).map_err(|error| io_failure("read the chart", path, &error).next(CHART_HINT))?;
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
    for entry in archive.entries().map_err(|error| wrong(error.to_string()))? {
        let entry = entry.map_err(|error| wrong(error.to_string()))?;
        let is_meta =
            entry.path().is_ok_and(|inside| inside.components().count() == 2 && inside.ends_with("Chart.yaml"));
        if is_meta {
            return serde_yaml::from_reader(entry).map_err(|error| wrong(error.to_string()));
        }
    }
    Err(wrong("the archive holds no Chart.yaml".into()))
}

async fn retrying<F>(cx: &StepContext, mut attempt: impl FnMut() -> F) -> Result<(), Failure>
where
    F: Future<Output = Result<(), Failure>>,
{
    let mut number = 1;
    loop {
        match attempt().await {
            Ok(()) => return Ok(()),
            // What is missing or refused is missing at the next try too.
            Err(failure)
                if number == ATTEMPTS
                    || matches!(failure.kind, Kind::Interrupted | Kind::Prerequisite | Kind::Refused) =>
            {
                return Err(failure);
            }
            Err(failure) => {
                number += 1;
                cx.retry(number, failure.message);
                cx.sleep(Duration::from_secs(u64::from(number) - 1)).await?;
            }
        }
    }
}
