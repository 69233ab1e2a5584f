//! What can go wrong in this world, by name: for `--fault NAME[=ARG]` and for tests.

use std::fmt;
use std::time::Duration;

use semver::Version;

use crate::error::Failure;
use crate::tools::{Command, Tool};

/// Which commands of a tool a fault is about: all, or those of one subcommand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Calls {
    /// The tool.
    pub tool: Tool,
    /// Its first argument, if only such calls are meant.
    pub subcommand: Option<String>,
}

impl Calls {
    fn covers(&self, command: &Command) -> bool {
        self.tool == command.tool && self.subcommand.as_ref().is_none_or(|word| command.args.first() == Some(word))
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The tool is not on the path.
    ToolMissing(Tool),
    /// The tool is of a version that no lab accepts.
    ToolOld(Tool),
    /// The tool never ends.
    ToolHangs(Calls),
    /// The tool prints bytes that mean nothing, and ends well.
    ToolGarbage(Calls),
    /// What the tool prints ends in the middle, and it ends well.
    ToolCut(Calls),
    /// The tool is ended by SIGKILL, as by the kernel when memory runs out.
    ToolKilled(Calls),
    /// The Docker daemon does not answer.
    DockerDown,
    /// Another program listens on that port of the host.
    PortTaken(u16),
    /// A kind cluster of that name is there which the lab did not make.
    ForeignCluster(String),
    /// Images whose name contains this cannot be pulled.
    PullFails(String),
    /// cert-manager's webhook pod needs so long to become ready.
    WebhookSlow(Duration),
    /// The data store refuses every login.
    LoginRefused,
    /// Agents run, but cannot attest; those of one version only, if one is named.
    AgentNeverReady(Option<String>),
    /// Servers end soon after each start; those of one version only, if one is named.
    ServerCrashLoop(Option<String>),
    /// The data store answers nobody.
    DatabaseUnreachable,
    /// A helm of so long ago was killed while it installed or upgraded the release `spire`.
    ReleasePending(Duration),
    /// helm is ended by SIGKILL in the middle of this, once.
    HelmDiesIn(String),
    /// Somebody else's helm changes the release a while after ours has: both images are of this version then, or the
    /// values of the revision before are back. Once.
    ForeignUpgrade(Option<String>),
    /// A server (that one, if one is named) ends and starts again once it has prepared an authority. Once.
    ServerRestarts(Option<String>),
    /// As well, it loses what it had on its disk.
    ServerLosesKeys(Option<String>),
    /// The server in that pod does not answer on its own socket.
    ServerUnreachable(String),
    /// Agents serve on, but hear nothing new from the servers.
    AgentNeverSyncs,
    /// URLs that contain this are not there.
    FetchMissing(String),
    /// Somebody has deleted the servers' StatefulSet and tried to heal that with `helm rollback spire REVISION`.
    RolledBack(u32),
    /// `pg_dump` is older than the server, and refuses.
    DumpMismatch,
}

/// A fault's name, what follows its `=`, and what it is.
pub struct Description {
    /// The name.
    pub name: &'static str,
    /// The argument's form; brackets where it may be left out; empty if there is none.
    pub argument: &'static str,
    /// One line.
    pub words: &'static str,
}

const fn fault(name: &'static str, argument: &'static str, words: &'static str) -> Description {
    Description { name, argument, words }
}

impl Fault {
    /// Every fault.
    pub const ALL: &'static [Description] = &[
        fault("tool-missing", "TOOL", "the tool is not on the path"),
        fault("tool-old", "TOOL", "the tool is too old"),
        fault("tool-hangs", "TOOL[:SUBCOMMAND]", "the tool never ends"),
        fault("tool-garbage", "TOOL[:SUBCOMMAND]", "the tool prints bytes that mean nothing"),
        fault("tool-killed", "TOOL[:SUBCOMMAND]", "the tool is ended by SIGKILL"),
        fault("docker-down", "", "the Docker daemon does not answer"),
        fault("port-taken", "[PORT]", "another program listens on that port of the host (8080)"),
        fault("foreign-cluster", "[NAME]", "a kind cluster of that name is there which is not the lab's (kind)"),
        fault("pull-fails", "[IMAGE]", "images whose name contains this cannot be pulled (all)"),
        fault("webhook-slow", "[SECONDS]", "cert-manager's webhook needs so long to become ready (60)"),
        fault("login-refused", "", "PostgreSQL refuses every login"),
        fault("agent-never-ready", "[VERSION]", "agents (of that version) run, but cannot attest"),
        fault("server-crash-loop", "[VERSION]", "servers (of that version) end soon after each start"),
        fault("database-unreachable", "", "PostgreSQL answers nobody"),
        fault("release-pending", "[SECONDS]", "a helm of so long ago was killed amid the release `spire` (3600)"),
        fault(
            "helm-dies-in",
            "[install|upgrade|uninstall]",
            "helm is ended by SIGKILL in the middle of it, once (upgrade)",
        ),
        fault(
            "foreign-upgrade",
            "[VERSION]",
            "somebody else upgrades the release after us, once (back to what it was)",
        ),
        fault("tool-cut", "TOOL[:SUBCOMMAND]", "what the tool prints ends in the middle"),
        fault("server-restarts", "[POD]", "a server (that one) restarts once it has prepared an authority, once"),
        fault("server-loses-keys", "[POD]", "as well, it loses its keys"),
        fault("server-unreachable", "[POD]", "the server does not answer on its own socket (spire-server-1)"),
        fault("agent-never-syncs", "", "agents serve on, but hear nothing new from the servers"),
        fault("fetch-404", "[URL]", "URLs that contain this are not there (all)"),
        fault(
            "rolled-back",
            "[REVISION]",
            "the servers' StatefulSet was deleted, and `helm rollback spire REVISION` was to heal it (1)",
        ),
        fault("dump-mismatch", "", "pg_dump is older than the server, and refuses"),
    ];

