//! Every published release of SPIRE, and the database schemas that its server knows.
//!
//! The data is `data/releases.toml`. A [`Release`] exists only for a version that was published, so whatever holds one
//! needs no further check.

use std::fmt;
use std::sync::LazyLock;

use semver::Version;
use serde::{Deserialize, Serialize, Serializer};

/// A published release of SPIRE; ordered by version.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Release(u16);

/// The database schemas of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schema {
    /// What it brings the database to when it starts.
    pub latest: u32,
    /// The oldest that it can bring there.
    pub oldest_migratable: u32,
}

/// Whether that version was published.
///
/// # Examples
/// ```
/// use coastal::spire::releases;
/// assert!(releases::is_published(&semver::Version::new(1, 15, 3)));
/// assert!(!releases::is_published(&semver::Version::new(1, 15, 4)));
/// ```
#[must_use]
pub fn is_published(version: &Version) -> bool {
    find(version).is_some()
}

/// The release of that version.
#[must_use]
pub fn find(version: &Version) -> Option<Release> {
    let at = TABLE.releases.binary_search_by(|row| row.version.cmp(version)).ok()?;
    u16::try_from(at).ok().map(Release)
}

/// All releases, oldest first.
pub fn all() -> impl DoubleEndedIterator<Item = Release> + ExactSizeIterator + Clone {
    // The table's length is tested to fit.
    (0..u16::try_from(TABLE.releases.len()).unwrap_or(u16::MAX)).map(Release)
}

/// The database schemas of the server of that version, if it was published.
#[must_use]
pub fn schema(version: &Version) -> Option<Schema> {
    find(version).map(Release::schema)
}

/// The newest release of the same minor version as `version`, or else the newest of all: what was perhaps meant.
#[must_use]
pub fn nearest(version: &Version) -> Option<Release> {
    let same = |release: &Release| {
        let candidate = release.version();
        (candidate.major, candidate.minor) == (version.major, version.minor)
    };
    all().rev().find(same).or_else(|| all().next_back())
}

impl Release {
    /// Its version.
    #[must_use]
    pub fn version(self) -> &'static Version {
        &self.row().version
    }

    /// The database schemas of its server.
    #[must_use]
    pub fn schema(self) -> Schema {
        self.row().schema
    }

    /// The number of its minor version in the order of publication. 0.12 is followed by 1.0, which SPIRE treats like
    /// neighbouring minor versions, so a difference of one is what its rules call one minor version.
    #[must_use]
    pub fn line(self) -> u16 {
        self.row().line
    }

    /// Whether both are of the same or of neighbouring minor versions.
    #[must_use]
    pub fn is_within_one_minor(self, other: Release) -> bool {
        self.line().abs_diff(other.line()) <= 1
    }

    /// `1.14` for 1.14.2.
    #[must_use]
    pub fn minor(self) -> String {
        let Version { major, minor, .. } = self.version();
        format!("{major}.{minor}")
    }

    /// What a person should know when SPIRE goes from `self` to `to`.
    pub fn crossings(self, to: Release) -> impl Iterator<Item = &'static str> {
        let (low, high) = (self.line().min(to.line()), self.line().max(to.line()));
        let crossed = TABLE.crossings.iter().filter(move |crossing| low < crossing.line && crossing.line <= high);
        crossed.filter_map(move |crossing| if self < to { crossing.up.as_deref() } else { crossing.down.as_deref() })
    }

    fn row(self) -> &'static Row {
        &TABLE.releases[usize::from(self.0)]
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.version().fmt(f)
    }
}

