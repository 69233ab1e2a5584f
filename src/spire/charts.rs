//! Every published version of the chart `spire`: the SPIRE that it deploys, the SPIRE that understands what it writes,
//! and what lies on the step to it.
//!
//! The data is `data/charts.toml`. A [`Chart`] exists only for a version that was published.

use std::fmt;
use std::sync::LazyLock;

use semver::Version;
use serde::{Deserialize, Serialize, Serializer};

use crate::spire::releases::{self, Release};

/// The oldest chart for which coastal has values.
pub const OLDEST_WITH_VALUES: Version = Version::new(0, 13, 0);

/// A published version of the chart `spire`; ordered by version.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Chart(u16);

/// A part of SPIRE with a configuration file of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Component {
    /// `spire-server`.
    Server,
    /// `spire-agent`.
    Agent,
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Component::Server => "server",
            Component::Agent => "agent",
        })
    }
}

/// The releases of one component that understand what a chart writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepts {
    /// Whose configuration.
    pub component: Component,
    /// The oldest.
    pub floor: Option<Release>,
    /// The newest; `None` if none is known.
    pub ceiling: Option<Release>,
    /// What it writes: a clause that begins with `it`.
    pub because: String,
    first: Chart,
    last: Chart,
}

impl Accepts {
    /// Whether `release` is older or newer than those.
    #[must_use]
    pub fn refuses(&self, release: Release) -> bool {
        self.floor.is_some_and(|floor| release < floor) || self.ceiling.is_some_and(|ceiling| release > ceiling)
    }
}

/// A place where a chart step breaks what is not prepared for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trap {
    /// 0.12.0: immutable selector of the servers.
    StatefulSetSelector,
    /// 0.14.0: the definitions become a chart.
    CrdAdoption,
    /// 0.15.0: 9980 becomes 9982.
    AgentHealthPort,
    /// 0.15.0: resources without a class are no longer served.
    ClassName,
    /// 0.16.0: keys of the default identity move.
    IdentitiesMoved,
    /// 0.17.0: `image.version` no longer pins.
    ImageVersionIgnored,
    /// 0.17.0: no default identity in the release's namespace.
    ReleaseNamespaceIdentity,
    /// 0.17.0: the OIDC provider is on by default.
    OidcProvider,
    /// 0.17.0: Tornjak's securityContext.
    TornjakSecurityContext,
    /// 0.17.2: the socket's path in the agent's container.
    AgentSocketPath,
    /// 0.19.0: immutable selector of the agents.
    DaemonSetSelector,
    /// 0.20.0: 8081 becomes 443.
    ServerPortMove,
    /// 0.20.0: ids of managed entries.
    EntryPrefix,
    /// 0.22.0: an init container that runs as root.
    ChownContainer,
    /// 0.23.0: /run/spire becomes /var/lib/spire.
    AgentDataDirectory,
    /// 0.24.0: renamed values.
    CamelCaseRenames,
    /// 0.24.0: the default identity falls back behind others.
    DefaultIdentityFallback,
    /// 0.26.0: who writes the bundle, and where.
    BundlePublisher,
    /// 0.27.0: agents replace their bundle by themselves.
    Rebootstrap,
}

impl Trap {
    /// Where it lies: between the chart before this one, and this one.
    #[must_use]
    pub fn at(self) -> Option<Chart> {
        self.entry().map(|entry| entry.at)
    }

    /// What happens there.
    #[must_use]
    pub fn what(self) -> &'static str {
        self.entry().map_or("", |entry| &entry.what)
    }

    /// What coastal does about it.
    #[must_use]
    pub fn handling(self) -> &'static str {
        self.entry().map_or("", |entry| &entry.handling)
    }

    fn entry(self) -> Option<&'static TrapRow> {
        TABLE.traps.iter().find(|row| row.trap == self)
    }
}

/// The chart of that version.
#[must_use]
pub fn find(version: &Version) -> Option<Chart> {
    let at = TABLE.charts.binary_search_by(|row| row.version.cmp(version)).ok()?;
    u16::try_from(at).ok().map(Chart)
}

/// All charts, oldest first.
pub fn all() -> impl DoubleEndedIterator<Item = Chart> + ExactSizeIterator + Clone {
    // The table's length is tested to fit.
    (0..u16::try_from(TABLE.charts.len()).unwrap_or(u16::MAX)).map(Chart)
}

/// The chart that goes with a SPIRE version: the newest that was made for it or for an older one, and that it
/// accepts.
#[must_use]
pub fn made_for(release: Release) -> Option<Chart> {
    all().rev().find(|chart| chart.spire() <= release && chart.refuses_any(release).is_none())
}

