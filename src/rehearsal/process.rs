//! A process of this world: what it was called with, what it prints, how it ends.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::tools::{Command, CommandIo, Output, Stream};

/// How a process ends other than well.
#[derive(Debug)]
pub(super) enum End {
    /// With this code.
    Exit(i32),
    /// By this signal.
    Signal(i32),
    /// It could not start: there is no such program.
    NotFound,
    /// This world does not know how the real program would answer; names what is not known.
    Unknown(String),
}

/// How a process ends.
pub(super) type Ended = Result<(), End>;

/// The running process.
pub(super) struct Process<'a> {
    pub(super) command: &'a Command,
    io: CommandIo<'a>,
    printed: Mutex<Output>,
    /// Only half of each output gets out.
    cut: AtomicBool,
}

impl<'a> Process<'a> {
    pub(super) fn new(command: &'a Command, io: CommandIo<'a>) -> Self {
        Process { command, io, printed: Mutex::default(), cut: AtomicBool::new(false) }
    }

    /// From now on only half of each output gets out.
    pub(super) fn cut_off(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    /// Prints lines on standard output.
    pub(super) fn out(&self, text: impl AsRef<str>) {
        self.print(Stream::Stdout, text.as_ref());
    }

    /// Prints lines on standard error.
    pub(super) fn err(&self, text: impl AsRef<str>) {
        self.print(Stream::Stderr, text.as_ref());
    }

    /// Prints lines on standard error, and ends with code 1.
    pub(super) fn fail(&self, text: impl AsRef<str>) -> End {
        self.err(text);
        End::Exit(1)
    }

    fn print(&self, stream: Stream, text: &str) {
        let half: String;
        let mut text = text;
        if stream == Stream::Stdout && self.cut.load(Ordering::Relaxed) {
            half = text.chars().take(text.chars().count() / 2).collect();
            text = &half;
        }
        if let (Stream::Stdout, Some(tap)) = (stream, &self.command.tap) {
            tap(text.trim_end_matches('\n').as_bytes());
            tap(b"\n");
            return;
        }
        if !self.command.secret_output {
            text.lines().for_each(|line| (self.io.on_line)(stream, line));
        }
        let mut printed = self.printed.lock().unwrap_or_else(PoisonError::into_inner);
        let to = match stream {
            Stream::Stdout => &mut printed.stdout,
            Stream::Stderr => &mut printed.stderr,
        };
        to.push_str(text.trim_end_matches('\n'));
        to.push('\n');
    }

    /// All that was printed until now.
    pub(super) fn printed(&self) -> Output {
        self.printed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What was fed to it.
    pub(super) fn stdin(&self) -> &str {
        self.command.stdin.as_deref().and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
    }

    /// A variable of its environment.
    pub(super) fn env(&self, key: &str) -> Option<&'a str> {
        self.command.env.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// Its arguments, if they hold only these flags. `words` counts the leading words, such as `get clusters`.
    pub(super) fn arguments(&self, words: usize, with_value: &[&str], without: &[&str]) -> Result<Arguments<'a>, End> {
        let mut found = Arguments::default();
        let mut rest = self.command.args.iter().map(String::as_str);
        found.words.extend(rest.by_ref().take(words));
        while let Some(word) = rest.next() {
            let (flag, joined) = word.split_once('=').map_or((word, None), |(flag, value)| (flag, Some(value)));
            if word == "--" {
                found.after.extend(rest.by_ref());
            } else if !word.starts_with('-') || word == "-" {
                found.words.push(word);
            } else if let Some(flag) = with_value.iter().find(|known| **known == flag) {
                let value = joined.or_else(|| rest.next()).ok_or_else(|| self.unknown())?;
                found.flags.insert((*flag).to_owned(), value);
            } else if without.contains(&word) {
                found.flags.insert(word.to_owned(), "");
            } else {
                return Err(self.unknown());
            }
        }
        Ok(found)
    }

    /// Nobody knows how the real program answers this command line.
    pub(super) fn unknown(&self) -> End {
        End::Unknown(format!("the rehearsal does not know how the real {} answers this", self.command.tool))
    }
}

/// Arguments, sorted out.
#[derive(Debug, Default)]
pub(super) struct Arguments<'a> {
    /// Those that are no flags.
    pub(super) words: Vec<&'a str>,
    flags: BTreeMap<String, &'a str>,
    /// Those after `--`.
    pub(super) after: Vec<&'a str>,
}

impl<'a> Arguments<'a> {
    pub(super) fn flag(&self, name: &str) -> Option<&'a str> {
        self.flags.get(name).copied()
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.flags.contains_key(name)
    }
}
