//! External programs. [`Runner`] is the one way to start a process; the adapters ([`kind`], [`helm`],
//! [`kubectl`], [`docker`]) turn intentions into argv and output into data, and are the same in both worlds.

pub mod command;

pub use command::{Command, CommandError, CommandIo, Output, Runner, Stream, Tool};

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
