//! What helm prints.

use std::fmt;

use jiff::Timestamp;
use semver::Version;
use serde::{Deserialize, Serialize};

use super::version;
use crate::tools::versions::find_version;
use crate::tools::{CommandError, Output, excerpt, garbage};

/// Reads the output of [`version`]: `v3.17.2`.
///
/// # Errors
/// [`CommandError::Garbage`].
pub fn parse_version(output: &Output) -> Result<Version, CommandError> {
    find_version(&output.stdout)
        .ok_or_else(|| garbage(version().line(), format!("expected `vX.Y.Z`, got {}", excerpt(&output.stdout))))
}

/// A chart repository.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Repository {
    /// The name it was added under.
    pub name: String,
    /// Its URL.
    pub url: String,
}

/// Reads the result of [`super::Helm::repo_list`]. Older helms end with exit code 1 when there is none.
///
/// # Errors
/// Any other failure, and [`CommandError::Garbage`].
pub fn parse_repo_list(result: Result<Output, CommandError>) -> Result<Vec<Repository>, CommandError> {
    match result {
        Ok(output) => parse_json("helm repo list", &output.stdout),
        Err(CommandError::Exit { output, .. }) if output.stderr.contains("no repositories to show") => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// The status of a release's newest revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReleaseStatus {
    /// Its objects were sent.
    Deployed,
    /// Sending its objects, or a hook, failed.
    Failed,
    /// A first install is under way, or was cut off.
    PendingInstall,
    /// An upgrade is under way, or was cut off.
    PendingUpgrade,
    /// A rollback is under way, or was cut off.
    PendingRollback,
    /// A removal is under way, or was cut off.
    Uninstalling,
    /// A newer revision took its place.
    Superseded,
    /// Removed, with its history kept.
    Uninstalled,
    /// A status that this list does not have.
    #[serde(other)]
    Unknown,
}

impl ReleaseStatus {
    /// Whether helm refuses further work on the release (`another operation … is in progress`).
    #[must_use]
    pub fn is_pending(self) -> bool {
        matches!(self, ReleaseStatus::PendingInstall | ReleaseStatus::PendingUpgrade | ReleaseStatus::PendingRollback)
    }
}

impl fmt::Display for ReleaseStatus {
    /// In helm's own spelling.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ReleaseStatus::Deployed => "deployed",
            ReleaseStatus::Failed => "failed",
            ReleaseStatus::PendingInstall => "pending-install",
            ReleaseStatus::PendingUpgrade => "pending-upgrade",
            ReleaseStatus::PendingRollback => "pending-rollback",
            ReleaseStatus::Uninstalling => "uninstalling",
            ReleaseStatus::Superseded => "superseded",
            ReleaseStatus::Uninstalled => "uninstalled",
            ReleaseStatus::Unknown => "in an unknown state",
        })
    }
}

/// A release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// The newest revision, from 1.
    pub revision: u32,
    /// That revision's status.
    pub status: ReleaseStatus,
    /// Chart and version in one word: `spire-0.13.0`.
    pub chart: String,
    /// The chart's `appVersion`; may be empty.
    pub app_version: String,
    /// When that revision was made; absent if helm's words about it are not understood.
    pub updated: Option<Timestamp>,
}

impl Release {
    /// Whether `chart` at `version` is what is installed.
    #[must_use]
    pub fn is_of(&self, chart: &str, version: &Version) -> bool {
        self.chart == format!("{chart}-{version}")
    }
}

/// Reads the output of [`super::Helm::list`].
///
/// # Errors
/// [`CommandError::Garbage`].
pub fn parse_list(output: &Output) -> Result<Vec<Release>, CommandError> {
    #[derive(Deserialize)]
    struct Row {
        name: String,
        namespace: String,
        revision: String,
        updated: String,
        status: ReleaseStatus,
        chart: String,
        #[serde(default)]
        app_version: String,
    }
    const LINE: &str = "helm list";
    parse_json::<Vec<Row>>(LINE, &output.stdout)?
        .into_iter()
        .map(|row| {
            let revision = row.revision.parse().map_err(|_| {
                garbage(LINE, format!("expected a revision number of {}, got {}", row.name, excerpt(&row.revision)))
            })?;
            Ok(Release {
                revision,
                updated: parse_time(&row.updated),
                name: row.name,
                namespace: row.namespace,
                status: row.status,
                chart: row.chart,
                app_version: row.app_version,
            })
        })
        .collect()
}

