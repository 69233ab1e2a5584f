//! The real [`Runner`]: the one place that starts processes.
//!
//! Each command leads a process group of its own, so that ending it ends what it has started, and so that a Ctrl-C
//! in the terminal reaches `coastal` alone, which then decides.
//!
//! The leader is not reaped before its group is settled: as long as it is at least a zombie, the group's number
//! cannot belong to anybody else, and every signal sent to it hits what it is meant for.

mod capture;
mod group;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;

use super::command::{Command, CommandError, CommandIo, Output, Runner, Stream, Tool};
use capture::Capture;
use group::{Group, Signal};

pub use capture::CAPTURE_LIMIT;
pub use group::kill_all;

/// How patient the runner is with processes that do not go.
#[derive(Debug, Clone, Copy)]
pub struct Manners {
    /// From SIGINT to SIGKILL.
    pub grace: Duration,
    /// How long, after a command has ended by itself, others that still hold its outputs open are waited for.
    pub linger: Duration,
}

impl Default for Manners {
    fn default() -> Self {
        Manners { grace: Duration::from_secs(15), linger: Duration::from_secs(2) }
    }
}

/// Starts processes.
pub struct ProcessRunner {
    search_path: Option<OsString>,
    manners: Manners,
    found: Mutex<BTreeMap<Tool, PathBuf>>,
}

impl ProcessRunner {
    /// A runner that finds programs on the path of this process.
    #[must_use]
    pub fn new() -> Self {
        ProcessRunner::with(std::env::var_os("PATH"), Manners::default())
    }

    /// A runner that finds programs on another path, which its children inherit.
    #[must_use]
    pub fn with(search_path: Option<OsString>, manners: Manners) -> Self {
        ProcessRunner { search_path, manners, found: Mutex::default() }
    }

    /// The program of `tool`. Only what was found is remembered: a tool may be installed while we run.
    fn find(&self, tool: Tool) -> Option<PathBuf> {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(program) = found.get(&tool).filter(|program| program.is_file()) {
            return Some(program.clone());
        }
        let directories = std::env::join_paths(self.directories()).ok()?;
        let program = which::which_in(tool.program(), Some(directories), std::env::current_dir().ok()?).ok()?;
        found.insert(tool, program.clone());
        Some(program)
    }

    /// An empty entry of a path means the current directory; nobody who has one there means it.
    fn directories(&self) -> Vec<PathBuf> {
        let path = self.search_path.iter().flat_map(std::env::split_paths);
        path.filter(|directory| !directory.as_os_str().is_empty()).collect()
    }

    fn not_found(&self, command: &Command) -> CommandError {
        let unusable = self.directories().into_iter().map(|dir| dir.join(command.tool.program())).find(|p| p.is_file());
        match unusable {
            Some(program) => CommandError::Io {
                line: command.line(),
                message: format!("`{}` may not be executed by this user", program.display()),
            },
            None => CommandError::NotFound { tool: command.tool },
        }
    }

    fn environment(&self, command: &Command) -> BTreeMap<OsString, OsString> {
        let mut environment: BTreeMap<OsString, OsString> =
            std::env::vars_os().filter(|(name, _)| !is_ambient(&name.to_string_lossy())).collect();
        if let Some(path) = &self.search_path {
            environment.insert("PATH".into(), path.clone());
        }
        // Answers are parsed, so they have to come in one language; kubectl's private preferences change defaults.
        environment.insert("LC_ALL".into(), "C".into());
        environment.insert("KUBERC".into(), "off".into());
        // kubectl and helm live for a tenth of a second, and spend a quarter of it collecting garbage.
        if !environment.contains_key(OsStr::new("GOGC")) && !environment.contains_key(OsStr::new("GOMEMLIMIT")) {
            environment.insert("GOGC".into(), "off".into());
            environment.insert("GOMEMLIMIT".into(), "256MiB".into());
        }
        environment.extend(command.env.iter().map(|(name, value)| (name.into(), value.into())));
        environment
    }
}

impl Default for ProcessRunner {
    fn default() -> Self {
        ProcessRunner::new()
    }
}

