//! What a SPIRE server does with the database when it starts: the only one of its version rules that it enforces
//! itself.
//!
//! Source: pkg/server/datastore/sqlstore/migration.go of each release. The database has one row `migrations` with the
//! schema's version and the newest code version that wrote there. A newer code version at the same schema is stored, an
//! older one never; migrations go up only; a schema from the future is borne if it was written by a neighbouring minor
//! version. The server compares no minor versions otherwise.

use std::borrow::Cow;
use std::cmp::Ordering;

use semver::Version;
use serde::Serialize;

use crate::spire::releases::{self, Release};

/// The row `migrations` of SPIRE's database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The schema's version.
    pub schema: u32,
    /// The newest SPIRE version that wrote there. Not necessarily a published one.
    pub code_version: Version,
}

/// How the start of a server ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartOutcome {
    /// It serves.
    Starts {
        /// The database's schema from now on.
        schema: u32,
        /// The stored code version from now on.
        code_version: Version,
        /// Whether it migrated the database, which nothing undoes but a backup.
        migrated: bool,
        /// What it logs at level `warning`.
        warning: Option<&'static str>,
    },
    /// It ends with exit code 1 and leaves the row as it was.
    Refuses {
        /// Its last word.
        message: Cow<'static, str>,
        /// What it logs at level `error` before, if anything.
        log: Option<&'static str>,
    },
}

impl StartOutcome {
    /// The row after the start; `None` if it refused.
    #[must_use]
    pub fn row(self) -> Option<Row> {
        match self {
            StartOutcome::Starts { schema, code_version, .. } => Some(Row { schema, code_version }),
            StartOutcome::Refuses { .. } => None,
        }
    }

    /// Whether it serves.
    #[must_use]
    pub fn is_started(&self) -> bool {
        matches!(self, StartOutcome::Starts { .. })
    }
}

/// Logged when an older server bears a newer schema.
pub const AHEAD: &str = "DB schema is ahead of code version, upgrading SPIRE Server is recommended";
/// Logged when it does not.
pub const TOO_NEW: &str = "Incompatible DB schema is too new for code version, upgrade SPIRE Server";

/// How the server of version `code` starts on a database with that `migrations` row (schema and code version), or on an
/// empty one.
///
/// A version that was never published refuses, in words of our own: there is no such image.
#[must_use]
pub fn server_start(code: &Version, row: Option<(u32, &Version)>) -> StartOutcome {
    let Some(own) = releases::schema(code) else {
        return refuses(format!("SPIRE {code} is not a published version"), None);
    };
    let stays = |schema, stored: &Version, warning| StartOutcome::Starts {
        schema,
        code_version: stored.clone(),
        migrated: false,
        warning,
    };
    let Some((schema, stored)) = row else {
        return stays(own.latest, code, None);
    };
    match schema.cmp(&own.latest) {
        Ordering::Equal => stays(schema, newer(code, stored), None),
        Ordering::Greater if is_compatible(code, stored) => stays(schema, stored, Some(AHEAD)),
        Ordering::Greater => refuses("datastore-sql: incompatible DB schema and code version", Some(TOO_NEW)),
        Ordering::Less if schema < own.oldest_migratable => refuses(
            format!(
                "datastore-sql: migrating from schema version {schema} requires a previous SPIRE release; please \
                 follow the upgrade strategy at doc/upgrading.md"
            ),
            None,
        ),
        Ordering::Less => {
            StartOutcome::Starts { schema: own.latest, code_version: code.clone(), migrated: true, warning: None }
        }
    }
}

/// The row after `release` has started on `row`; `None` if it refuses.
pub(crate) fn after(release: Release, row: &Row) -> Option<Row> {
    server_start(release.version(), Some((row.schema, &row.code_version))).row()
}

/// As [`server_start`], for a server with `disable_migration = true`.
#[must_use]
pub fn server_start_unmigrated(code: &Version, row: Option<(u32, &Version)>) -> StartOutcome {
    match (row, releases::schema(code)) {
        (Some((schema, stored)), Some(own)) if schema != own.latest => {
            if is_compatible(code, stored) {
                let code_version = stored.clone();
                StartOutcome::Starts { schema, code_version, migrated: false, warning: None }
            } else {
                let log = "Auto-migrate must be enabled";
                refuses("datastore-sql: auto-migration must be enabled for current DB", Some(log))
            }
        }
        _ => server_start(code, row),
    }
}

fn refuses(message: impl Into<Cow<'static, str>>, log: Option<&'static str>) -> StartOutcome {
    StartOutcome::Refuses { message: message.into(), log }
}