/// A revision of a release, as helm remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct HistoryRow {
    /// Its number.
    pub revision: u32,
    /// Its status.
    pub status: ReleaseStatus,
    /// Chart and version in one word: `spire-0.13.0`.
    pub chart: String,
}

/// Reads the output of [`super::Helm::history`]: oldest first.
///
/// # Errors
/// [`CommandError::Garbage`].
pub fn parse_history(output: &Output) -> Result<Vec<HistoryRow>, CommandError> {
    parse_json("helm history", &output.stdout)
}

/// Reads the output of [`super::Helm::get_values`]; a release without values has an empty object.
///
/// # Errors
/// [`CommandError::Garbage`], without what was printed: it may be secret.
pub fn parse_values(output: &Output) -> Result<serde_json::Value, CommandError> {
    match serde_json::from_str(output.stdout.trim()) {
        Ok(serde_json::Value::Null) => Ok(serde_json::Value::Object(serde_json::Map::new())),
        Ok(values @ serde_json::Value::Object(_)) => Ok(values),
        Ok(_) | Err(_) => Err(garbage("helm get values", "expected a JSON object")),
    }
}

/// Whether a command failed because there is no such release.
#[must_use]
pub fn is_release_not_found(error: &CommandError) -> bool {
    matches!(error, CommandError::Exit { output, .. } if output.stderr.contains("release: not found"))
}

/// Whether a command failed because a revision is pending.
#[must_use]
pub fn is_operation_in_progress(error: &CommandError) -> bool {
    matches!(error, CommandError::Exit { output, .. }
        if output.stderr.contains("another operation (install/upgrade/rollback) is in progress"))
}

fn parse_json<T: for<'de> Deserialize<'de>>(line: &str, text: &str) -> Result<T, CommandError> {
    serde_json::from_str(text.trim())
        .map_err(|error| garbage(line, format!("not the JSON that was expected ({error}): {}", excerpt(text))))
}

