//! What is in an archive, read in one go: every digest checked, the dump looked through, the keys held against the
//! certificates. `verify` does no more than this; `restore` does it before anything else.

use std::collections::BTreeMap;
use std::path::Path;

use jiff::Timestamp;
use semver::Version;
use serde::Serialize;

use super::archive::{self, DUMP, HEAD, LAB};
use super::authorities::{self, Server};
use super::catalog::Protection;
use super::dump::{Scanner, Seen};
use super::keys::Keys;
use super::manifest::{Authority, Manifest, Migrations, Slot};
use super::seal::Unseal;
use crate::error::Failure;
use crate::spire::policy::{StartOutcome, server_start};
use crate::spire::records::Journal;
use crate::spire::releases::{self, Release};

/// Members that are kept while an archive is read are no longer than this; keys and journals have a few kilobytes.
const LONGEST_KEPT: usize = 16 * 1024 * 1024;

/// The files of one server's claim.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ServerFiles {
    /// `keys.json`. Secret.
    pub keys: Vec<u8>,
    /// `journal.pem`, until SPIRE 1.9.
    pub journal: Option<Vec<u8>>,
}

/// What is in an archive.
pub struct Contents {
    /// How it is closed.
    pub protection: Protection,
    /// What it says of itself.
    pub manifest: Manifest,
    /// What the dump holds.
    pub seen: Seen,
    /// The dump itself, if it was asked for.
    pub dump: Vec<u8>,
    /// By the server's pod.
    pub servers: BTreeMap<String, ServerFiles>,
    /// Custom resources of `spire.spiffe.io`, as they were.
    pub resources: Vec<serde_json::Value>,
    /// The lab file, as it was.
    pub lab: String,
    /// The authorities, as dump and keys show them now.
    pub authorities: Vec<Authority>,
    /// What is wrong with it, in words. It cannot be restored then.
    pub problems: Vec<String>,
    /// What is worth knowing, in words.
    pub remarks: Vec<String>,
}

/// Whether an archive's dump is kept in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// It only goes by: memory does not grow with it.
    Nothing,
    /// It is wanted.
    Dump,
}

/// Reads an archive.
///
/// # Errors
/// It cannot be opened, is no backup of coastal's, or is cut off. What is wrong inside is in [`Contents::problems`].
pub fn read(path: &Path, unseal: &Unseal, keep: Keep) -> Result<Contents, Failure> {
    let (mut scanner, mut dump, mut lab) = (Scanner::default(), Vec::new(), Vec::new());
    let mut servers: BTreeMap<String, ServerFiles> = BTreeMap::new();
    let mut resources: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut problems = Vec::new();
    let reading = archive::read(path, unseal, |name, piece| {
        if name.starts_with(DUMP) {
            scanner.push(piece);
            if keep == Keep::Dump {
                dump.extend_from_slice(piece);
            }
            return;
        }
        let slot = match name.split('/').collect::<Vec<_>>().as_slice() {
            [LAB] => Some(&mut lab),
            ["servers", pod, "keys.json"] if is_pod(pod) => {
                Some(&mut servers.entry((*pod).to_owned()).or_default().keys)
            }
            ["servers", pod, "journal.pem"] if is_pod(pod) => {
                let files = servers.entry((*pod).to_owned()).or_default();
                Some(files.journal.get_or_insert_default())
            }
            ["kubernetes", _] => Some(resources.entry(name.to_owned()).or_default()),
            [HEAD] | ["spire" | "helm", _] => None,
            _ => {
                problems.push(format!("`{name}` is no member of a backup"));
                None
            }
        };
        if let Some(slot) = slot.filter(|slot| slot.len() < LONGEST_KEPT) {
            slot.extend_from_slice(piece);
        }
    })?;
    problems.dedup();
    let seen = scanner.finish();
    problems.extend(reading.problems);
    problems.extend(seen.problems.iter().map(|problem| format!("the dump: {problem}")));
    let manifest = reading.manifest;
    if seen.migrations.as_ref().is_some_and(|row| *row != manifest.migrations) {
        problems.push("the row of `migrations` in the dump is not the one in the manifest".to_owned());
    }
    let mut custom = Vec::new();
    for (name, text) in resources {
        match serde_json::from_slice::<Vec<serde_json::Value>>(&text) {
            Ok(objects) => custom.extend(objects),
            Err(error) => problems.push(format!("`{name}` is no list of objects: {error}")),
        }
    }
    let mut remarks = Vec::new();
    let authorities = held_authorities(&seen, &manifest, &servers, &mut problems, &mut remarks);
    for missing in &manifest.incomplete {
        remarks.push(missing.clone());
    }
    for change in &manifest.changed {
        remarks.push(format!("not of one moment: {change}"));
    }
    Ok(Contents {
        protection: reading.protection,
        manifest,
        seen,
        dump,
        servers,
        resources: custom,
        lab: String::from_utf8_lossy(&lab).into_owned(),
        authorities,
        problems,
        remarks,
    })
}

