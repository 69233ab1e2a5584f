//! What is remembered of a rotation, in the lab's own files: one directory each.

use std::path::{Path, PathBuf};

use crate::error::{Failure, Kind, io_failure};
use crate::files;
use crate::spire::rotation::{Incident, Outcome};

const DATA: &str = "incident.json";
const REPORT: &str = "report.md";

/// Writes it down: data and report, whole or not at all.
///
/// # Errors
/// It cannot be written.
pub fn save(directory: &Path, incident: &Incident) -> Result<(), Failure> {
    let directory = directory.join(&incident.id);
    let json = serde_json::to_vec_pretty(incident).map_err(|error| Failure::unexpected(error.to_string()))?;
    files::write_private(&directory.join(DATA), &json)?;
    files::write_private(&directory.join(REPORT), incident.markdown().as_bytes())
}

/// The report of an incident.
#[must_use]
pub fn report(directory: &Path, incident: &Incident) -> PathBuf {
    directory.join(&incident.id).join(REPORT)
}

/// The newest incident that has not come to its end, if there is one.
///
/// # Errors
/// It cannot be read: without it nobody knows which authorities were to go.
pub fn open(directory: &Path) -> Result<Option<Incident>, Failure> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_failure("look into", directory, &error)),
    };
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path().join(DATA))).collect();
    files.retain(|file| file.exists());
    files.sort();
    let Some(newest) = files.pop() else { return Ok(None) };
    // Whether new keys without a rotation are under way is told by their mark in the cluster.
    Ok(Some(of_file(&newest)?).filter(|incident| incident.outcome == Outcome::Open && incident.rekey.is_none()))
}

/// The incident of that id, if it is known here.
///
/// # Errors
/// It cannot be read.
pub fn read(directory: &Path, id: &str) -> Result<Option<Incident>, Failure> {
    let file = directory.join(id).join(DATA);
    if file.is_file() { of_file(&file).map(Some) } else { Ok(None) }
}

fn of_file(file: &Path) -> Result<Incident, Failure> {
    let text = std::fs::read_to_string(file).map_err(|error| io_failure("read", file, &error))?;
    serde_json::from_str(&text).map_err(|error| {
        Failure::new(Kind::Prerequisite, format!("`{}` cannot be read: {error}", file.display()))
            .next("`coastal rotate --anew --yes` begins a new rotation, of everything that is there now")
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jiff::Timestamp;

    use super::*;

    #[test]
    fn only_the_newest_that_is_open_is_gone_on_with() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("incidents");
        assert!(open(&path).unwrap().is_none());
        let mut incident = Incident::open(Timestamp::UNIX_EPOCH, BTreeMap::new());
        save(&path, &incident).unwrap();
        assert_eq!(open(&path).unwrap().as_ref(), Some(&incident));
        assert!(std::fs::read_to_string(report(&path, &incident)).unwrap().starts_with("# Key rotation 1970"));
        incident.outcome = Outcome::Complete;
        save(&path, &incident).unwrap();
        assert!(open(&path).unwrap().is_none());
        std::fs::write(path.join(&incident.id).join(DATA), "{").unwrap();
        assert_eq!(open(&path).unwrap_err().kind, Kind::Prerequisite);
    }
}
