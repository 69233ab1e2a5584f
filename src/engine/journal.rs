//! The journal: every event of a run, one JSON object per line, in `RUN/events.jsonl` under the lab's runs.
//!
//! Each line goes to the operating system in one write as it happens, so a run that is killed leaves a true journal; at
//! worst its last line is torn, which [`read`] leaves out. A journal that cannot be written does not stop the run:
//! the trouble is kept for [`Journal::trouble`].

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::engine::event::{Event, SCHEMA, Sink, What};
use crate::error::{Failure, io_failure};

/// How many runs are kept; older ones are removed when a new one begins.
pub const KEPT: usize = 50;

const EVENTS: &str = "events.jsonl";

/// Writes the events of one run.
pub struct Journal {
    directory: PathBuf,
    state: Mutex<State>,
}

struct State {
    /// Absent after a failed write: its last line may be torn, and anything behind it would make the rest unreadable.
    file: Option<File>,
    trouble: Option<String>,
}

impl Journal {
    /// Makes the directory of a new run below `runs` (mode 0700) and says the run's id, which is the directory's name.
    /// Ids sort by time of start. `command` is what is run, e.g. `up`.
    ///
    /// # Errors
    /// The directory or the file cannot be made.
    pub fn create(runs: &Path, command: &str, now: Timestamp) -> Result<(Journal, String), Failure> {
        let private = |recursive: bool, path: &Path| DirBuilder::new().recursive(recursive).mode(0o700).create(path);
        private(true, runs).map_err(|error| io_failure("create the directory of runs", runs, &error))?;
        let base = id(command, now);
        let mut run = base.clone();
        let mut tries = 1;
        let directory = loop {
            let directory = runs.join(&run);
            match private(false, &directory) {
                Ok(()) => break directory,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    tries += 1;
                    run = format!("{base}-{tries}");
                }
                Err(error) => return Err(io_failure("create the run's directory", &directory, &error)),
            }
        };
        let path = directory.join(EVENTS);
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(|error| io_failure("create the journal", &path, &error))?;
        let trouble = retire(runs, &run).err();
        Ok((Journal { directory, state: Mutex::new(State { file: Some(file), trouble }) }, run))
    }

    /// The run's directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What went wrong with the journal so far, for one warning at the end of the run.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).trouble.clone()
    }
}

impl Sink for Journal {
    fn take(&self, event: &Event) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(file) = &mut state.file else { return };
        let written = serde_json::to_vec(event).map_err(std::io::Error::from).and_then(|mut line| {
            line.push(b'\n');
            file.write_all(&line)
        });
        if let Err(error) = written {
            state.file = None;
            state.trouble = Some(format!("the journal is incomplete from event {} on: {error}", event.seq));
        }
    }
}

/// A journal as far as it can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// What is whole.
    pub events: Vec<Event>,
    /// Each line that is no event, in words.
    pub damage: Vec<String>,
}

/// Reads the journal at `path` (a run's directory, or its `events.jsonl`). A torn last line is left out.
///
/// # Errors
/// The file cannot be read, a line other than the last one is not an event, or a newer `coastal` wrote it.
pub fn read(path: &Path) -> Result<Vec<Event>, Failure> {
    let Reading { events, damage } = read_through(path)?;
    match damage.into_iter().next() {
        None => Ok(events),
        Some(first) => Err(Failure::prerequisite(first).next("`coastal debug replay RUN` shows what is left of it")),
    }
}

/// As [`read`], past lines that are no events: for whoever wants to see what is left.
///
/// # Errors
/// The file cannot be read, or a newer `coastal` wrote it.
pub fn read_through(path: &Path) -> Result<Reading, Failure> {
    let path = if path.is_dir() { path.join(EVENTS) } else { path.to_owned() };
    let text = fs::read(&path).map_err(|error| io_failure("read the journal", &path, &error))?;
    let (mut events, mut damage) = (Vec::new(), Vec::new());
    for (number, line) in text.split_inclusive(|byte| *byte == b'\n').enumerate() {
        match serde_json::from_slice::<Event>(line) {
            Ok(event) => {
                if let What::RunStarted { schema, coastal, .. } = &event.what
                    && *schema > SCHEMA
                {
                    return Err(Failure::prerequisite(format!(
                        "`{}` was written by coastal {coastal} in event format {schema}, this one knows up to {SCHEMA}",
                        path.display()
                    ))
                    .next("use that version of coastal, or a newer one"));
                }
                events.push(event);
            }
            Err(_) if !line.ends_with(b"\n") => break,
            Err(error) => {
                damage.push(format!("line {} of `{}` is not an event: {error}", number + 1, path.display()));
            }
        }
    }
    Ok(Reading { events, damage })
}

/// The ids of the runs below `runs`, oldest first. None if the directory is not there.
///
/// # Errors
/// The directory cannot be read.
pub fn runs(runs: &Path) -> Result<Vec<String>, Failure> {
    let entries = match fs::read_dir(runs) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_failure("read the directory of runs", runs, &error)),
    };
    let mut ids = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| io_failure("read the directory of runs", runs, &error))?;
        if let Some(name) = entry.file_name().to_str()
            && is_id(name)
        {
            ids.push(name.to_owned());
        }
    }
    ids.sort();
    Ok(ids)
}