/// The authorities, by what dump and keys hold; what does not fit together is a problem.
fn held_authorities(
    seen: &Seen,
    manifest: &Manifest,
    files: &BTreeMap<String, ServerFiles>,
    problems: &mut Vec<String>,
    remarks: &mut Vec<String>,
) -> Vec<Authority> {
    let Some(bundle) = seen.bundle(&manifest.trust_domain) else {
        if seen.whole {
            problems.push(format!("the dump holds no bundle of {}", manifest.trust_domain));
        }
        return Vec::new();
    };
    let mut servers = Vec::new();
    for (pod, files) in files {
        let keys = Keys::read(&files.keys).unwrap_or_else(|why| {
            problems.push(format!("keys.json of {pod}: {why}"));
            Keys::default()
        });
        for (id, why) in &keys.unreadable {
            problems.push(format!("keys.json of {pod}: key `{id}` cannot be read: {why}"));
        }
        let journal = files.journal.as_ref().and_then(|bytes| {
            let journal = Journal::read_pem(&String::from_utf8_lossy(bytes));
            journal.map_err(|why| problems.push(format!("journal.pem of {pod}: {why}"))).ok()
        });
        let told = manifest.authorities.iter().find(|one| one.slot == Slot::Active && one.server.as_ref() == Some(pod));
        let active = told.map(|one| one.id.clone());
        servers.push(Server { pod, keys, journal, active });
    }
    let found = authorities::find(bundle, &seen.journals, &servers, manifest.taken_at);
    for server in &servers {
        let jwt = bundle.jwt_keys.iter().filter(|key| server.keys.hold_public(&key.pkix)).count();
        let x509 =
            found.iter().filter(|one| one.server.as_deref() == Some(server.pod) && one.key && one.trusted).count();
        if x509 == 0 {
            problems.push(format!("no key of {} belongs to a CA of the bundle", server.pod));
        } else if jwt == 0 && !bundle.jwt_keys.is_empty() {
            remarks
                .push(format!("no key of {} belongs to a JWT key of the bundle: it will make a new one", server.pod));
        }
    }
    found
}

