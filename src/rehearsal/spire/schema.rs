//! What a server does with the database that it finds: the five rules of facts, section 1.

use semver::Version;

/// The newest schema that a release knows, and the oldest that it can migrate from, by the first release that has
/// them (facts, section 1, columns L and P).
const SCHEMAS: &[((u64, u64, u64), u32, u32)] = &[
    ((1, 15, 0), 25, 23),
    ((1, 14, 3), 24, 23),
    ((1, 11, 0), 23, 23),
    ((1, 8, 0), 23, 21),
    ((1, 7, 2), 22, 21),
    ((1, 7, 1), 21, 21),
    ((1, 6, 0), 21, 19),
    ((1, 3, 2), 19, 18),
    ((1, 2, 0), 18, 17),
    ((1, 0, 0), 17, 15),
    ((0, 12, 0), 15, 14),
];

/// The last patch of each minor of SPIRE 1 (facts, section 2).
const LAST_PATCHES: [u64; 16] = [4, 5, 5, 6, 7, 6, 5, 6, 11, 6, 4, 3, 6, 6, 7, 3];

/// What becomes of a server that starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Start {
    /// It starts.
    Starts {
        /// The schema afterwards.
        schema: u32,
        /// The code version afterwards. It is never lowered.
        code_version: String,
        /// Whether it took the schema further.
        migrated: bool,
        /// What it logs as a warning.
        warning: Option<&'static str>,
    },
    /// It ends at once.
    Refuses {
        /// The error that it ends with.
        message: String,
    },
}

/// Starts a server of version `code` on a database whose row of `migrations` is `row`; none if it is empty.
pub(crate) fn server_start(code: &Version, row: Option<(u32, &str)>) -> Start {
    let release = (code.major, code.minor, code.patch);
    let Some(&(_, latest, oldest)) = SCHEMAS.iter().find(|(first, ..)| release >= *first) else {
        return Start::Refuses { message: format!("the rehearsal does not know SPIRE {code}") };
    };
    let Some((schema, stored)) = row else {
        return Start::Starts { schema: latest, code_version: code.to_string(), migrated: false, warning: None };
    };
    let stored_version = Version::parse(stored).unwrap_or_else(|_| Version::new(0, 0, 0));
    if schema < oldest {
        return Start::Refuses {
            message: format!(
                "datastore-sql: migrating from schema version {schema} requires a previous SPIRE release; please follow the upgrade strategy at doc/upgrading.md"
            ),
        };
    }
    if schema > latest {
        let near = stored_version.major == code.major && stored_version.minor.abs_diff(code.minor) <= 1;
        return if near {
            let warning = Some("DB schema is ahead of code version, upgrading SPIRE Server is recommended");
            Start::Starts { schema, code_version: stored.to_owned(), migrated: false, warning }
        } else {
            Start::Refuses { message: "datastore-sql: incompatible DB schema and code version".to_owned() }
        };
    }
    // A migration writes the code version with each step, whatever was there.
    let migrated = schema < latest;
    let code_version = if migrated || *code > stored_version { code.to_string() } else { stored.to_owned() };
    Start::Starts { schema: latest, code_version, migrated, warning: None }
}

/// The row of a database in which servers of that version run, as far as nobody says otherwise.
pub(crate) fn settled_row(server: &Version, schema: Option<u32>, code_version: Option<&Version>) -> (u32, String) {
    let latest = match server_start(server, None) {
        Start::Starts { schema, .. } => schema,
        Start::Refuses { .. } => 0,
    };
    (schema.unwrap_or(latest), code_version.unwrap_or(server).to_string())
}

/// Whether such a release was ever published.
pub(crate) fn is_published(version: &Version) -> bool {
    let last = match (version.major, usize::try_from(version.minor)) {
        (1, Ok(minor)) => LAST_PATCHES.get(minor).copied(),
        (0, Ok(12)) => Some(3),
        _ => None,
    };
    version.pre.is_empty() && last.is_some_and(|last| version.patch <= last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(code: &str, row: Option<(u32, &str)>) -> Start {
        server_start(&Version::parse(code).unwrap(), row)
    }

    /// Facts, section 1: what `srv:` says in the rows of the truth table, by their numbers.
    #[test]
    fn servers_start_migrate_warn_and_refuse() {
        for (row, code, stored, schema, code_version, migrated, warns) in [
            (0, "1.7.2", None, 22, "1.7.2", false, false),
            (1, "1.15.3", Some((24, "1.14.7")), 25, "1.15.3", true, false),
            (2, "1.14.7", Some((23, "1.14.2")), 24, "1.14.7", true, false),
            (5, "1.15.0", Some((23, "1.13.6")), 25, "1.15.0", true, false),
            (6, "1.14.3", Some((23, "1.12.6")), 24, "1.14.3", true, false),
            (7, "1.13.0", Some((23, "1.8.11")), 23, "1.13.0", false, false),
            (9, "1.9.6", Some((22, "1.7.2")), 23, "1.9.6", true, false),
            (10, "1.8.0", Some((21, "1.6.5")), 23, "1.8.0", true, false),
            (12, "1.7.2", Some((21, "1.7.1")), 22, "1.7.2", true, false),
            (13, "1.7.1", Some((22, "1.7.2")), 22, "1.7.2", false, true),
            (15, "1.8.0", Some((22, "1.7.6")), 23, "1.8.0", true, false),
            (21, "1.14.7", Some((25, "1.15.3")), 25, "1.15.3", false, true),
            (23, "1.14.2", Some((25, "1.15.3")), 25, "1.15.3", false, true),
            (26, "1.13.6", Some((24, "1.14.7")), 24, "1.14.7", false, true),
            (28, "1.12.6", Some((23, "1.14.2")), 23, "1.14.2", false, false),
            (43, "1.15.3", Some((25, "1.15.3")), 25, "1.15.3", false, false),
        ] {
            let Start::Starts { schema: s, code_version: c, migrated: m, warning } = start(code, stored) else {
                panic!("row {row}: refused");
            };
            assert_eq!((s, c.as_str(), m, warning.is_some()), (schema, code_version, migrated, warns), "row {row}");
        }
        for (row, code, stored, words) in [
            (8, "1.11.0", (22, "1.7.2"), "schema version 22 requires a previous SPIRE release"),
            (11, "1.7.1", (19, "1.5.6"), "schema version 19 requires"),
            (24, "1.13.6", (25, "1.15.3"), "incompatible DB schema and code version"),
            (25, "1.13.6", (25, "1.15.3"), "incompatible"),
            (27, "1.12.6", (24, "1.14.7"), "incompatible"),
            (32, "1.6.5", (23, "1.8.0"), "incompatible"),
        ] {
            let Start::Refuses { message } = start(code, Some(stored)) else { panic!("row {row}: starts") };
            assert!(message.contains(words), "row {row}: {message}");
        }
    }

    #[test]
    fn published_releases_are_known() {
        for (version, published) in [
            ("1.7.2", true),
            ("1.8.11", true),
            ("1.15.3", true),
            ("0.12.3", true),
            ("1.15.4", false),
            ("1.16.0", false),
            ("1.5.7", false),
            ("2.0.0", false),
            ("0.11.3", false),
            ("1.15.0-rc1", false),
        ] {
            assert_eq!(is_published(&Version::parse(version).unwrap()), published, "{version}");
        }
    }
}