/// `20260821T143015.123Z-up`.
fn id(command: &str, now: Timestamp) -> String {
    let time = now.to_zoned(TimeZone::UTC).strftime("%Y%m%dT%H%M%S.%3fZ").to_string();
    let word = command.split_whitespace().find(|word| {
        word.starts_with(|c: char| c.is_ascii_lowercase()) && word.chars().all(|c| c.is_ascii_lowercase() || c == '-')
    });
    format!("{time}-{}", word.unwrap_or("run"))
}

fn is_id(name: &str) -> bool {
    let digits = |range: std::ops::Range<usize>| {
        name.get(range).is_some_and(|part| part.bytes().all(|byte| byte.is_ascii_digit()))
    };
    digits(0..8) && name.get(8..9) == Some("T") && digits(9..15) && name.get(19..21) == Some("Z-")
}

/// Removes the oldest runs beyond [`KEPT`], never `current`.
fn retire(directory: &Path, current: &str) -> Result<(), String> {
    let ids = runs(directory).map_err(|failure| failure.message)?;
    let surplus = ids.len().saturating_sub(KEPT);
    for id in ids.iter().take(surplus).filter(|id| *id != current) {
        let path = directory.join(id);
        fs::remove_dir_all(&path)
            .map_err(|error| format!("could not remove the old run `{}`: {error}", path.display()))?;
    }
    Ok(())
}

/// Hands each event to several sinks, in order.
pub struct Tee(pub Vec<Arc<dyn Sink>>);

impl Sink for Tee {
    fn take(&self, event: &Event) {
        for sink in &self.0 {
            sink.take(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::engine::testing::{Act, goal, run};
    use crate::plan::StepId;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(ms).expect("in range")
    }

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let (journal, run_id) = Journal::create(&dir.path().join("runs"), "up --yes", at(0)).expect("created");
        assert_eq!(run_id, "19700101T000000.000Z-up");
        let (_, events) = run(&[goal(StepId::Spire, &[], Act::RunFails(5))], None);
        for event in &events {
            journal.take(event);
        }
        assert_eq!(journal.trouble(), None);
        assert_eq!(read(journal.directory()).expect("readable"), events);
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(journal.directory()), 0o700);
        assert_eq!(mode(&journal.directory().join(EVENTS)), 0o600);
    }

    #[test]
    fn wherever_a_journal_is_cut_the_whole_lines_before_it_are_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let (_, events) = run(&[goal(StepId::Spire, &[], Act::Takes(5))], None);
        let lines: Vec<String> = events.iter().map(|e| serde_json::to_string(e).expect("serialises") + "\n").collect();
        let text = lines.concat();
        let path = dir.path().join("cut.jsonl");
        for cut in 0..=text.len() {
            fs::write(&path, &text[..cut]).expect("written");
            let whole = text[..cut].matches('\n').count();
            let found = read(&path).expect("readable");
            // Cut exactly before its newline, the last line is whole as well.
            assert!(found.len() == whole || found.len() == whole + 1, "at {cut}");
            assert_eq!(found, events[..found.len()]);
        }
    }

    #[test]
    fn damage_in_the_middle_and_a_newer_format_are_told() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(EVENTS);
        let (_, events) = run(&[], None);
        let line = serde_json::to_string(&events[0]).expect("serialises");
        fs::write(&path, format!("{line}\nnonsense\n{line}\n")).expect("written");
        let failure = read(&path).expect_err("damaged");
        assert!(failure.message.starts_with("line 2 of `"), "{failure}");
        fs::write(&path, line.replacen("\"schema\":1", "\"schema\":99", 1)).expect("written");
        assert!(read(&path).expect_err("newer").message.contains("in event format 99, this one knows up to 1"));
    }

    #[test]
    fn ids_sort_by_time_and_never_clash() {
        let dir = tempfile::tempdir().expect("a directory");
        let make = |command, ms| Journal::create(dir.path(), command, at(ms)).expect("created").1;
        let ids = [make("up", 1), make("up", 1), make("--lab x.toml status", 2), make("", 1_000)];
        assert_eq!(ids[1], format!("{}-2", ids[0]));
        assert_eq!((&ids[2][21..], &ids[3][21..]), ("status", "run"));
        assert_eq!(runs(dir.path()).expect("listed"), ids);
    }

    #[test]
    fn only_the_newest_runs_are_kept_and_nothing_else_is_touched() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("0-notes")).expect("made");
        for ms in 0..60 {
            Journal::create(dir.path(), "up", at(ms)).expect("created");
        }
        let ids = runs(dir.path()).expect("listed");
        assert_eq!((ids.len(), ids[0].as_str()), (KEPT, "19700101T000000.010Z-up"));
        assert!(dir.path().join("0-notes").is_dir());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_remembered_and_the_run_goes_on() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = OpenOptions::new().append(true).open("/dev/full").expect("Linux has it");
        let journal =
            Journal { directory: dir.path().to_owned(), state: Mutex::new(State { file: Some(file), trouble: None }) };
        let (_, events) = run(&[], None);
        for event in &events {
            journal.take(event);
        }
        let trouble = journal.trouble().expect("told");
        assert!(trouble.starts_with("the journal is incomplete from event 0 on: "), "{trouble}");
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("file");
        fs::write(&file, "").expect("written");
        let failure = Journal::create(&file.join("runs"), "up", at(0)).err().expect("a file is in the way");
        assert!(failure.message.contains("file/runs`"), "{failure}");
    }
}
