//! `coastal completions` and `coastal man`: made from the command line's own definition, so that they cannot differ
//! from it.

use std::path::PathBuf;

use clap::{Args, CommandFactory, ValueHint};
use clap_complete::Shell;

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

/// Prints the completions.
pub fn run(args: &CompletionsArgs, ui: &Ui) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "coastal", &mut script);
    ui.text(&String::from_utf8_lossy(&script));
    ExitCode::Ok
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