    /// The name, as in [`Fault::ALL`].
    #[must_use]
    pub fn name(&self) -> &'static str {
        let index = match self {
            Fault::ToolMissing(_) => 0,
            Fault::ToolOld(_) => 1,
            Fault::ToolHangs(_) => 2,
            Fault::ToolGarbage(_) => 3,
            Fault::ToolKilled(_) => 4,
            Fault::DockerDown => 5,
            Fault::PortTaken(_) => 6,
            Fault::ForeignCluster(_) => 7,
            Fault::PullFails(_) => 8,
            Fault::WebhookSlow(_) => 9,
            Fault::LoginRefused => 10,
            Fault::AgentNeverReady(_) => 11,
            Fault::ServerCrashLoop(_) => 12,
            Fault::DatabaseUnreachable => 13,
            Fault::ReleasePending(_) => 14,
            Fault::HelmDiesIn(_) => 15,
            Fault::ForeignUpgrade(_) => 16,
            Fault::ToolCut(_) => 17,
            Fault::ServerRestarts(_) => 18,
            Fault::ServerLosesKeys(_) => 19,
            Fault::ServerUnreachable(_) => 20,
            Fault::AgentNeverSyncs => 21,
            Fault::FetchMissing(_) => 22,
            Fault::RolledBack(_) => 23,
            Fault::DumpMismatch => 24,
        };
        Self::ALL[index].name
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Fault {
    /// Reads `NAME[=ARG]`.
    ///
    /// # Errors
    /// There is no such fault, or the argument is not what it takes; the facts list what there is.
    pub fn parse(written: &str) -> Result<Self, Failure> {
        let (name, argument) =
            written.split_once('=').map_or((written, None), |(name, argument)| (name, Some(argument)));
        let wrong = |problem: String| {
            Failure::usage(format!("`{written}` is not a fault of the rehearsal: {problem}")).facts(
                Fault::ALL.iter().map(|d| {
                    format!("{}{}{}: {}", d.name, if d.argument.is_empty() { "" } else { "=" }, d.argument, d.words)
                }),
            )
        };
        let text = |otherwise: &str| argument.unwrap_or(otherwise).to_owned();
        let tool = |word: &str| {
            let known = Tool::ALL.into_iter().find(|tool| tool.program() == word);
            known.ok_or_else(|| wrong("it needs one of docker, kind, helm, kubectl after the `=`".to_owned()))
        };
        let calls = || {
            let all = text("");
            let (program, subcommand) =
                all.split_once(':').map_or((all.as_str(), None), |(p, s)| (p, Some(s.to_owned())));
            Ok::<_, Failure>(Calls { tool: tool(program)?, subcommand })
        };
        let seconds = |otherwise: u64| {
            let number = argument.map_or(Ok(otherwise), str::parse);
            number.map(Duration::from_secs).map_err(|_| wrong("it takes a number of seconds".to_owned()))
        };
        let version = || match argument {
            Some(text) if Version::parse(text).is_err() => Err(wrong("it takes a version, like 1.8.0".to_owned())),
            other => Ok(other.map(str::to_owned)),
        };
        Ok(match name {
            "tool-missing" => Fault::ToolMissing(tool(&text(""))?),
            "tool-old" => Fault::ToolOld(tool(&text(""))?),
            "tool-hangs" => Fault::ToolHangs(calls()?),
            "tool-garbage" => Fault::ToolGarbage(calls()?),
            "tool-cut" => Fault::ToolCut(calls()?),
            "tool-killed" => Fault::ToolKilled(calls()?),
            "docker-down" => Fault::DockerDown,
            "port-taken" => {
                Fault::PortTaken(text("8080").parse().map_err(|_| wrong("it takes a port number".to_owned()))?)
            }
            "foreign-cluster" => Fault::ForeignCluster(text("kind")),
            "pull-fails" => Fault::PullFails(text("")),
            "webhook-slow" => Fault::WebhookSlow(seconds(60)?),
            "login-refused" => Fault::LoginRefused,
            "agent-never-ready" => Fault::AgentNeverReady(version()?),
            "server-crash-loop" => Fault::ServerCrashLoop(version()?),
            "database-unreachable" => Fault::DatabaseUnreachable,
            "release-pending" => Fault::ReleasePending(seconds(3600)?),
            "helm-dies-in" => match text("upgrade").as_str() {
                command @ ("install" | "upgrade" | "uninstall") => Fault::HelmDiesIn(command.to_owned()),
                _ => return Err(wrong("it takes install, upgrade or uninstall".to_owned())),
            },
            "foreign-upgrade" => Fault::ForeignUpgrade(version()?),
            "server-restarts" => Fault::ServerRestarts(argument.map(str::to_owned)),
            "server-loses-keys" => Fault::ServerLosesKeys(argument.map(str::to_owned)),
            "server-unreachable" => Fault::ServerUnreachable(text("spire-server-1")),
            "agent-never-syncs" => Fault::AgentNeverSyncs,
            "fetch-404" => Fault::FetchMissing(text("")),
            "rolled-back" => {
                Fault::RolledBack(text("1").parse().map_err(|_| wrong("it takes a revision, like 1".to_owned()))?)
            }
            "dump-mismatch" => Fault::DumpMismatch,
            _ => return Err(wrong("no such name".to_owned())),
        })
    }
}

/// Whether a fault that is about `only` this version, if about one, strikes a program of `version`.
#[must_use]
pub fn strikes(only: Option<&str>, version: &Version) -> bool {
    only.is_none_or(|only| Version::parse(only).is_ok_and(|only| only == *version))
}

/// The faults of a world.
#[derive(Debug, Clone, Default)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// These faults.
    #[must_use]
    pub fn new(faults: Vec<Fault>) -> Self {
        Faults(faults)
    }