/// The name of a pod becomes a part of a claim's name: nothing else is taken.
fn is_pod(name: &str) -> bool {
    (1..=63).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// What a server of some version does with the backup's database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "fit", content = "why", rename_all = "kebab-case")]
pub enum Fit {
    /// It starts and leaves the schema as it is.
    AsItIs,
    /// It starts, and migrates the schema for good.
    Migrates,
    /// It would start, but the version policy refuses so wide a step.
    TooFar,
    /// It refuses to start, in its own words.
    Refuses(String),
}

impl Fit {
    /// Whether the backup may be restored onto that version.
    #[must_use]
    pub fn is_legal(&self) -> bool {
        matches!(self, Fit::AsItIs | Fit::Migrates)
    }
}

/// How `version` fits a database with that row (facts, section 1): what the server itself refuses, and what the policy
/// does, for a step over more than one minor version makes new CAs in silence.
#[must_use]
pub fn fit(version: &Version, row: &Migrations) -> Fit {
    match server_start(version, Some((row.schema, &row.code_version))) {
        StartOutcome::Refuses { message, .. } => Fit::Refuses(message.into_owned()),
        StartOutcome::Starts { migrated, .. } => {
            let near = releases::find(version)
                .zip(releases::nearest(&row.code_version))
                .is_some_and(|(version, stored)| version.is_within_one_minor(stored));
            match (near, migrated) {
                (false, _) => Fit::TooFar,
                (true, true) => Fit::Migrates,
                (true, false) => Fit::AsItIs,
            }
        }
    }
}

/// The published versions that could take a database with that row, oldest first.
#[must_use]
pub fn takers(row: &Migrations) -> Vec<(Version, Fit)> {
    let versions = releases::all().map(Release::version);
    versions.map(|version| (version.clone(), fit(version, row))).filter(|(_, fit)| fit.is_legal()).collect()
}

/// The same in a line: `1.7.2 to 1.7.6; 1.8.0 to 1.8.11 (migrates the schema)`.
#[must_use]
pub fn takers_in_words(row: &Migrations) -> String {
    let mut runs: Vec<(Version, Version, Fit)> = Vec::new();
    for (version, fit) in takers(row) {
        match runs.last_mut() {
            Some((_, last, same)) if *same == fit && last.minor == version.minor => *last = version,
            _ => runs.push((version.clone(), version, fit)),
        }
    }
    let words: Vec<String> = runs
        .into_iter()
        .map(|(first, last, fit)| {
            let range = if first == last { first.to_string() } else { format!("{first} to {last}") };
            if fit == Fit::Migrates { format!("{range} (migrates the schema)") } else { range }
        })
        .collect();
    if words.is_empty() { "no published version".to_owned() } else { words.join("; ") }
}

impl Contents {
    /// Until when it covers, by what is really in it.
    #[must_use]
    pub fn cover(&self, now: Timestamp) -> super::cover::Cover {
        super::cover::until(&Manifest { authorities: self.authorities.clone(), ..self.manifest.clone() }, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(schema: u32, code: &str) -> Migrations {
        Migrations { schema, code_version: code.parse().unwrap() }
    }

    #[test]
    fn which_versions_could_take_it() {
        for (version, row, expected) in [
            ("1.7.2", row(22, "1.7.2"), Fit::AsItIs),
            ("1.7.2", row(23, "1.8.0"), Fit::AsItIs),
            ("1.8.0", row(22, "1.7.2"), Fit::Migrates),
            ("1.9.6", row(22, "1.7.2"), Fit::TooFar),
            ("1.13.0", row(23, "1.8.11"), Fit::TooFar),
            ("1.7.2", row(23, "1.9.0"), Fit::Refuses("datastore-sql: incompatible DB schema and code version".into())),
            ("1.5.7", row(22, "1.7.2"), Fit::Refuses("SPIRE 1.5.7 is not a published version".into())),
        ] {
            assert_eq!(fit(&version.parse().unwrap(), &row), expected, "{version} on {row:?}");
        }
        let words = takers_in_words(&row(22, "1.7.2"));
        assert_eq!(words, "1.6.0 to 1.6.5; 1.7.0 to 1.7.6; 1.8.0 to 1.8.11 (migrates the schema)");
        assert_eq!(takers_in_words(&row(99, "2.0.0")), "no published version");
    }

    #[test]
    fn names_of_pods_lead_nowhere_else() {
        assert!(is_pod("spire-server-0"));
        for bad in ["", "..", "a/b", "A", "a.b", &"a".repeat(64)] {
            assert!(!is_pod(bad), "{bad}");
        }
    }
}
