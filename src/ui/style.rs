//! Marks, colours and the spelling of durations. Nothing is said by colour alone.

use std::fmt::Display;

use console::Style as Paint;

/// How one stream is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Style {
    pub(super) colour: bool,
    pub(super) unicode: bool,
}

impl Style {
    fn paint(self, paint: Paint, text: impl Display) -> String {
        paint.force_styling(self.colour).apply_to(text).to_string()
    }

    pub(super) fn good(self, text: impl Display) -> String {
        self.paint(Paint::new().green(), text)
    }

    pub(super) fn bad(self, text: impl Display) -> String {
        self.paint(Paint::new().red().bold(), text)
    }

    pub(super) fn warn(self, text: impl Display) -> String {
        self.paint(Paint::new().yellow(), text)
    }

    pub(super) fn strong(self, text: impl Display) -> String {
        self.paint(Paint::new().bold(), text)
    }

    pub(super) fn faint(self, text: impl Display) -> String {
        self.paint(Paint::new().dim(), text)
    }

    /// Made so.
    pub(super) fn done_mark(self) -> String {
        self.good(if self.unicode { "✓" } else { "+" })
    }

    /// Already so.
    pub(super) fn same_mark(self) -> String {
        self.faint(if self.unicode { "·" } else { "=" })
    }

    /// Failed.
    pub(super) fn failed_mark(self) -> String {
        self.bad(if self.unicode { "✗" } else { "x" })
    }

    /// One column of a bar.
    pub(super) fn bar(self) -> char {
        if self.unicode { '━' } else { '=' }
    }
}

/// `0.4s`, `59.9s`, `2m 03s`, `1h 02m`.
pub(super) fn duration(ms: u64) -> String {
    let tenths = ms / 100;
    let seconds = ms / 1000;
    match seconds {
        0..60 => format!("{}.{}s", tenths / 10, tenths % 10),
        60..3600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h {:02}m", seconds / 3600, seconds / 60 % 60),
    }
}

/// `1 step`, `2 steps`.
pub(super) fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("{n} {what}") } else { format!("{n} {what}s") }
}

/// What a tool or the cluster said, made safe for a terminal: one line, no escape sequences.
pub(super) fn tame(text: &str) -> String {
    console::strip_ansi_codes(text).chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_as_precise_as_they_are_short() {
        let rows = [
            (0, "0.0s"),
            (99, "0.0s"),
            (1_250, "1.2s"),
            (59_999, "59.9s"),
            (60_000, "1m 00s"),
            (123_456, "2m 03s"),
            (3_599_999, "59m 59s"),
            (3_720_000, "1h 02m"),
        ];
        for (ms, text) in rows {
            assert_eq!(duration(ms), text);
        }
    }

    #[test]
    fn what_others_said_cannot_steer_the_terminal() {
        assert_eq!(tame("\u{1b}[31mred\u{1b}[0m\rand\ttab\u{7}"), "red and tab ");
    }
}
