//! `coastal init`: a lab.toml to start from.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use crate::config;
use crate::error::{ExitCode, Failure, io_failure};
use crate::ui::Ui;

/// Arguments of `init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// Where to write it
    #[arg(value_name = "FILE", default_value = "lab.toml")]
    file: PathBuf,
}

/// Writes the lab file that is built in. An existing file is never replaced.
///
/// # Errors
/// It exists and is another one, or cannot be written.
pub fn run(args: &InitArgs, ui: &Ui) -> Result<ExitCode, Failure> {
    let file = &args.file;
    let made = std::fs::OpenOptions::new().write(true).create_new(true).open(file);
    match made {
        Ok(mut handle) => {
            handle.write_all(config::DEFAULT.as_bytes()).map_err(|error| io_failure("write", file, &error))?;
            ui.text(&format!("wrote {}", file.display()));
            ui.next(&["coastal plan".to_owned(), "coastal up".to_owned()]);
            Ok(ExitCode::Ok)
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let same = std::fs::read_to_string(file).is_ok_and(|text| text == config::DEFAULT);
            if same {
                ui.text(&format!("{} is there already, and is the built-in one", file.display()));
                return Ok(ExitCode::Ok);
            }
            Err(Failure::usage(format!("`{}` exists; it was left as it is", file.display()))
                .next("name another file: `coastal init other.toml`, then `coastal --lab other.toml up`"))
        }
        Err(error) => Err(io_failure("create", file, &error)),
    }
}