impl fmt::Debug for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Release {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The newest releases of each minor version from `from` to `to`, both included; where the schema moves inside a minor
/// version, the newest before that as well. Towards `to`.
#[must_use]
pub fn waypoints(from: u16, to: u16) -> Vec<Release> {
    let (low, high) = (from.min(to), from.max(to));
    let mut found: Vec<Release> = Vec::new();
    for release in all().filter(|release| (low..=high).contains(&release.line())) {
        match found.last_mut() {
            Some(last) if last.line() == release.line() && last.schema().latest == release.schema().latest => {
                *last = release;
            }
            _ => found.push(release),
        }
    }
    if to < from {
        found.reverse();
    }
    found
}

struct Row {
    version: Version,
    schema: Schema,
    line: u16,
}

struct Crossing {
    line: u16,
    up: Option<String>,
    down: Option<String>,
}

#[derive(Default)]
struct Table {
    releases: Vec<Row>,
    crossings: Vec<Crossing>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    ranges: Vec<Range>,
    crossing: Vec<CrossingEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Range {
    first: Version,
    last: Version,
    schema: u32,
    migrates_from: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CrossingEntry {
    minor: String,
    up: Option<String>,
    down: Option<String>,
}

const DATA: &str = include_str!("data/releases.toml");

// A table that cannot be read is empty, and knows no version; the tests see to it that it can be read.
static TABLE: LazyLock<Table> = LazyLock::new(|| toml::from_str(DATA).map(table).unwrap_or_default());

fn table(file: File) -> Table {
    let mut releases: Vec<Row> = Vec::new();
    for range in file.ranges {
        let line = match releases.last() {
            None => 0,
            Some(last) if last.version.major == range.first.major && last.version.minor == range.first.minor => {
                last.line
            }
            Some(last) => last.line + 1,
        };
        let schema = Schema { latest: range.schema, oldest_migratable: range.migrates_from };
        releases.extend((range.first.patch..=range.last.patch).map(|patch| Row {
            version: Version { patch, ..range.first.clone() },
            schema,
            line,
        }));
    }
    let crossings = file.crossing.into_iter().filter_map(|entry| {
        let first = format!("{}.0", entry.minor).parse::<Version>().ok()?;
        let line = releases.iter().find(|row| row.version == first)?.line;
        Some(Crossing { line, up: entry.up, down: entry.down })
    });
    let crossings = crossings.collect();
    Table { releases, crossings }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(text: &str) -> Release {
        find(&text.parse().unwrap()).unwrap()
    }

    fn file() -> File {
        toml::from_str(DATA).unwrap()
    }

    #[test]
    fn ranges_are_complete_and_in_order() {
        let ranges = file().ranges;
        for range in &ranges {
            assert_eq!((range.first.major, range.first.minor), (range.last.major, range.last.minor));
            assert!(range.first.patch <= range.last.patch && range.first.pre.is_empty() && range.last.pre.is_empty());
            assert!(range.migrates_from <= range.schema);
        }
        for pair in ranges.windows(2) {
            let (before, after) = (&pair[0], &pair[1]);
            assert!(before.last < after.first);
            let same_minor = before.last.minor == after.first.minor && before.last.major == after.first.major;
            let next = match same_minor {
                true => Version { patch: before.last.patch + 1, ..before.last.clone() },
                false if before.last.minor == 12 && before.last.major == 0 => Version::new(1, 0, 0),
                false => Version::new(before.last.major, before.last.minor + 1, 0),
            };
            assert_eq!(next, after.first, "nothing is left out");
        }
    }

    #[test]
    fn schemas_never_go_back() {
        for pair in file().ranges.windows(2) {
            assert!(pair[0].schema <= pair[1].schema && pair[0].migrates_from <= pair[1].migrates_from);
            assert!(pair[1].migrates_from <= pair[0].schema, "the release before it can be left");
        }
    }

    #[test]
    fn all_are_there_once_and_in_order() {
        let versions: Vec<&Version> = all().map(Release::version).collect();
        assert_eq!(versions.len(), 120);
        assert!(versions.is_sorted_by(|a, b| a < b));
        assert_eq!(*versions[0], Version::new(0, 9, 2));
        assert_eq!(*versions[119], Version::new(1, 15, 3));
        assert!(all().all(|release| find(release.version()) == Some(release)));
    }

    #[test]
    fn what_was_never_published_is_not_there() {
        for text in ["1.15.4", "1.16.0", "1.5.7", "2.0.0", "0.9.1", "1.15.2-dev-abc1234", "1.15.2+build"] {
            assert!(!is_published(&text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn schemas_are_those_of_the_sources() {
        let rows = [
            ("0.12.3", 15, 0),
            ("1.1.5", 17, 0),
            ("1.2.0", 18, 17),
            ("1.3.1", 18, 17),
            ("1.3.2", 19, 18),
            ("1.6.5", 21, 19),
            ("1.7.0", 21, 19),
            ("1.7.1", 21, 21),
            ("1.7.2", 22, 21),
            ("1.8.0", 23, 21),
            ("1.10.4", 23, 21),
            ("1.11.0", 23, 23),
            ("1.14.2", 23, 23),
            ("1.14.3", 24, 23),
            ("1.15.3", 25, 23),
        ];
        for (version, latest, oldest_migratable) in rows {
            assert_eq!(release(version).schema(), Schema { latest, oldest_migratable }, "{version}");
        }
    }

    #[test]
    fn neighbours_are_neighbours_across_1_0() {
        let rows = [
            ("1.14.0", "1.15.3", true),
            ("1.13.6", "1.15.0", false),
            ("0.12.3", "1.0.0", true),
            ("0.12.0", "1.1.0", false),
            ("0.11.3", "1.0.0", false),
            ("0.11.3", "0.12.0", true),
        ];
        for (a, b, near) in rows {
            assert_eq!(release(a).is_within_one_minor(release(b)), near, "{a} {b}");
            assert_eq!(release(b).is_within_one_minor(release(a)), near, "{b} {a}");
        }
    }

    #[test]
    fn waypoints_are_the_newest_of_each_minor_and_schema() {
        let names = |from: &str, to: &str| {
            let found = waypoints(release(from).line(), release(to).line());
            found.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names("1.13.0", "1.15.0"), "1.13.6 1.14.2 1.14.7 1.15.3");
        assert_eq!(names("1.8.0", "1.7.0"), "1.8.11 1.7.6 1.7.1");
        assert_eq!(names("1.0.0", "0.12.0"), "1.0.4 0.12.3");
    }

    #[test]
    fn crossings_are_of_known_minor_versions_and_told_once_on_the_way() {
        assert_eq!(file().crossing.len(), TABLE.crossings.len());
        assert_eq!(release("1.10.4").crossings(release("1.11.0")).count(), 1);
        assert_eq!(release("1.11.0").crossings(release("1.10.4")).count(), 1);
        assert_eq!(release("1.11.0").crossings(release("1.11.3")).count(), 0);
    }

    #[test]
    fn what_was_meant_is_guessed() {
        assert_eq!(nearest(&Version::new(1, 5, 7)), Some(release("1.5.6")));
        assert_eq!(nearest(&Version::new(1, 16, 0)), Some(release("1.15.3")));
    }
}
