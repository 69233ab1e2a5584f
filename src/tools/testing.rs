//! How commands ended, for the tests of what is made of it.

use crate::tools::{CommandError, Output};

/// It ended well, and printed this.
pub(super) fn out(stdout: &str) -> Output {
    Output { stdout: stdout.into(), stderr: String::new() }
}

/// It ended with exit code 1, and said this.
pub(super) fn failed(stderr: &str) -> CommandError {
    let output = Output { stdout: String::new(), stderr: stderr.into() };
    CommandError::Exit { line: "the command".into(), code: 1, output }
}
