//! `coastal audit`: everything that has an identity, or could get one, held against the allow-list of lab.toml.

use clap::{Args, ValueEnum};

use crate::cli::outside::Outside;
use crate::error::{ExitCode, Failure};
use crate::observe;
use crate::session::Session;
use crate::spire::audit::Level;
use crate::steps::audit::{Audited, audited};
use crate::ui::{AuditFormat, Ui};

/// Arguments of `audit`.
#[derive(Debug, Args)]
pub struct AuditArgs {
    /// Another form than text or `--output json`
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: Option<Format>,
    /// Warnings fail the audit, too
    #[arg(long)]
    strict: bool,
}

/// Forms for other programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For code scanning: SARIF 2.1.0
    Sarif,
    /// For CI: each rule is a test
    Junit,
}

/// Looks, and shows what was found.
///
/// # Errors
/// The cluster, or SPIRE in it, does not answer.
pub async fn run(args: &AuditArgs, ui: &Ui, outside: &Outside) -> Result<ExitCode, Failure> {
    let session = Session::new(outside.lab.clone(), outside.world.clone(), outside.paths.clone());
    let Audited { audit, .. } = Box::pin(audited(&observe::looking(&session, &outside.cancel))).await?;
    let format = match args.format {
        None => AuditFormat::Text,
        Some(Format::Sarif) => AuditFormat::Sarif,
        Some(Format::Junit) => AuditFormat::Junit,
    };
    let file = session.lab.file.as_ref().map_or_else(|| "lab.toml".to_owned(), |file| file.display().to_string());
    let failed = audit.count(Level::Error) > 0 || (args.strict && audit.count(Level::Warning) > 0);
    ui.audit(audit, format, args.strict, &file);
    Ok(if failed { ExitCode::CheckFailed } else { ExitCode::Ok })
}