/// Variables through which the user's own cluster, helm home or kind defaults would reach a command that is meant
/// for the lab. What the lab wants of them is set per command.
fn is_ambient(name: &str) -> bool {
    name.starts_with("HELM_")
        || matches!(name, "KUBECONFIG" | "KUBERC" | "KIND_CLUSTER_NAME" | "KIND_EXPERIMENTAL_PROVIDER")
}

/// Our ends of a process' pipes.
struct Pipes {
    stdin: Option<pipe::Sender>,
    stdout: pipe::Receiver,
    stderr: pipe::Receiver,
}

#[expect(clippy::disallowed_methods, reason = "the one place that starts processes")]
fn start(program: &Path, command: &Command, environment: &BTreeMap<OsString, OsString>) -> io::Result<(Group, Pipes)> {
    let (stdout, child_stdout) = io::pipe()?;
    let (stderr, child_stderr) = io::pipe()?;
    let expression = duct::cmd(program, &command.args)
        .full_env(environment)
        .stdout_file(child_stdout)
        .stderr_file(child_stderr)
        .unchecked()
        .before_spawn(|process| {
            process.process_group(0);
            Ok(())
        });
    let (expression, stdin) = if command.stdin.is_some() {
        let (child_stdin, stdin) = io::pipe()?;
        (expression.stdin_file(child_stdin), Some(stdin))
    } else {
        (expression.stdin_null(), None)
    };
    let pipes = Pipes {
        stdin: stdin.map(|stdin| pipe::Sender::from_owned_fd(OwnedFd::from(stdin))).transpose()?,
        stdout: pipe::Receiver::from_owned_fd(OwnedFd::from(stdout))?,
        stderr: pipe::Receiver::from_owned_fd(OwnedFd::from(stderr))?,
    };
    // The expression holds the child's ends; it goes here, so that the child's are the last ones.
    let group = Group::new(expression.start()?)?;
    Ok((group, pipes))
}

/// Why a process ended.
enum End {
    Itself,
    TimedOut,
    Cancelled,
}

#[async_trait]
impl Runner for ProcessRunner {
    async fn run(&self, command: &Command, io: CommandIo<'_>) -> Result<Output, CommandError> {
        if io.cancel.is_cancelled() {
            return Err(CommandError::Interrupted { line: command.line() });
        }
        let broken = |error: &io::Error| CommandError::Io { line: command.line(), message: words_of(error) };
        let program = self.find(command.tool).ok_or_else(|| self.not_found(command))?;
        let (mut group, pipes) =
            start(&program, command, &self.environment(command)).map_err(|error| broken(&error))?;

        let on_line = (!command.secret_output).then_some(io.on_line);
        let mut stdout = Capture::new(Stream::Stdout, on_line).tapped(command.tap.as_ref());
        let mut stderr = Capture::new(Stream::Stderr, on_line);
        let ended = self.accompany(&mut group, pipes, command, io, &mut stdout, &mut stderr).await;
        let (end, status) = ended.map_err(|error| broken(&error))?;
        let output = Output { stdout: stdout.finish(), stderr: stderr.finish() };
        judge(command, &end, status, output)
    }

    fn locate(&self, tool: Tool) -> Option<PathBuf> {
        self.find(tool)
    }
}

