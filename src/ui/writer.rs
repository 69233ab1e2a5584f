//! A stream that several renderers write to.

use std::io::{ErrorKind, Write};
use std::sync::{Arc, Mutex, PoisonError};

/// Standard output or standard error, or a buffer in a test. Cheap to clone.
///
/// A reader that has gone (`coastal status | head -1`) is no error: the rest is not written. Any other trouble is kept
/// for the end, because a run must not break off half-way for it.
#[derive(Clone)]
pub(super) struct Writer(Arc<Mutex<Inner>>);

struct Inner {
    /// Absent after the first error.
    stream: Option<Box<dyn Write + Send>>,
    trouble: Option<std::io::Error>,
}

impl Writer {
    pub(super) fn new(stream: Box<dyn Write + Send>) -> Self {
        Writer(Arc::new(Mutex::new(Inner { stream: Some(stream), trouble: None })))
    }

    /// Writes `text` at once.
    pub(super) fn write(&self, text: &str) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(stream) = &mut inner.stream else { return };
        if let Err(error) = stream.write_all(text.as_bytes()).and_then(|()| stream.flush()) {
            inner.stream = None;
            if error.kind() != ErrorKind::BrokenPipe {
                inner.trouble = Some(error);
            }
        }
    }

    /// Writes `text` and ends the line.
    pub(super) fn line(&self, text: &str) {
        self.write(&format!("{text}\n"));
    }

    /// What went wrong, in the operating system's words.
    pub(super) fn trouble(&self) -> Option<String> {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.trouble.as_ref().map(ToString::to_string)
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    struct Broken(ErrorKind);

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_has_gone_is_no_error_but_a_full_disk_is() {
        let gone = Writer::new(Box::new(Broken(ErrorKind::BrokenPipe)));
        gone.line("a");
        gone.line("b");
        assert_eq!(gone.trouble(), None);
        let full = Writer::new(Box::new(Broken(ErrorKind::StorageFull)));
        full.line("a");
        assert_eq!(full.trouble().as_deref(), Some("no storage space"));
    }
}