    /// One more.
    pub fn add(&mut self, fault: Fault) {
        self.0.push(fault);
    }

    /// None of that name any more.
    pub fn cure(&mut self, name: &str) {
        self.0.retain(|fault| fault.name() != name);
    }

    /// The first that is such, which is over with that.
    pub fn take(&mut self, is: impl Fn(&Fault) -> bool) -> Option<Fault> {
        self.0.iter().position(is).map(|index| self.0.remove(index))
    }

    /// Whether one of them is such.
    pub fn any(&self, is: impl Fn(&Fault) -> bool) -> bool {
        self.0.iter().any(is)
    }

    /// What the first one that has it says.
    pub fn find<T>(&self, pick: impl Fn(&Fault) -> Option<T>) -> Option<T> {
        self.0.iter().find_map(pick)
    }

    /// What each that has it says.
    pub fn all<T>(&self, pick: impl Fn(&Fault) -> Option<T>) -> Vec<T> {
        self.0.iter().filter_map(pick).collect()
    }

    /// The fault that strikes a tool when it is called so.
    #[must_use]
    pub fn of_call(&self, command: &Command) -> Option<&Fault> {
        self.0.iter().find(|fault| match fault {
            Fault::ToolMissing(tool) => *tool == command.tool,
            Fault::ToolHangs(calls) | Fault::ToolGarbage(calls) | Fault::ToolCut(calls) | Fault::ToolKilled(calls) => {
                calls.covers(command)
            }
            _ => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_can_be_written() {
        for description in Fault::ALL {
            let argument = match description.argument {
                "" => String::new(),
                form if form.starts_with('[') => String::new(),
                form => format!("={}", form.replace("TOOL", "helm").replace("[:SUBCOMMAND]", ":upgrade")),
            };
            let fault = Fault::parse(&format!("{}{argument}", description.name)).unwrap();
            assert_eq!(fault.name(), description.name);
        }
    }

    #[test]
    fn what_is_no_fault_says_what_there_is() {
        for written in [
            "nonsense",
            "tool-missing",
            "tool-missing=make",
            "webhook-slow=soon",
            "port-taken=70000",
            "server-crash-loop=newest",
            "helm-dies-in=test",
        ] {
            let failure = Fault::parse(written).unwrap_err();
            assert!(failure.message.contains(written), "{}", failure.message);
            assert_eq!(failure.facts.len(), Fault::ALL.len());
        }
    }

    #[test]
    fn a_fault_may_be_about_one_subcommand() {
        let faults = Faults::new(vec![Fault::parse("tool-hangs=helm:upgrade").unwrap()]);
        assert!(faults.of_call(&Command::new(Tool::Helm, ["upgrade", "x"])).is_some());
        assert!(faults.of_call(&Command::new(Tool::Helm, ["version"])).is_none());
        assert!(faults.of_call(&Command::new(Tool::Kind, ["upgrade"])).is_none());
    }
}