impl ProcessRunner {
    /// From the start to the last byte, the last process and the exit status.
    async fn accompany(
        &self,
        group: &mut Group,
        pipes: Pipes,
        command: &Command,
        io: CommandIo<'_>,
        stdout: &mut Capture<'_>,
        stderr: &mut Capture<'_>,
    ) -> io::Result<(End, ExitStatus)> {
        let mut feeding = std::pin::pin!(feed(pipes.stdin, command.stdin.as_deref()));
        let mut reading = std::pin::pin!(async {
            tokio::join!(stdout.read_from(pipes.stdout), stderr.read_from(pipes.stderr));
        });
        let (mut fed, mut read) = (false, false);
        let mut limit = std::pin::pin!(tokio::time::sleep(command.timeout));
        let end = loop {
            tokio::select! {
                biased;
                exited = group.leader_exit() => { exited?; break End::Itself }
                () = io.cancel.cancelled() => break End::Cancelled,
                () = &mut limit => break End::TimedOut,
                () = &mut feeding, if !fed => fed = true,
                () = &mut reading, if !read => read = true,
            }
        };
        // Until here: both to the end of the leader, and to the end of its outputs, which others may hold open.
        let patience = match end {
            End::Itself => self.manners.linger,
            End::TimedOut | End::Cancelled => {
                group.signal(Signal::INT);
                self.manners.grace
            }
        };
        let settled = tokio::time::timeout(patience, async {
            // Fed further, too: some finish their work first when they are interrupted.
            loop {
                tokio::select! {
                    exited = group.leader_exit() => break exited,
                    () = &mut feeding, if !fed => fed = true,
                    () = &mut reading, if !read => read = true,
                }
            }?;
            if !read {
                reading.as_mut().await;
                read = true;
            }
            io::Result::Ok(())
        });
        let settled = settled.await.map_or(Ok(false), |result| result.map(|()| true))?;
        // A group that ended by itself and let go of its outputs may leave a well-behaved daemon behind. In all other
        // cases nothing of it is left.
        if !settled || !matches!(end, End::Itself) {
            group.signal(Signal::KILL);
        }
        group.leader_exit().await?;
        if !read {
            // What a killed process had written is in the pipe still. Whoever left the group and holds the pipe is
            // not waited for.
            let _ = tokio::time::timeout(Duration::from_millis(100), reading).await;
        }
        Ok((end, group.reap()?))
    }
}

/// Writes the input and closes. A process that does not want all of it has its reasons; its exit code tells.
async fn feed(stdin: Option<pipe::Sender>, bytes: Option<&[u8]>) {
    if let (Some(mut stdin), Some(bytes)) = (stdin, bytes) {
        let _ = stdin.write_all(bytes).await;
    }
}

fn judge(command: &Command, end: &End, status: ExitStatus, mut output: Output) -> Result<Output, CommandError> {
    let line = command.line();
    let good = matches!(end, End::Itself) && status.success();
    if command.secret_output && !good {
        // Errors are shown. What went wrong is on standard error; what is secret is on standard output.
        output.stdout.clear();
    }
    match (end, status.code(), status.signal()) {
        (End::TimedOut, ..) => Err(CommandError::TimedOut { line, after: command.timeout, output }),
        (End::Cancelled, ..) => Err(CommandError::Interrupted { line }),
        (End::Itself, Some(0), _) => Ok(output),
        (End::Itself, Some(code), _) => Err(CommandError::Exit { line, code, output }),
        (End::Itself, None, Some(signal)) => Err(CommandError::Signal { line, signal, output }),
        (End::Itself, None, None) => Err(CommandError::Io { line, message: format!("unknown end: {status}") }),
    }
}

/// The operating system's words about a failed start, and what they mean where that is not obvious.
fn words_of(error: &io::Error) -> String {
    match error.raw_os_error() {
        // The program was seen a moment ago.
        Some(code) if code == rustix::io::Errno::NOENT.raw_os_error() => {
            format!("{error} (its interpreter or loader is missing)")
        }
        Some(code) if code == rustix::io::Errno::NOEXEC.raw_os_error() => {
            format!("{error} (is it for another kind of machine, or damaged?)")
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_own_cluster_does_not_leak_into_commands() {
        for name in ["KUBECONFIG", "HELM_NAMESPACE", "HELM_DRIVER", "HELM_KUBECONTEXT", "KIND_EXPERIMENTAL_PROVIDER"] {
            assert!(is_ambient(name), "{name}");
        }
        for name in ["PATH", "HOME", "DOCKER_HOST", "HTTPS_PROXY", "NO_PROXY", "KIND_EXPERIMENTAL_DOCKER_NETWORK"] {
            assert!(!is_ambient(name), "{name}");
        }
    }

    #[test]
    fn what_a_command_sets_wins() {
        let runner = ProcessRunner::with(Some("/opt/tools".into()), Manners::default());
        let command = Command::new(Tool::Helm, ["version"]).env("HELM_CACHE_HOME", "/state/helm/cache");
        let environment = runner.environment(&command);
        let get = |name: &str| environment.get(std::ffi::OsStr::new(name)).and_then(|value| value.to_str());
        assert_eq!(get("HELM_CACHE_HOME"), Some("/state/helm/cache"));
        assert_eq!(get("PATH"), Some("/opt/tools"));
        assert_eq!(get("LC_ALL"), Some("C"));
        assert_eq!(get("KUBERC"), Some("off"));
    }
}
