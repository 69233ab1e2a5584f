//! `coastal completions` and `coastal man`: made from the command line's own definition, so that they cannot differ
//! from it.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory, ValueHint};
use clap_complete::env::Shells;
use clap_complete::{CompleteEnv, Shell};

use crate::cli::Cli;
use crate::error::{ExitCode, Failure, io_failure};
use crate::ui::Ui;

/// Arguments of `completions`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  coastal completions bash > ~/.local/share/bash-completion/completions/coastal
  coastal completions zsh > \"${fpath[1]}/_coastal\"
  coastal completions fish > ~/.config/fish/completions/coastal.fish
  coastal completions powershell >> $PROFILE
  coastal completions elvish >> ~/.config/elvish/rc.elv")]
pub struct CompletionsArgs {
    /// For which shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Arguments of `man`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  coastal man | man -l -                          read it
  coastal man --dir ~/.local/share/man/man1       keep all pages, one per command")]
pub struct ManArgs {
    /// Write a page per command into this directory instead
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    dir: Option<PathBuf>,
}

/// Set by the shell's part of the completions when it asks this program what fits.
const ASKED: &str = "COASTAL_COMPLETE";

/// Answers a shell that asks what fits; `None` if none does.
pub(super) fn answer(args: &[OsString]) -> Option<ExitCode> {
    std::env::var_os(ASKED)?;
    let here = std::env::current_dir().ok();
    match CompleteEnv::with_factory(Cli::command).var(ASKED).try_complete(args, here.as_deref()) {
        Ok(true) => Some(ExitCode::Ok),
        Ok(false) => None,
        // Whatever is said here lands in the middle of somebody's prompt.
        Err(_) => Some(ExitCode::Usage),
    }
}

/// Prints the shell's part of the completions: it asks this program for everything else.
///
/// # Errors
/// It could not be written down.
pub fn run(args: &CompletionsArgs, ui: &Ui) -> Result<ExitCode, Failure> {
    let shells = Shells::builtins();
    let unknown = || Failure::unexpected(format!("no completions for {}", args.shell));
    let shell = shells.completer(&args.shell.to_string()).ok_or_else(unknown)?;
    let mut script = Vec::new();
    shell
        .write_registration(ASKED, "coastal", "coastal", "coastal", &mut script)
        .map_err(|error| Failure::unexpected(format!("no completions: {error}")))?;
    ui.text(&String::from_utf8_lossy(&script));
    Ok(ExitCode::Ok)
}

/// Prints the manual page, or writes them all.
///
/// # Errors
/// The directory cannot be written.
pub fn man(args: &ManArgs, ui: &Ui) -> Result<ExitCode, Failure> {
    let mut command = Cli::command();
    command.build();
    let Some(directory) = &args.dir else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command)
            .render(&mut page)
            .map_err(|error| Failure::unexpected(format!("no manual page: {error}")))?;
        ui.text(&String::from_utf8_lossy(&page));
        return Ok(ExitCode::Ok);
    };
    let failed = |error: std::io::Error| io_failure("write the manual pages into", directory, &error);
    std::fs::create_dir_all(directory).map_err(failed)?;
    clap_mangen::generate_to(command, directory).map_err(failed)?;
    ui.text(&directory.display().to_string());
    Ok(ExitCode::Ok)
}
