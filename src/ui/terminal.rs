//! What the output looks like, decided once per process and from nothing but the surroundings and the flags.

use std::env;
use std::io::{self, IsTerminal};

/// Who reads standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// A person.
    #[default]
    Text,
    /// A program: JSON lines for commands that change things, one document for commands that read.
    Json,
}

/// How progress is shown on standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// A live line per running step.
    Live,
    /// A line per turn of a step.
    Lines,
    /// Not at all: the events are on standard output.
    None,
}

/// What the command line asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wishes {
    /// `--output`.
    pub format: Format,
    /// How often `-v` was given: 1 shows the commands that are run, 2 what they print.
    pub verbosity: u8,
    /// `--explain`.
    pub explain: bool,
}

/// What the process finds itself in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, each read from its own place")]
pub struct Surroundings {
    /// Standard input is a terminal.
    pub stdin_tty: bool,
    /// Standard output is a terminal.
    pub stdout_tty: bool,
    /// Standard error is a terminal.
    pub stderr_tty: bool,
    /// `NO_COLOR` is set, and not empty (<https://no-color.org>).
    pub no_color: bool,
    /// `CI` is set, and neither empty nor `false`.
    pub ci: bool,
    /// `TERM` is `dumb`.
    pub dumb: bool,
    /// The locale's encoding is UTF-8.
    pub utf8: bool,
    /// Columns of the terminal, where there is one.
    pub columns: Option<u16>,
}

impl Surroundings {
    /// This process'.
    #[must_use]
    pub fn look() -> Self {
        let set = |key: &str| env::var(key).ok().filter(|value| !value.is_empty());
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set);
        Surroundings {
            stdin_tty: io::stdin().is_terminal(),
            stdout_tty: io::stdout().is_terminal(),
            stderr_tty: io::stderr().is_terminal(),
            no_color: set("NO_COLOR").is_some(),
            ci: set("CI").is_some_and(|value| value != "false"),
            dumb: set("TERM").is_some_and(|value| value == "dumb"),
            utf8: locale.map_or(cfg!(target_os = "macos"), |locale| {
                let locale = locale.to_ascii_lowercase();
                locale.contains("utf-8") || locale.contains("utf8")
            }),
            columns: console::Term::stderr().size_checked().map(|(_, columns)| columns),
        }
    }
}

/// The decisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent decisions, each asked for alone")]
pub struct Terminal {
    /// Who reads standard output.
    pub format: Format,
    /// How progress is shown.
    pub progress: Progress,
    /// Whether standard output may be coloured.
    pub colour_out: bool,
    /// Whether standard error may be coloured.
    pub colour_err: bool,
    /// Whether characters beyond ASCII may be used.
    pub unicode: bool,
    /// Columns that tables on standard output may use; absent: as many as they need, because a program reads them.
    pub table_width: Option<u16>,
    /// Columns of standard error.
    pub width: usize,
    /// See [`Wishes::verbosity`].
    pub verbosity: u8,
    /// See [`Wishes::explain`].
    pub explain: bool,
    /// Whether somebody is there who can answer a question.
    pub can_ask: bool,
}

impl Terminal {
    /// Decides.
    #[must_use]
    pub fn decide(around: Surroundings, wishes: Wishes) -> Self {
        let text = wishes.format == Format::Text;
        let plain = around.no_color || around.dumb;
        let live = around.stderr_tty && !plain && !around.ci;
        Terminal {
            format: wishes.format,
            progress: match (text, live) {
                (false, _) => Progress::None,
                (true, true) => Progress::Live,
                (true, false) => Progress::Lines,
            },
            colour_out: text && around.stdout_tty && !plain,
            colour_err: around.stderr_tty && !plain,
            unicode: around.utf8 && !around.dumb,
            table_width: around.columns.filter(|_| around.stdout_tty),
            width: around.columns.map_or(80, usize::from),
            verbosity: wishes.verbosity,
            explain: wishes.explain,
            can_ask: text && around.stdin_tty && around.stderr_tty,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEAT: Surroundings = Surroundings {
        stdin_tty: true,
        stdout_tty: true,
        stderr_tty: true,
        no_color: false,
        ci: false,
        dumb: false,
        utf8: true,
        columns: Some(100),
    };

    #[test]
    fn each_surrounding_decides_what_it_should() {
        let text = Wishes::default();
        let json = Wishes { format: Format::Json, ..text };
        let rows = [
            ("a terminal", SEAT, text, Progress::Live, true, true),
            ("stderr to a file", Surroundings { stderr_tty: false, ..SEAT }, text, Progress::Lines, false, false),
            ("stdout to a pipe", Surroundings { stdout_tty: false, ..SEAT }, text, Progress::Live, true, true),
            ("NO_COLOR", Surroundings { no_color: true, ..SEAT }, text, Progress::Lines, false, true),
            ("CI with a terminal", Surroundings { ci: true, ..SEAT }, text, Progress::Lines, true, true),
            ("TERM=dumb", Surroundings { dumb: true, ..SEAT }, text, Progress::Lines, false, true),
            ("stdin from a file", Surroundings { stdin_tty: false, ..SEAT }, text, Progress::Live, true, false),
            ("json", SEAT, json, Progress::None, true, false),
            ("nothing", Surroundings::default(), text, Progress::Lines, false, false),
        ];
        for (name, around, wishes, progress, colour_err, can_ask) in rows {
            let terminal = Terminal::decide(around, wishes);
            assert_eq!(
                (terminal.progress, terminal.colour_err, terminal.can_ask),
                (progress, colour_err, can_ask),
                "{name}"
            );
        }
    }

    #[test]
    fn tables_are_cut_to_a_terminal_only() {
        assert_eq!(Terminal::decide(SEAT, Wishes::default()).table_width, Some(100));
        let piped = Surroundings { stdout_tty: false, ..SEAT };
        assert_eq!(Terminal::decide(piped, Wishes::default()).table_width, None);
    }
}