fn newer<'a>(a: &'a Version, b: &'a Version) -> &'a Version {
    if a.cmp_precedence(b).is_gt() { a } else { b }
}

/// `isCompatibleCodeVersion`: the same major version and neighbouring minor versions. Only 0.12 and 1.0 carry the
/// exception for each other.
fn is_compatible(code: &Version, stored: &Version) -> bool {
    matches!(((code.major, code.minor), (stored.major, stored.minor)), ((0, 12), (1, 0)) | ((1, 0), (0, 12)))
        || code.major == stored.major && code.minor.abs_diff(stored.minor) <= 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        text.parse().unwrap()
    }

    /// `starts SCHEMA CODE`, with `migrated` or `ahead`; or the last word.
    fn outcome(start: StartOutcome) -> String {
        match start {
            StartOutcome::Starts { schema, code_version, migrated, warning } => {
                let migrated = if migrated { " migrated" } else { "" };
                let warning = warning.map(|text| if text == AHEAD { " ahead" } else { text }).unwrap_or_default();
                format!("starts {schema} {code_version}{migrated}{warning}")
            }
            StartOutcome::Refuses { message, .. } => message.into_owned(),
        }
    }

    #[test]
    fn rules_in_the_servers_own_words() {
        let incompatible = "datastore-sql: incompatible DB schema and code version";
        let rows = [
            // An empty database.
            ("1.7.2", None, "starts 22 1.7.2"),
            // Rule 1: the same schema. The code version goes up and never down.
            ("1.13.6", Some((23, "1.8.11")), "starts 23 1.13.6"),
            ("1.8.11", Some((23, "1.13.6")), "starts 23 1.13.6"),
            ("1.13.6", Some((23, "1.13.6-dev-abc")), "starts 23 1.13.6"),
            // Rule 2: behind, with no look at minor versions.
            ("1.15.0", Some((23, "1.8.0")), "starts 25 1.15.0 migrated"),
            (
                "1.11.0",
                Some((22, "1.7.2")),
                "datastore-sql: migrating from schema version 22 requires a previous SPIRE release; please follow the \
                 upgrade strategy at doc/upgrading.md",
            ),
            // Rule 3: ahead.
            ("1.7.2", Some((23, "1.8.0")), "starts 23 1.8.0 ahead"),
            ("1.7.2", Some((23, "1.9.0")), incompatible),
            ("1.13.6", Some((25, "1.15.3")), incompatible),
            ("1.15.3", Some((26, "1.16.0")), "starts 26 1.16.0 ahead"),
            ("1.15.3", Some((40, "2.0.0")), incompatible),
            // Rule 5: 0.12 and 1.0 bear each other; 1.1 bears no 0.12.
            ("0.12.3", Some((17, "1.0.4")), "starts 17 1.0.4 ahead"),
            ("0.12.3", Some((17, "1.1.0")), incompatible),
            ("0.11.3", Some((17, "1.0.0")), incompatible),
            ("1.0.0", Some((15, "0.12.3")), "starts 17 1.0.0 migrated"),
            ("1.5.7", None, "SPIRE 1.5.7 is not a published version"),
        ];
        for (code, row, expected) in rows {
            let stored = row.map(|(schema, stored)| (schema, version(stored)));
            let row = stored.as_ref().map(|(schema, stored)| (*schema, stored));
            assert_eq!(outcome(server_start(&version(code), row)), expected, "{code} on {row:?}");
        }
    }

    #[test]
    fn a_server_that_must_not_migrate() {
        let must = "datastore-sql: auto-migration must be enabled for current DB";
        let rows = [
            ("1.8.0", (22, "1.7.6"), "starts 22 1.7.6"),
            ("1.9.0", (22, "1.7.6"), must),
            ("1.7.6", (23, "1.9.0"), must),
            ("1.7.6", (22, "1.7.2"), "starts 22 1.7.6"),
        ];
        for (code, (schema, stored), expected) in rows {
            let stored = version(stored);
            let start = server_start_unmigrated(&version(code), Some((schema, &stored)));
            assert_eq!(outcome(start), expected, "{code}");
        }
    }

    #[test]
    fn no_start_lowers_the_row() {
        let versions: Vec<&Version> = releases::all().map(Release::version).collect();
        for stored in &versions {
            let schema = releases::schema(stored).unwrap().latest;
            for code in &versions {
                if let Some(row) = server_start(code, Some((schema, stored))).row() {
                    assert!(row.schema >= schema && row.code_version >= **stored, "{code} on {schema} {stored}");
                }
            }
        }
    }
}
