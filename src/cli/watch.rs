//! What a command that looks has seen, shown once, or each time that it has changed.

use std::time::Duration;

use clap::Args;
use serde::Serialize;
use serde_json::Value;

use crate::cli::outside::Outside;
use crate::error::{ExitCode, Failure};
use crate::ui::Ui;

/// From one look to the next.
const EVERY: Duration = Duration::from_secs(2);
/// A rehearsal's time is virtual: it would never end by itself, and show nothing new.
const REHEARSED: u32 = 3;

/// Whether to go on looking.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct Watch {
    /// Look again every 2 s and show what there is each time that it has changed, until Ctrl-C
    #[arg(long, global = true)]
    watch: bool,
}

/// What was seen.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Shown {
    /// For programs; only made if it is wanted.
    document: Option<Value>,
    table: Option<(&'static [&'static str], Vec<Vec<String>>)>,
    line: Option<String>,
    text: Option<String>,
    warnings: Vec<String>,
    notes: Vec<String>,
}

impl Shown {
    /// A document, for a program.
    ///
    /// # Errors
    /// It is no JSON: a bug.
    pub fn document(document: &impl Serialize) -> Result<Self, Failure> {
        let document = serde_json::to_value(document).map_err(|error| Failure::unexpected(error.to_string()))?;
        Ok(Shown { document: Some(document), ..Shown::default() })
    }

    /// A table, for a person.
    #[must_use]
    pub fn table(head: &'static [&'static str], rows: Vec<Vec<String>>) -> Self {
        Shown { table: Some((head, rows)), ..Shown::default() }
    }

    /// One line, for a person or a script.
    #[must_use]
    pub fn line(line: impl Into<String>) -> Self {
        Shown { line: Some(line.into()), ..Shown::default() }
    }

    /// Some lines, for a person.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Shown { text: Some(text.into()), ..Shown::default() }
    }

    /// With remarks on standard error.
    #[must_use]
    pub fn notes(mut self, notes: impl IntoIterator<Item = String>) -> Self {
        self.notes.extend(notes);
        self
    }

    /// With warnings on standard error.
    #[must_use]
    pub fn warnings(mut self, warnings: impl IntoIterator<Item = String>) -> Self {
        self.warnings.extend(warnings);
        self
    }

    fn show(&self, ui: &Ui) {
        if let Some(document) = &self.document {
            ui.document(document);
        }
        if let Some((head, rows)) = &self.table {
            ui.table(head, rows);
        }
        if let Some(line) = &self.line {
            ui.text(line);
        }
        if let Some(text) = &self.text {
            ui.text(text);
        }
        self.warnings.iter().for_each(|warning| ui.warning(warning));
        self.notes.iter().for_each(|note| ui.note(note));
    }
}

impl Watch {
    /// Shows what `look` sees.
    ///
    /// # Errors
    /// As `look`'s; while watching, only of the first look: later ones are warnings, for servers come and go.
    pub async fn show(
        self,
        outside: &Outside,
        ui: &Ui,
        mut look: impl AsyncFnMut() -> Result<Shown, Failure>,
    ) -> Result<ExitCode, Failure> {
        let mut last = look().await?;
        last.show(ui);
        let mut looks = 1;
        while self.watch && !(outside.is_harmless() && looks >= REHEARSED) {
            tokio::select! {
                biased;
                () = outside.cancel.cancelled() => return Ok(ExitCode::Interrupted),
                () = tokio::time::sleep(EVERY) => {}
            }
            looks += 1;
            match look().await {
                Ok(now) if now == last => {}
                Ok(now) => {
                    ui.note(&format!("{:.0}", outside.world.clock.now()));
                    now.show(ui);
                    last = now;
                }
                Err(failure) => ui.warning(&failure.message),
            }
        }
        Ok(ExitCode::Ok)
    }
}