/// Go's way to print a time: `2023-10-21 18:01:02.123456789 +0000 UTC`.
fn parse_time(text: &str) -> Option<Timestamp> {
    let mut words = text.split_whitespace();
    let (date, time, offset) = (words.next()?, words.next()?, words.next()?);
    Timestamp::strptime("%Y-%m-%d %H:%M:%S%.f %z", format!("{date} {time} {offset}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::Tool;

    fn out(stdout: &str) -> Output {
        Output { stdout: stdout.into(), stderr: String::new() }
    }

    fn failed(stderr: &str) -> CommandError {
        CommandError::Exit {
            line: "helm".into(),
            code: 1,
            output: Output { stdout: String::new(), stderr: stderr.into() },
        }
    }

    #[test]
    fn versions_are_read() {
        assert_eq!(parse_version(&out("v3.17.2")).unwrap(), Version::new(3, 17, 2));
        assert_eq!(parse_version(&out("v4.0.1\n")).unwrap(), Version::new(4, 0, 1));
        for garbage in ["", "Error: unknown", "v3", "\u{fffd}\u{fffd}"] {
            assert!(matches!(parse_version(&out(garbage)), Err(CommandError::Garbage { .. })), "{garbage}");
        }
    }

    #[test]
    fn repositories_are_read() {
        let two =
            r#"[{"name":"spiffe","url":"https://spiffe.github.io/helm-charts/"},{"name":"p","url":"https://p/"}]"#;
        let repositories = parse_repo_list(Ok(out(two))).unwrap();
        assert_eq!(repositories.len(), 2);
        assert_eq!(repositories[0].name, "spiffe");
        assert_eq!(parse_repo_list(Ok(out("[]\n"))).unwrap(), []);
        assert_eq!(parse_repo_list(Err(failed("Error: no repositories to show\n"))).unwrap(), []);
        let other = failed("Error: open /state/helm/repositories.yaml: permission denied\n");
        assert_eq!(parse_repo_list(Err(other.clone())).unwrap_err(), other);
        assert!(matches!(parse_repo_list(Ok(out("NAME URL\n"))), Err(CommandError::Garbage { .. })));
    }

    #[test]
    fn releases_are_read() {
        let printed = r#"[{"name":"spire","namespace":"spire-server","revision":"2","updated":"2026-11-24 05:39:32.123456789 +0200 EET","status":"deployed","chart":"spire-0.13.0","app_version":"1.7.2"}]"#;
        let releases = parse_list(&out(printed)).unwrap();
        assert_eq!(
            releases,
            [Release {
                name: "spire".into(),
                namespace: "spire-server".into(),
                revision: 2,
                status: ReleaseStatus::Deployed,
                chart: "spire-0.13.0".into(),
                app_version: "1.7.2".into(),
                updated: Some("2026-11-24T03:39:32.123456789Z".parse().unwrap()),
            }]
        );
        assert!(releases[0].is_of("spire", &Version::new(0, 13, 0)));
        assert!(!releases[0].is_of("spire", &Version::new(0, 13, 1)));
        assert_eq!(parse_list(&out("[]\n")).unwrap(), []);
        for garbage in ["", "{}", "null", r#"[{"name":"spire"}]"#] {
            assert!(matches!(parse_list(&out(garbage)), Err(CommandError::Garbage { .. })), "{garbage}");
        }
    }

    #[test]
    fn every_status_is_told_apart() {
        for (word, status, pending) in [
            ("deployed", ReleaseStatus::Deployed, false),
            ("failed", ReleaseStatus::Failed, false),
            ("pending-install", ReleaseStatus::PendingInstall, true),
            ("pending-upgrade", ReleaseStatus::PendingUpgrade, true),
            ("pending-rollback", ReleaseStatus::PendingRollback, true),
            ("uninstalling", ReleaseStatus::Uninstalling, false),
            ("superseded", ReleaseStatus::Superseded, false),
            ("uninstalled", ReleaseStatus::Uninstalled, false),
            ("unknown", ReleaseStatus::Unknown, false),
            ("something-new", ReleaseStatus::Unknown, false),
        ] {
            let printed = format!(
                r#"[{{"name":"r","namespace":"n","revision":"1","updated":"-","status":"{word}","chart":"c-1.0.0","app_version":""}}]"#
            );
            let release = parse_list(&out(&printed)).unwrap().remove(0);
            assert_eq!((release.status, release.status.is_pending()), (status, pending), "{word}");
            assert_eq!(release.updated, None);
        }
    }

    #[test]
    fn values_are_read_and_never_shown() {
        assert_eq!(parse_values(&out("null\n")).unwrap(), serde_json::json!({}));
        assert_eq!(parse_values(&out(r#"{"a":{"b":1}}"#)).unwrap()["a"]["b"], 1);
        let error = parse_values(&out("password: hunter2")).unwrap_err();
        assert!(!error.to_string().contains("hunter2"));
    }

    #[test]
    fn known_words_are_recognised() {
        assert!(is_release_not_found(&failed("Error: release: not found\n")));
        assert!(is_release_not_found(&failed("Error: uninstall: Release not loaded: nope: release: not found\n")));
        assert!(!is_release_not_found(&failed("Error: repo nope not found\n")));
        assert!(is_operation_in_progress(&failed(
            "Error: UPGRADE FAILED: another operation (install/upgrade/rollback) is in progress\n"
        )));
        assert!(!is_operation_in_progress(&CommandError::NotFound { tool: Tool::Helm }));
    }
}
