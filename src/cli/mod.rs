//! The command line: one file per command.

use std::ffi::OsString;

use crate::error::ExitCode;

/// Parses `args`, runs the command, and says how it ended.
pub fn run(_args: impl IntoIterator<Item = OsString>) -> ExitCode {
    ExitCode::Ok
}