impl Chart {
    /// Its version.
    #[must_use]
    pub fn version(self) -> &'static Version {
        &self.row().version
    }

    /// The SPIRE that it deploys unless told otherwise.
    #[must_use]
    pub fn spire(self) -> Release {
        self.row().spire
    }

    /// The controller manager that it deploys, if it does.
    #[must_use]
    pub fn controller_manager(self) -> Option<&'static Version> {
        self.row().controller_manager.as_ref()
    }

    /// The chart `spire-crds` of the same generation; `None` while the definitions were in the chart itself.
    #[must_use]
    pub fn crds(self) -> Option<&'static Version> {
        self.row().crds.as_ref()
    }

    /// Whether coastal has values for it.
    #[must_use]
    pub fn has_values(self) -> bool {
        *self.version() >= OLDEST_WITH_VALUES
    }

    /// What it asks of SPIRE.
    pub fn accepts(self) -> impl Iterator<Item = &'static Accepts> {
        TABLE.accepts.iter().filter(move |row| row.first <= self && self <= row.last)
    }

    /// The reason why `release` does not understand what this chart writes for `component`.
    #[must_use]
    pub fn refuses(self, component: Component, release: Release) -> Option<&'static Accepts> {
        self.accepts().find(|row| row.component == component && row.refuses(release))
    }

    /// As [`Chart::refuses`], for servers and agents of the same release.
    #[must_use]
    pub fn refuses_any(self, release: Release) -> Option<&'static Accepts> {
        self.refuses(Component::Server, release).or_else(|| self.refuses(Component::Agent, release))
    }

    /// Whether the step to `other` skips no minor version of the chart.
    #[must_use]
    pub fn is_within_one_minor(self, other: Chart) -> bool {
        self.version().minor.abs_diff(other.version().minor) <= 1
    }

    /// What lies between both, whichever way one goes.
    #[must_use]
    pub fn traps(self, to: Chart) -> Vec<Trap> {
        let (low, high) = (self.min(to), self.max(to));
        TABLE.traps.iter().filter(|row| low < row.at && row.at <= high).map(|row| row.trap).collect()
    }

    fn row(self) -> &'static Row {
        &TABLE.charts[usize::from(self.0)]
    }
}

/// The charts from `from` to `to` that a chain may stop at, in this order and without `from`: of each minor version the
/// newest, and the newest before the SPIRE that it deploys moves a minor version, or before it asks more of SPIRE.
#[must_use]
pub fn waypoints(from: Chart, to: Chart) -> Vec<Chart> {
    let (low, high) = (from.min(to), from.max(to));
    let alike = |a: Chart, b: Chart| {
        a.version().minor == b.version().minor
            && a.spire().line() == b.spire().line()
            && a.accepts().map(std::ptr::from_ref).eq(b.accepts().map(std::ptr::from_ref))
    };
    let mut found: Vec<Chart> = Vec::new();
    for chart in all().filter(|chart| (low..=high).contains(chart) && *chart != from) {
        match found.last_mut() {
            Some(last) if alike(*last, chart) && *last != to => *last = chart,
            _ => found.push(chart),
        }
    }
    if to < from {
        found.reverse();
    }
    found
}

impl fmt::Display for Chart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.version().fmt(f)
    }
}

impl fmt::Debug for Chart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Chart {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

struct Row {
    version: Version,
    spire: Release,
    controller_manager: Option<Version>,
    crds: Option<Version>,
}

struct TrapRow {
    trap: Trap,
    at: Chart,
    what: String,
    handling: String,
}

#[derive(Default)]
struct Table {
    charts: Vec<Row>,
    accepts: Vec<Accepts>,
    traps: Vec<TrapRow>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    versions: Vec<VersionEntry>,
    accepts: Vec<AcceptsEntry>,
    trap: Vec<TrapEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VersionEntry {
    version: Version,
    spire: Version,
    controller_manager: Option<Version>,
    crds: Option<Version>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AcceptsEntry {
    from: Version,
    to: Option<Version>,
    component: Component,
    floor: Option<Version>,
    ceiling: Option<Version>,
    because: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TrapEntry {
    id: Trap,
    at: Version,
    what: String,
    handling: String,
}

const DATA: &str = include_str!("data/charts.toml");

// A table that cannot be read is empty, and knows no chart; the tests see to it that it can be read, whole.
static TABLE: LazyLock<Table> = LazyLock::new(|| toml::from_str(DATA).ok().and_then(table).unwrap_or_default());

/// `None` if anything in the file names a version that does not exist.
fn table(file: File) -> Option<Table> {
    let charts: Vec<Row> = file
        .versions
        .into_iter()
        .map(|entry| {
            let VersionEntry { version, spire, controller_manager, crds } = entry;
            Some(Row { version, spire: releases::find(&spire)?, controller_manager, crds })
        })
        .collect::<Option<_>>()?;
    let chart = |version: &Version| {
        let at = charts.iter().position(|row| row.version == *version)?;
        u16::try_from(at).ok().map(Chart)
    };
    let known = |version: Option<Version>| match version {
        None => Some(None),
        Some(version) => releases::find(&version).map(Some),
    };
    let newest = u16::try_from(charts.len().checked_sub(1)?).ok().map(Chart)?;
    let accepts = file
        .accepts
        .into_iter()
        .map(|entry| {
            let last = entry.to.as_ref().map_or(Some(newest), chart)?;
            let (floor, ceiling) = (known(entry.floor)?, known(entry.ceiling)?);
            let (component, because) = (entry.component, entry.because);
            Some(Accepts { component, floor, ceiling, because, first: chart(&entry.from)?, last })
        })
        .collect::<Option<_>>()?;
    let traps = file
        .trap
        .into_iter()
        .map(|entry| {
            Some(TrapRow { trap: entry.id, at: chart(&entry.at)?, what: entry.what, handling: entry.handling })
        })
        .collect::<Option<_>>()?;
    Some(Table { charts, accepts, traps })
}

#[cfg(test)]
mod tests;
