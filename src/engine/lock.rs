//! One `coastal` at a time may change a lab.
//!
//! The lock is the operating system's, on a file in the lab's state directory: it goes away with the process that holds
//! it, however that dies. What the file says is only for the message that the second one gets.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::{Failure, io_failure};

/// Held until it is dropped.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

/// Who holds the lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Holder {
    pid: u32,
    command: String,
    started: Timestamp,
}

impl Lock {
    /// Takes the lock at `path` for `command` (the command line after `coastal`).
    ///
    /// # Errors
    /// Another process holds it: a prerequisite failure that names its pid, command and start. Or the file cannot be
    /// made or locked.
    pub fn acquire(path: &Path, command: &str, now: Timestamp) -> Result<Lock, Failure> {
        if let Some(parent) = path.parent() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(parent)
                .map_err(|error| io_failure("create the state directory", parent, &error))?;
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(|error| io_failure("open the lock", path, &error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(held(&mut file, path)),
            Err(TryLockError::Error(error)) => return Err(io_failure("lock", path, &error)),
        }
        let holder = Holder { pid: std::process::id(), command: command.to_owned(), started: now };
        serde_json::to_vec(&holder)
            .map_err(std::io::Error::from)
            .and_then(|text| {
                file.set_len(0)?;
                file.rewind()?;
                file.write_all(&text)
            })
            .map_err(|error| io_failure("write the lock", path, &error))?;
        Ok(Lock { file })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Only tidiness: an unlocked file means nothing, whatever it says.
        let _ = self.file.set_len(0);
    }
}

fn held(file: &mut File, path: &Path) -> Failure {
    let mut text = String::new();
    let holder = file.read_to_string(&mut text).ok().and_then(|_| serde_json::from_str::<Holder>(&text).ok());
    let lock = format!("lock: `{}`", PathBuf::from(path).display());
    match holder {
        Some(Holder { pid, command, started }) => Failure::prerequisite(format!(
            "another coastal is at work on this lab: `coastal {command}`, process {pid}, since {started:.0}"
        ))
        .fact(lock)
        .next(format!("wait for it to end, or stop it with `kill -INT {pid}`")),
        // It has the lock and is about to write who it is.
        None => Failure::prerequisite("another coastal is at work on this lab").fact(lock).next("wait for it to end"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-08-21T14:30:15.25Z".parse().expect("a time")
    }

    #[test]
    fn the_second_one_is_told_who_is_first() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("state/lock");
        let first = Lock::acquire(&path, "up --yes", now()).expect("free");
        let failure = Lock::acquire(&path, "down", now()).expect_err("held");
        let pid = std::process::id();
        assert_eq!(failure.kind, crate::error::Kind::Prerequisite);
        assert_eq!(
            failure.message,
            format!(
                "another coastal is at work on this lab: `coastal up --yes`, process {pid}, since 2026-08-21T14:30:15Z"
            )
        );
        drop(first);
        Lock::acquire(&path, "down", now()).expect("free again");
    }

    #[test]
    fn what_a_dead_holder_left_in_the_file_does_not_lock() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("lock");
        let stale = Holder { pid: 1, command: "a much longer command line than the next one".into(), started: now() };
        std::fs::write(&path, serde_json::to_vec(&stale).expect("serialises")).expect("written");
        let _lock = Lock::acquire(&path, "up", now()).expect("free");
        let text = std::fs::read_to_string(&path).expect("readable");
        assert_eq!(serde_json::from_str::<Holder>(&text).expect("one holder").command, "up");
    }

    #[test]
    fn a_holder_that_has_not_said_its_name_yet_still_locks() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("lock");
        let first = Lock::acquire(&path, "up", now()).expect("free");
        first.file.set_len(0).expect("truncated");
        let failure = Lock::acquire(&path, "down", now()).expect_err("held");
        assert_eq!(failure.message, "another coastal is at work on this lab");
    }
}
