//! External programs. [`Runner`] is the one way to start a process; the adapters ([`kind`], [`helm`],
//! [`kubectl`], [`docker`]) turn intentions into argv and output into data, and are the same in both worlds.

pub mod advice;
pub mod browser;
pub mod command;
pub mod docker;
pub mod fetch;
pub mod helm;
pub mod kind;
pub mod kubectl;
pub mod machine;
pub mod once;
pub mod ports;
pub mod process;
pub mod versions;

#[cfg(test)]
mod testing;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub use command::{Command, CommandError, CommandIo, Output, Runner, Stream, Tool};
pub use machine::real_world;

/// The cluster that a call of helm or kubectl goes to. Always named: the ambient context is never used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The kubeconfig file.
    pub kubeconfig: PathBuf,
    /// The context in it.
    pub context: String,
}

/// How to get a tool that is missing, on this operating system.
#[must_use]
pub fn install_hint(tool: Tool) -> String {
    let mac = cfg!(target_os = "macos");
    match (tool, mac) {
        (Tool::Docker, true) => "install Docker Desktop: `brew install --cask docker`, then start it".into(),
        (Tool::Docker, false) => "install Docker Engine: https://docs.docker.com/engine/install/".into(),
        (tool, true) => format!("install it: `brew install {tool}`"),
        (Tool::Kind, false) => {
            "install it: https://kind.sigs.k8s.io/docs/user/quick-start/#installation (one program; put it on the path)".into()
        }
        (Tool::Helm, false) => "install it: https://helm.sh/docs/intro/install/ (one program; put it on the path)".into(),
        (Tool::Kubectl, false) => {
            "install it: https://kubernetes.io/docs/tasks/tools/install-kubectl-linux/ (one program; put it on the path)".into()
        }
    }
}

/// What a tool printed could not be read.
fn garbage(line: impl Into<String>, message: impl Into<String>) -> CommandError {
    CommandError::Garbage { line: line.into(), message: message.into() }
}

/// The first `n` characters of `text` on one line, for error messages.
fn excerpt(text: &str) -> String {
    const CHARACTERS: usize = 120;
    let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match flat.char_indices().nth(CHARACTERS) {
        Some((end, _)) => format!("`{}…`", &flat[..end]),
        None if flat.is_empty() => "nothing".into(),
        None => format!("`{flat}`"),
    }
}

/// A path as an argument.
fn path_arg(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// A duration as Go's flags read it.
fn go_duration(duration: Duration) -> String {
    format!("{}s", duration.as_secs().max(1))
}

/// The lines of a listing, without blank ones.
fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
}
