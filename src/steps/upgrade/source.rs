//! Where each version of the charts comes from, and its way to this machine.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use semver::Version;

use crate::config::ChartRef;
use crate::engine::{Body, StepContext};
use crate::error::Failure;
use crate::plan::Finding;
use crate::steps::fetch::{self, chart_path, read_chart};
use crate::steps::live::Live;
use crate::steps::upgrade::{change, hop};

/// The archived repository that the lab began with; it ends at [`LAST_ARCHIVED`].
const ARCHIVED: &str = "spiffe.github.io/helm-charts";
/// Where the chart lives on, with all older versions.
const HARDENED: (&str, &str) = ("spiffe-hardened", "https://spiffe.github.io/helm-charts-hardened/");
const LAST_ARCHIVED: Version = Version::new(0, 13, 0);

/// Release and chart of the CRDs, from chart line 0.14 on.
pub(super) const CRDS: &str = "spire-crds";

/// The chart that the release is of now.
///
/// # Errors
/// There is no release, or its chart's version is at hand nowhere.
pub(in crate::steps) fn current(cx: &StepContext, live: &Live) -> Result<ChartRef, Failure> {
    let version = live.chart.as_ref().ok_or_else(|| {
        Failure::prerequisite(format!("there is no release {} of chart spire", cx.session.lab.spire.release))
            .next("`coastal spire-install` makes it")
    })?;
    source(cx, "spire", version)
}

/// Where a version of a chart comes from: lab.toml if it is the very one that it names, else the archives of
/// `--charts`, else beside the archive that lab.toml names, else the repository.
pub(in crate::steps) fn source(cx: &StepContext, chart: &str, version: &Version) -> Result<ChartRef, Failure> {
    let lab = &cx.session.lab;
    let named = [Some(&lab.spire.chart), lab.spire.crds_chart.as_ref()];
    for named in named.into_iter().flatten() {
        if let ChartRef::Repo { chart: name, version: pinned, .. } = named
            && name == chart
            && pinned == version
        {
            return Ok(named.clone());
        }
        if let ChartRef::Path(path) = named
            && is_of(path, chart, version)
        {
            return Ok(named.clone());
        }
    }
    let places = change(cx).ok().and_then(|change| change.charts.clone()).into_iter().chain(beside(&lab.spire.chart));
    let mut looked = Vec::new();
    for place in places {
        for path in [place.join(format!("{chart}-{version}.tgz")), place.join(format!("{chart}-{version}"))] {
            if is_of(&path, chart, version) {
                return Ok(ChartRef::Path(path));
            }
            looked.push(path);
        }
    }
    if let ChartRef::Repo { repo_name, url, .. } = &lab.spire.chart {
        let archived = url.trim_end_matches('/').ends_with(ARCHIVED);
        let (name, url) = if archived && (*version > LAST_ARCHIVED || chart == CRDS) {
            (HARDENED.0.to_owned(), HARDENED.1.to_owned())
        } else {
            (repo_name.clone(), url.clone())
        };
        return Ok(ChartRef::Repo { repo_name: name, url, chart: chart.to_owned(), version: version.clone() });
    }
    Err(Failure::prerequisite(format!("chart {chart} {version} is not at hand"))
        .facts(looked.iter().map(|path| format!("not there: {}", path.display())))
        .next(format!("put `{chart}-{version}.tgz` into a directory and name it: `--charts DIRECTORY`")))
}

fn beside(chart: &ChartRef) -> Option<PathBuf> {
    match chart {
        ChartRef::Path(path) => path.parent().map(Path::to_owned),
        ChartRef::Repo { .. } => None,
    }
}

fn is_of(path: &Path, chart: &str, version: &Version) -> bool {
    path.exists() && read_chart(path).is_ok_and(|meta| meta.name == chart && meta.version == version.to_string())
}

/// The version that a chart at hand has.
pub(super) fn version_of(cx: &StepContext, chart: &ChartRef) -> Result<Version, Failure> {
    let meta = read_chart(&chart_path(cx, chart))?;
    Version::parse(&meta.version).map_err(|error| {
        Failure::prerequisite(format!("chart {} has the version `{}`: {error}", meta.name, meta.version))
    })
}

/// Brings charts that are not at hand into the lab's cache.
///
/// # Errors
/// Their repository does not answer, or does not have them.
pub(in crate::steps) async fn bring(cx: &StepContext, sources: &[ChartRef]) -> Result<(), Failure> {
    let repositories = sources.iter().filter_map(|source| match source {
        ChartRef::Repo { repo_name, url, .. } => Some((repo_name.clone(), url.clone())),
        ChartRef::Path(_) => None,
    });
    fetch::add_repositories(cx, repositories.collect()).await?;
    fetch::pull(cx, sources).await
}

/// [`crate::plan::HopPart::Fetch`].
pub(super) struct Fetch(pub(super) u16);

impl Fetch {
    fn sources(&self, cx: &StepContext) -> Result<Vec<ChartRef>, Failure> {
        let hop = hop(cx, self.0)?;
        let chart = hop.chart.as_ref().or(hop.chart_from.as_ref());
        let wanted = chart.map(|version| ("spire", version)).into_iter().chain(hop.crds.as_ref().map(|v| (CRDS, v)));
        wanted.map(|(chart, version)| source(cx, chart, version)).collect()
    }
}

#[async_trait]
impl Body for Fetch {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        fetch::at_hand(cx, &self.sources(cx)?)
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        bring(cx, &self.sources(cx)?).await
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        match self.check(cx).await? {
            Finding::Satisfied(proof) => Ok(proof),
            other => Err(Failure::tool(format!("helm said that it was done, and yet: {}", other.detail()))),
        }
    }
}
