//! What to do when a program did not do its work: for callers that know nothing better.

use super::{CommandError, Tool, install_hint};

/// The next steps, most useful first.
pub(super) fn after(error: &CommandError) -> Vec<String> {
    match error {
        CommandError::NotFound { tool } => vec![install_hint(*tool)],
        CommandError::Interrupted { .. } => Vec::new(),
        // The kernel's way to free memory; nobody else sends it to a program that does no harm.
        CommandError::Signal { line, signal: 9, .. } => {
            vec![
                "signal 9 is often the kernel's, when memory runs out: `free -m` and `sudo dmesg | tail` tell".into(),
                look(line),
            ]
        }
        CommandError::Exit { line, .. } | CommandError::Signal { line, .. } => vec![look(line)],
        CommandError::TimedOut { line, .. } => {
            vec![
                look(line),
                "`--timeout TIME` gives every step more time, `[timeouts]` in lab.toml each its own".into(),
            ]
        }
        CommandError::Io { line, .. } => {
            let program = tool_of(line).map_or("the program", Tool::program);
            vec![format!("see that it is a program for this machine: `file -L \"$(command -v {program})\"`")]
        }
        CommandError::Garbage { line, .. } => {
            let program = tool_of(line).map_or("the program", Tool::program);
            vec![format!("run `{line}` and see; reinstall {program} if it is broken")]
        }
    }
}

/// Where to look for the trouble of a command that failed, or does not end.
#[must_use]
pub fn look(line: &str) -> String {
    match tool_of(line) {
        Some(Tool::Docker | Tool::Kind) => "`docker ps --all` shows whether Docker answers and the nodes run".into(),
        // These go to the network, not to the cluster.
        Some(Tool::Helm) if ["helm repo ", "helm pull "].iter().any(|start| line.starts_with(start)) => {
            "the same command with `-vv` shows all that helm prints".into()
        }
        Some(Tool::Helm | Tool::Kubectl) | None => {
            "`coastal status` shows whether the cluster answers, and what is there".into()
        }
    }
}

fn tool_of(line: &str) -> Option<Tool> {
    let program = line.split(' ').next()?;
    Tool::ALL.into_iter().find(|tool| tool.program() == program)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::error::Failure;
    use crate::tools::Output;

    #[test]
    fn every_failure_has_facts_and_a_next_step() {
        let line = || "kind load image-archive x.tar --name kind".to_owned();
        let output = Output::default;
        for (error, fact, next) in [
            (CommandError::Exit { line: line(), code: 1, output: output() }, "it printed nothing", "`docker ps --all`"),
            (CommandError::Signal { line: line(), signal: 9, output: output() }, "it printed nothing", "`free -m`"),
            (
                CommandError::TimedOut { line: line(), after: Duration::from_secs(9), output: output() },
                "it printed nothing",
                "`docker ps --all`",
            ),
            (CommandError::Io { line: line(), message: "no".into() }, "no", "`file -L \"$(command -v kind)\"`"),
            (CommandError::Garbage { line: line(), message: "got `x`".into() }, "got `x`", "reinstall kind"),
        ] {
            let failure = Failure::from(error);
            assert_eq!(failure.facts, [fact], "{failure}");
            assert!(failure.next[0].contains(next), "{failure}: {:?}", failure.next);
            assert!(failure.message.contains("`kind load image-archive x.tar --name kind`"), "{failure}");
        }
        let failure = Failure::from(CommandError::NotFound { tool: Tool::Helm });
        assert!(failure.next[0].contains("https://helm.sh"), "{:?}", failure.next);
        assert!(Failure::from(CommandError::Interrupted { line: line() }).next.is_empty());
    }

    #[test]
    fn what_does_not_go_to_the_cluster_is_not_looked_for_there() {
        for (line, says) in [
            ("helm pull spiffe/spire --version 0.13.0", "-vv"),
            ("helm list --all", "coastal status"),
            ("kubectl exec x", "coastal status"),
            ("docker exec kind-worker ctr", "docker ps"),
        ] {
            assert!(look(line).contains(says), "{line}: {}", look(line));
        }
    }
}
