//! Changes lab.toml where `upgrade` has moved what it says, and leaves every other byte as its author wrote it.

use std::path::Path;

use semver::Version;
use toml_edit::{DocumentMut, Item, TableLike, Value};

use crate::error::{Failure, io_failure};
use crate::files;

/// What `[spire]` should say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpireVersions {
    /// `server-version`.
    pub server: Version,
    /// `agent-version`; left out where it was left out and is the same as the servers'.
    pub agent: Version,
    /// The version of `chart`, if it comes from a repository; a local chart is named by its path.
    pub chart: Option<Version>,
}

/// Writes the versions into the lab.toml `file`.
///
/// # Errors
/// It cannot be read or written, or its `[spire]` is not a table.
pub fn write_versions(file: &Path, versions: &SpireVersions) -> Result<(), Failure> {
    let text = std::fs::read_to_string(file).map_err(|error| io_failure("read", file, &error))?;
    let new = with_versions(&text, versions).map_err(|why| {
        Failure::new(crate::error::Kind::Config, format!("`{}` was not changed: {why}", file.display()))
    })?;
    files::replace(file, new.as_bytes())
}

fn with_versions(text: &str, versions: &SpireVersions) -> Result<String, String> {
    let mut document: DocumentMut = text.parse().map_err(|error: toml_edit::TomlError| error.to_string())?;
    let spire = document.entry("spire").or_insert(Item::Table(toml_edit::Table::new()));
    let spire = spire.as_table_like_mut().ok_or("`spire` is not a table")?;
    set(spire, "server-version", &versions.server);
    if spire.contains_key("agent-version") || versions.agent != versions.server {
        set(spire, "agent-version", &versions.agent);
    }
    if let (Some(version), Some(chart)) = (&versions.chart, spire.get_mut("chart").and_then(Item::as_table_like_mut))
        && chart.contains_key("version")
    {
        set(chart, "version", version);
    }
    Ok(document.to_string())
}

/// Replaces the value and keeps what stands around it: spaces, and a comment behind it.
fn set(table: &mut dyn TableLike, key: &str, version: &Version) {
    let mut new = Value::from(version.to_string());
    match table.get_mut(key) {
        Some(item) => {
            if let Some(old) = item.as_value() {
                *new.decor_mut() = old.decor().clone();
            }
            *item = Item::Value(new);
        }
        None => drop(table.insert(key, Item::Value(new))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions(server: &str, agent: &str, chart: Option<&str>) -> SpireVersions {
        let parse = |text: &str| text.parse::<Version>().unwrap();
        SpireVersions { server: parse(server), agent: parse(agent), chart: chart.map(parse) }
    }

    #[test]
    fn only_the_versions_change() {
        let new = with_versions(crate::config::DEFAULT, &versions("1.8.0", "1.8.0", None)).unwrap();
        let differing: Vec<(&str, &str)> =
            crate::config::DEFAULT.lines().zip(new.lines()).filter(|(old, new)| old != new).collect();
        assert_eq!(differing, [(r#"server-version = "1.7.2""#, r#"server-version = "1.8.0""#)]);
        assert_eq!(new.lines().count(), crate::config::DEFAULT.lines().count());
    }

    #[test]
    fn comments_and_both_forms_of_a_chart_are_kept() {
        let text = "[spire]\nserver-version   =  \"1.7.2\"  # pinned\nagent-version = \"1.7.1\"\nchart = { repo = \"r\", name = \"spire\", version = \"0.13.0\" }\n";
        assert_eq!(
            with_versions(text, &versions("1.8.2", "1.8.2", Some("0.14.0"))).unwrap(),
            "[spire]\nserver-version   =  \"1.8.2\"  # pinned\nagent-version = \"1.8.2\"\nchart = { repo = \"r\", name = \"spire\", version = \"0.14.0\" }\n"
        );
        let table = "[spire.chart]\nversion = \"0.13.0\"\nname = \"spire\"\n";
        assert_eq!(
            with_versions(table, &versions("1.8.2", "1.8.1", Some("0.14.0"))).unwrap(),
            "[spire]\nserver-version = \"1.8.2\"\nagent-version = \"1.8.1\"\n[spire.chart]\nversion = \"0.14.0\"\nname = \"spire\"\n"
        );
        let local = "[spire]\nchart = { path = \"spire.tgz\" }\n";
        assert!(
            with_versions(local, &versions("1.8.2", "1.8.2", Some("0.14.0")))
                .unwrap()
                .contains("{ path = \"spire.tgz\" }")
        );
    }

    #[test]
    fn what_is_no_table_is_left_alone() {
        assert!(with_versions("spire = 3\n", &versions("1.8.2", "1.8.2", None)).is_err());
        assert!(with_versions("[spire\n", &versions("1.8.2", "1.8.2", None)).is_err());
    }
}
