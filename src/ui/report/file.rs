//! `--report FILE` and `--junit FILE`: keeps the events of every run of this process, and writes them out after each.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::engine::{Event, Sink};
use crate::error::{Failure, io_failure};

/// The files that are wanted, and what goes into them. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Reports(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    html: Option<PathBuf>,
    junit: Option<PathBuf>,
    events: Mutex<Vec<Event>>,
    written: AtomicBool,
}

impl Reports {
    /// Reports to these files.
    #[must_use]
    pub fn to(html: Option<PathBuf>, junit: Option<PathBuf>) -> Self {
        Reports(Arc::new(Inner { html, junit, ..Inner::default() }))
    }

    /// Whether any is wanted.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.0.html.is_some() || self.0.junit.is_some()
    }

    /// Whether any was written.
    #[must_use]
    pub fn is_written(&self) -> bool {
        self.0.written.load(Ordering::Relaxed)
    }

    /// Finds out before a long run that its report could not be written.
    ///
    /// # Errors
    /// A file cannot be opened for writing.
    pub fn prove(&self) -> Result<(), Failure> {
        for path in self.0.html.iter().chain(&self.0.junit) {
            std::fs::OpenOptions::new()
                .append(true)
                .create(true)
                .open(path)
                .map_err(|error| io_failure("write the report", path, &error))?;
        }
        Ok(())
    }

    /// Writes what has come so far.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write(&self) -> Result<(), Failure> {
        let events = self.0.events.lock().unwrap_or_else(PoisonError::into_inner);
        let put = |path: &Path, text: String| {
            std::fs::write(path, text).map_err(|error| io_failure("write the report", path, &error))
        };
        if let Some(path) = &self.0.html {
            put(path, super::html(&events))?;
        }
        if let Some(path) = &self.0.junit {
            put(path, super::junit(&events))?;
        }
        self.0.written.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl Sink for Reports {
    fn take(&self, event: &Event) {
        self.0.events.lock().unwrap_or_else(PoisonError::into_inner).push(event.clone());
    }
}
