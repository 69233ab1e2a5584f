//! How a rehearsal names commands: what it advises is to be asked of it again, not of the real world.

use std::path::Path;
use std::sync::Arc;

use crate::engine::{Event, Sink, What};
use crate::error::Failure;
use crate::tools::command::shell_word;

/// How the same rehearsal is reached from the command line.
#[derive(Debug, Clone)]
pub struct Rehearsed {
    /// `coastal rehearse`, with the world's file if it is kept.
    prefix: String,
    keeps: bool,
}

impl Rehearsed {
    /// A rehearsal whose world is kept in this file, or not at all.
    #[must_use]
    pub fn in_world(file: Option<&Path>) -> Self {
        let world = file.map(|file| format!(" --world {}", shell_word(&file.to_string_lossy()))).unwrap_or_default();
        Rehearsed { prefix: format!("coastal rehearse{world}"), keeps: file.is_some() }
    }

    /// Whether anything is left of it when the command has ended.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.keeps
    }

    /// The command that goes on where `line` stopped; nothing goes on in a world that is not kept. Where the world began,
    /// and what was let go wrong, is in it already.
    #[must_use]
    pub fn again(&self, line: &str) -> Option<String> {
        let words = shlex::split(line).filter(|_| self.keeps)?;
        let mut words = words.into_iter();
        let mut kept = vec!["coastal".to_owned()];
        while let Some(word) = words.next() {
            let flag = ["--fault", "--from"].iter().find_map(|flag| word.strip_prefix(flag));
            match flag {
                Some("") => drop(words.next()),
                Some(joined) if joined.starts_with('=') => {}
                _ => kept.push(shell_word(&word)),
            }
        }
        Some(kept.join(" "))
    }

    /// A command line, or a sentence with commands in backticks, that leads back to this rehearsal.
    #[must_use]
    pub fn text(&self, text: &str) -> String {
        const NAME: &str = "coastal ";
        let mut led = String::with_capacity(text.len() + self.prefix.len());
        let mut rest = text;
        while let Some(at) = rest.find(NAME) {
            let (before, from) = rest.split_at(at);
            let after = &from[NAME.len()..];
            led.push_str(before);
            let is_command = led.is_empty() || led.ends_with('`');
            let leads_here =
                ["rehearse", "--rehearse", "--help", "--version"].iter().any(|word| after.starts_with(word));
            if is_command && !leads_here {
                led.push_str(&self.prefix);
                led.push(' ');
            } else {
                led.push_str(NAME);
            }
            rest = after;
        }
        led.push_str(rest);
        led
    }

    /// A failure whose advice leads back to this rehearsal.
    #[must_use]
    pub fn failure(&self, mut failure: Failure) -> Failure {
        self.lines(&mut failure.next);
        failure
    }

    fn lines(&self, lines: &mut [String]) {
        for line in lines {
            *line = self.text(line);
        }
    }

    fn event(&self, event: &Event) -> Event {
        let mut event = event.clone();
        match &mut event.what {
            What::StepFailed { failure, .. } => self.lines(&mut failure.next),
            What::RunEnded { result } => {
                self.lines(&mut result.next);
                if let Some(failure) = &mut result.failure {
                    self.lines(&mut failure.next);
                    if !self.keeps {
                        let gone = "this world is gone now: with `rehearse --world FILE` it is kept, and gone on in";
                        failure.next.push(gone.to_owned());
                    }
                }
            }
            _ => {}
        }
        event
    }

    /// `inner`, told of events whose advice leads back to this rehearsal.
    pub fn sink(&self, inner: Arc<dyn Sink>) -> Arc<dyn Sink> {
        Arc::new(Advising { rehearsed: self.clone(), inner })
    }
}

struct Advising {
    rehearsed: Rehearsed,
    inner: Arc<dyn Sink>,
}

impl Sink for Advising {
    fn take(&self, event: &Event) {
        self.inner.take(&self.rehearsed.event(event));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_kept_world_is_gone_on_in_and_without_new_faults() {
        let line = "rehearse --world w --fault pull-fails=a:1 --fault=tool-missing=helm up --verbose";
        let kept = Rehearsed::in_world(Some(Path::new("w")));
        assert_eq!(kept.again(line).as_deref(), Some("coastal rehearse --world w up --verbose"));
        let line = "rehearse --world 'my w' --from 'my state.json' up";
        assert_eq!(kept.again(line).as_deref(), Some("coastal rehearse --world 'my w' up"));
        assert_eq!(Rehearsed::in_world(None).again("rehearse up"), None);
    }

    #[test]
    fn commands_lead_back_to_the_rehearsal() {
        let fleeting = Rehearsed::in_world(None);
        let kept = Rehearsed::in_world(Some(Path::new("my worlds/a.json")));
        for (said, by_fleeting, by_kept) in [
            ("coastal status", "coastal rehearse status", "coastal rehearse --world 'my worlds/a.json' status"),
            (
                "`coastal up` goes on; so does `coastal recover`",
                "`coastal rehearse up` goes on; so does `coastal rehearse recover`",
                "`coastal rehearse --world 'my worlds/a.json' up` goes on; so does `coastal rehearse --world 'my worlds/a.json' recover`",
            ),
            ("coastal rehearse up", "coastal rehearse up", "coastal rehearse up"),
            ("`coastal --help` lists them", "`coastal --help` lists them", "`coastal --help` lists them"),
            ("what coastal makes", "what coastal makes", "what coastal makes"),
            ("`kubectl get pods`", "`kubectl get pods`", "`kubectl get pods`"),
        ] {
            assert_eq!(fleeting.text(said), by_fleeting);
            assert_eq!(kept.text(said), by_kept);
        }
    }
}
