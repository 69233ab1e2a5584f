//! A command as data, how it can end, and the seam that runs it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::error::{Failure, Kind};

/// The programs that `coastal` starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tool {
    /// kubernetes-sigs/kind.
    Kind,
    /// helm/helm, version 3.
    Helm,
    /// kubectl.
    Kubectl,
    /// The Docker command line, which kind drives as well.
    Docker,
}

impl Tool {
    /// All tools, in the order in which they are checked.
    pub const ALL: [Tool; 4] = [Tool::Docker, Tool::Kind, Tool::Helm, Tool::Kubectl];

    /// The name of the program on the path.
    #[must_use]
    pub fn program(self) -> &'static str {
        match self {
            Tool::Kind => "kind",
            Tool::Helm => "helm",
            Tool::Kubectl => "kubectl",
            Tool::Docker => "docker",
        }
    }
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.program())
    }
}

/// Takes standard output in pieces.
pub type Tap = Arc<dyn Fn(&[u8]) + Send + Sync>;

/// One invocation. `args` and `env` never hold a secret: secrets go through `stdin`, which is never logged.
#[derive(Clone)]
pub struct Command {
    /// Which program.
    pub tool: Tool,
    /// Its arguments, without the program.
    pub args: Vec<String>,
    /// Variables added to the inherited environment.
    pub env: Vec<(String, String)>,
    /// Fed to the process and closed. Not logged, not journaled.
    pub stdin: Option<Vec<u8>>,
    /// After this long the process group is ended and [`CommandError::TimedOut`] returned.
    pub timeout: Duration,
    /// Is given standard output as it comes, which then is not kept: for more than memory should hold.
    pub tap: Option<Tap>,
    /// The output may hold secrets: it is returned to the caller and goes nowhere else.
    pub secret_output: bool,
}

impl Command {
    /// `tool args…`, no input, one minute.
    pub fn new<S: Into<String>>(tool: Tool, args: impl IntoIterator<Item = S>) -> Self {
        Command {
            tool,
            args: args.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            stdin: None,
            timeout: Duration::from_secs(60),
            tap: None,
            secret_output: false,
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((key.into(), value.into()));
        self
    }

    /// Sets the input.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// Sets the time limit.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Hands standard output on as it comes, in pieces cut anywhere, instead of keeping it.
    #[must_use]
    pub fn tap(mut self, take: impl Fn(&[u8]) + Send + Sync + 'static) -> Self {
        self.tap = Some(Arc::new(take));
        self
    }

    /// Marks the output as secret.
    #[must_use]
    pub fn secret_output(mut self) -> Self {
        self.secret_output = true;
        self
    }

    /// The command as a person could paste it into a shell (input and environment left out).
    #[must_use]
    pub fn line(&self) -> String {
        let mut line = self.tool.program().to_owned();
        for arg in &self.args {
            line.push(' ');
            line.push_str(&shell_word(arg));
        }
        line
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Command({})", self.line())
    }
}

/// A word as a shell would read it back.
#[must_use]
pub fn shell_word(word: &str) -> String {
    let plain = !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c));
    if plain { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

/// What a process printed before it ended with exit code 0.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    /// Standard output, lossily as UTF-8.
    pub stdout: String,
    /// Standard error, lossily as UTF-8.
    pub stderr: String,
}

