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

/// Reads the journal at `path` (a run's directory, or its `events.jsonl`). A torn last line is left out.
///
/// # Errors
/// The file cannot be read, a line other than the last one is not an event, or a newer `coastal` wrote it.
pub fn read(path: &Path) -> Result<Vec<Event>, Failure> {
    let path = if path.is_dir() { path.join(EVENTS) } else { path.to_owned() };
    let text = fs::read(&path).map_err(|error| io_failure("read the journal", &path, &error))?;
    let mut events = Vec::new();
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
                return Err(Failure::prerequisite(format!(
                    "line {} of `{}` is not an event: {error}",
                    number + 1,
                    path.display()
                )));
            }
        }
    }
    Ok(events)
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
