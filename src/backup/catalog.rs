//! The directory of backups: each archive with its description beside it, written last. Also which of them go.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::manifest::Manifest;
use crate::error::{Failure, io_failure};
use crate::files;

/// How an archive is kept from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protection {
    /// Not at all, but by the file's mode.
    Plaintext,
    /// Encrypted to recipients.
    Recipients,
    /// Encrypted with a passphrase.
    Passphrase,
}

impl Protection {
    /// In a word or two.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Protection::Plaintext => "plaintext",
            Protection::Recipients => "age, recipients",
            Protection::Passphrase => "age, passphrase",
        }
    }

    /// What the name of such an archive ends with, after a dot.
    #[must_use]
    pub fn extension(self) -> &'static str {
        if self == Protection::Plaintext { "tar" } else { "tar.age" }
    }
}

/// The description beside an archive. Nobody vouches for it: what matters is read out of the archive itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Described {
    /// The version of this format.
    pub schema: u32,
    /// The archive's name, beside the description.
    pub file: String,
    /// The archive's length.
    pub bytes: u64,
    /// The archive's digest, hexadecimal.
    pub sha256: String,
    /// How it is kept from others.
    pub protection: Protection,
    /// What is in it.
    pub manifest: Manifest,
}

/// What a directory holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Catalog {
    /// Whole backups, oldest first.
    pub described: Vec<Described>,
    /// Archives that have no description, or are not as long as it says: cut off, or brought from elsewhere.
    pub others: Vec<PathBuf>,
}

/// Looks. A directory that is not there holds nothing.
///
/// # Errors
/// It is there and cannot be read.
pub fn read(directory: &Path) -> Result<Catalog, Failure> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Catalog::default()),
        Err(error) => return Err(io_failure("read", directory, &error)),
    };
    let mut catalog = Catalog::default();
    let paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|path| is_archive(path)).collect();
    for path in paths {
        match describe(&path) {
            Some(described) => catalog.described.push(described),
            None => catalog.others.push(path),
        }
    }
    catalog.described.sort_by(|a, b| (a.manifest.taken_at, &a.file).cmp(&(b.manifest.taken_at, &b.file)));
    catalog.others.sort();
    Ok(catalog)
}

/// The newest whole backup of a directory.
///
/// # Errors
/// As [`read`].
pub fn newest(directory: &Path) -> Result<Option<Described>, Failure> {
    Ok(read(directory)?.described.pop())
}

/// The description of an archive, if there is one and the archive has the length that it says.
#[must_use]
pub fn describe(archive: &Path) -> Option<Described> {
    let text = std::fs::read(description_of(archive)).ok()?;
    let described: Described = serde_json::from_slice(&text).ok()?;
    let is_whole = std::fs::metadata(archive).is_ok_and(|found| found.is_file() && found.len() == described.bytes);
    let names_it = archive.file_name().is_some_and(|name| name.to_str() == Some(described.file.as_str()));
    (is_whole && names_it).then_some(described)
}

/// Writes the description beside its archive.
///
/// # Errors
/// It cannot be written.
pub fn write(archive: &Path, described: &Described) -> Result<(), Failure> {
    let text = serde_json::to_vec_pretty(described).map_err(|error| Failure::unexpected(error.to_string()))?;
    files::write_private(&description_of(archive), &text)
}

/// The name of a new archive.
#[must_use]
pub fn file_name(lab: &str, taken_at: Timestamp, protection: Protection) -> String {
    format!("{lab}-{}.{}", taken_at.strftime("%Y%m%dT%H%M%S%3fZ"), protection.extension())
}

/// Takes away what is more than `keep` or older than `max_age`, of this lab only and never the newest. Says what went.
///
/// # Errors
/// The directory cannot be read, or a file stays.
pub fn prune(
    directory: &Path,
    lab: &str,
    keep: usize,
    max_age: Option<Duration>,
    now: Timestamp,
) -> Result<Vec<Described>, Failure> {
    let mut all = read(directory)?.described;
    all.retain(|backup| backup.manifest.lab == lab);
    let gone = surplus(&all, keep, max_age, now);
    for backup in &gone {
        let archive = directory.join(&backup.file);
        // The description goes first: what is left of a removal that was cut off is an archive without one.
        files::remove(&description_of(&archive))?;
        files::remove(&archive)?;
    }
    Ok(gone)
}