/// Which of the two outputs a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// How a command failed. Each way is its own variant, because the cure differs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// No such program on the path.
    #[error("`{tool}` is not installed: no program of that name on the path")]
    NotFound {
        /// The missing program.
        tool: Tool,
    },
    /// It ended with a code other than 0.
    #[error("`{line}` ended with exit code {code}")]
    Exit {
        /// The command, pasteable.
        line: String,
        /// Its exit code.
        code: i32,
        /// What it printed, whole; callers may look for known words in it.
        output: Output,
    },
    /// A signal ended it (not ours).
    #[error("`{line}` was ended by signal {signal}")]
    Signal {
        /// The command, pasteable.
        line: String,
        /// The signal's number.
        signal: i32,
        /// What it printed.
        output: Output,
    },
    /// It did not end in time; its process group was ended.
    #[error("`{line}` did not end within {} s", after.as_secs())]
    TimedOut {
        /// The command, pasteable.
        line: String,
        /// The time limit.
        after: Duration,
        /// What it printed until then.
        output: Output,
    },
    /// We were asked to stop, and ended its process group.
    #[error("`{line}` was interrupted")]
    Interrupted {
        /// The command, pasteable.
        line: String,
    },
    /// The program is there but could not be started, or its pipes broke.
    #[error("`{line}` could not be run: {message}")]
    Io {
        /// The command, pasteable.
        line: String,
        /// The operating system's words.
        message: String,
    },
    /// It ended well but printed what nobody can read.
    #[error("`{line}` printed something unexpected: {message}")]
    Garbage {
        /// The command, pasteable.
        line: String,
        /// What was expected and what came.
        message: String,
    },
}

impl CommandError {
    /// The last `n` lines that the process wrote to standard error (or to standard output, if that is empty).
    #[must_use]
    pub fn tail(&self, n: usize) -> Vec<String> {
        let (CommandError::Exit { output, .. }
        | CommandError::Signal { output, .. }
        | CommandError::TimedOut { output, .. }) = self
        else {
            return Vec::new();
        };
        let text = if output.stderr.trim().is_empty() { &output.stdout } else { &output.stderr };
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        lines[lines.len().saturating_sub(n)..].iter().map(|line| (*line).to_owned()).collect()
    }
}

impl From<CommandError> for Failure {
    fn from(error: CommandError) -> Self {
        let kind = match error {
            CommandError::NotFound { .. } => Kind::Prerequisite,
            CommandError::TimedOut { .. } => Kind::Timeout,
            CommandError::Interrupted { .. } => Kind::Interrupted,
            CommandError::Exit { .. }
            | CommandError::Signal { .. }
            | CommandError::Io { .. }
            | CommandError::Garbage { .. } => Kind::Tool,
        };
        let message = match &error {
            CommandError::Io { line, .. } => format!("`{line}` could not be run"),
            CommandError::Garbage { line, .. } => format!("`{line}` printed something unexpected"),
            other => other.to_string(),
        };
        let facts = match &error {
            CommandError::Exit { .. } | CommandError::Signal { .. } | CommandError::TimedOut { .. } => {
                let said: Vec<String> = error.tail(20).into_iter().map(|line| format!("it said: {line}")).collect();
                if said.is_empty() { vec!["it printed nothing".to_owned()] } else { said }
            }
            CommandError::Io { message, .. } | CommandError::Garbage { message, .. } => vec![message.clone()],
            CommandError::NotFound { .. } | CommandError::Interrupted { .. } => Vec::new(),
        };
        let next = super::advice::after(&error);
        Failure { next, ..Failure::new(kind, message).facts(facts) }
    }
}

/// What accompanies a running command.
#[derive(Clone, Copy)]
pub struct CommandIo<'a> {
    /// Called for each line the process prints, unless its output is secret.
    pub on_line: &'a (dyn Fn(Stream, &str) + Send + Sync),
    /// When cancelled, the process group gets SIGINT, and SIGKILL 15 s later.
    pub cancel: &'a CancellationToken,
}

/// The only way to start a process.
#[async_trait]
pub trait Runner: Send + Sync {
    /// Runs `command` to its end.
    ///
    /// # Errors
    /// Every way of not ending with exit code 0; see [`CommandError`].
    async fn run(&self, command: &Command, io: CommandIo<'_>) -> Result<Output, CommandError>;

    /// Where the program lies, if it is installed. The rehearsal answers with a path of its own.
    fn locate(&self, tool: Tool) -> Option<PathBuf>;
}