/// Which of these, oldest first, are too many or too old.
fn surplus(all: &[Described], keep: usize, max_age: Option<Duration>, now: Timestamp) -> Vec<Described> {
    let Some((_newest, older)) = all.split_last() else { return Vec::new() };
    let oldest_kept = all.len().saturating_sub(keep.max(1));
    let limit = max_age.and_then(|age| now.checked_sub(SignedDuration::try_from(age).ok()?).ok());
    let goes = |(index, backup): &(usize, &Described)| {
        *index < oldest_kept || limit.is_some_and(|limit| backup.manifest.taken_at < limit)
    };
    older.iter().enumerate().filter(goes).map(|(_, backup)| backup.clone()).collect()
}

fn is_archive(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let ending = name.strip_suffix(".age").unwrap_or(name).rsplit_once('.');
    !name.starts_with('.') && ending.is_some_and(|(_, ending)| ending == "tar")
}

fn description_of(archive: &Path) -> PathBuf {
    let mut name = archive.as_os_str().to_owned();
    name.push(".json");
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use semver::Version;

    use super::*;
    use crate::backup::manifest::Migrations;

    fn described(file: &str, hour: i64) -> Described {
        let manifest = Manifest {
            schema: Manifest::SCHEMA,
            coastal: "0.1.0".into(),
            lab: "day-two".into(),
            trust_domain: "example.org".into(),
            taken_at: Timestamp::UNIX_EPOCH + SignedDuration::from_hours(hour),
            one_moment: true,
            changed: Vec::new(),
            incomplete: Vec::new(),
            migrations: Migrations { schema: 22, code_version: Version::new(1, 7, 2) },
            servers: Vec::new(),
            agents: Vec::new(),
            chart: None,
            entries: 0,
            attested_agents: 0,
            authorities: Vec::new(),
            members: Vec::new(),
        };
        Described {
            schema: 1,
            file: file.into(),
            bytes: 3,
            sha256: String::new(),
            protection: Protection::Plaintext,
            manifest,
        }
    }

    fn put(directory: &Path, file: &str, hour: i64) {
        let archive = directory.join(file);
        std::fs::write(&archive, "abc").unwrap();
        write(&archive, &described(file, hour)).unwrap();
    }

    #[test]
    fn only_whole_backups_count_and_the_newest_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        assert_eq!(newest(&path.join("nowhere")).unwrap(), None);
        put(path, "b.tar", 2);
        put(path, "a.tar.age", 3);
        put(path, "cut.tar", 9);
        std::fs::write(path.join("cut.tar"), "ab").unwrap();
        std::fs::write(path.join("brought.tar.age"), "abc").unwrap();
        std::fs::write(path.join("notes.txt"), "abc").unwrap();
        let catalog = read(path).unwrap();
        let files: Vec<&str> = catalog.described.iter().map(|one| one.file.as_str()).collect();
        assert_eq!(files, ["b.tar", "a.tar.age"]);
        assert_eq!(catalog.others, [path.join("brought.tar.age"), path.join("cut.tar")]);
        assert_eq!(newest(path).unwrap().unwrap().file, "a.tar.age");
    }

    #[test]
    fn what_is_too_much_or_too_old_goes_and_the_newest_never() {
        let hours = |hours: u64| Some(Duration::from_secs(hours * 3600));
        let all: Vec<Described> = (0..5).map(|hour| described(&format!("{hour}.tar"), hour)).collect();
        let now = Timestamp::UNIX_EPOCH + SignedDuration::from_hours(100);
        for (keep, age, gone) in [
            (9, None, vec![]),
            (3, None, vec!["0.tar", "1.tar"]),
            (9, hours(98), vec!["0.tar", "1.tar"]),
            (4, hours(98), vec!["0.tar", "1.tar"]),
            (0, hours(1), vec!["0.tar", "1.tar", "2.tar", "3.tar"]),
        ] {
            let files: Vec<String> = surplus(&all, keep, age, now).into_iter().map(|one| one.file).collect();
            assert_eq!(files, gone, "keep {keep}, {age:?}");
        }
        assert!(surplus(&[], 1, None, now).is_empty());
    }

    #[test]
    fn another_labs_backups_are_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        for hour in 0..3 {
            put(directory.path(), &format!("{hour}.tar"), hour);
        }
        let now = Timestamp::UNIX_EPOCH;
        assert!(prune(directory.path(), "another", 1, None, now).unwrap().is_empty());
        assert_eq!(prune(directory.path(), "day-two", 1, None, now).unwrap().len(), 2);
        let catalog = read(directory.path()).unwrap();
        assert_eq!((catalog.described.len(), catalog.others.len()), (1, 0));
    }
}
