//! The rehearsal's [`Runner`]: answers each argv as the real program would, from the state of the world.
//!
//! It is strict. A command line that it does not know is an error that names it, never an empty success.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::faults::Fault;
use super::process::{End, Ended, Process};
use super::{State, docker, helm, kind, kubectl};
use crate::tools::{Command, CommandError, CommandIo, Output, Runner, Tool};

const SIGKILL: i32 = 9;

/// Starts the processes of a rehearsal world.
pub(super) struct RehearsalRunner(pub(super) Arc<State>);

#[async_trait]
impl Runner for RehearsalRunner {
    async fn run(&self, command: &Command, io: CommandIo<'_>) -> Result<Output, CommandError> {
        let line = command.line();
        let process = Process::new(command, io);
        let ended = tokio::select! {
            biased;
            () = io.cancel.cancelled() => return Err(CommandError::Interrupted { line }),
            ended = self.live(&process) => ended,
            () = tokio::time::sleep(command.timeout) => {
                return Err(CommandError::TimedOut { line, after: command.timeout, output: process.printed() });
            }
        };
        let output = process.printed();
        match ended {
            Ok(()) => Ok(output),
            Err(End::NotFound) => Err(CommandError::NotFound { tool: command.tool }),
            Err(End::Exit(code)) => Err(CommandError::Exit { line, code, output }),
            Err(End::Signal(signal)) => Err(CommandError::Signal { line, signal, output }),
            Err(End::Unknown(message)) => Err(CommandError::Io { line, message }),
        }
    }

    fn locate(&self, tool: Tool) -> Option<PathBuf> {
        let missing = self.0.faults().any(|fault| *fault == Fault::ToolMissing(tool));
        (!missing).then(|| PathBuf::from("/rehearsal/bin").join(tool.program()))
    }
}

impl RehearsalRunner {
    async fn live(&self, process: &Process<'_>) -> Ended {
        let struck = self.0.faults().of_call(process.command).cloned();
        match struck {
            Some(Fault::ToolMissing(_)) => return Err(End::NotFound),
            Some(Fault::ToolHangs(_)) => std::future::pending::<()>().await,
            Some(Fault::ToolKilled(_)) => {
                tokio::time::sleep(Duration::from_secs(1)).await;
                return Err(End::Signal(SIGKILL));
            }
            Some(Fault::ToolGarbage(_)) => {
                process.out("\u{fffd}\u{fffd}\u{7f}ELF\u{fffd}{[");
                return Ok(());
            }
            Some(Fault::ToolCut(_)) => process.cut_off(),
            _ => {}
        }
        match process.command.tool {
            Tool::Docker => docker::run(&self.0, process).await,
            Tool::Kind => kind::run(&self.0, process).await,
            Tool::Helm => helm::run(&self.0, process).await,
            Tool::Kubectl => kubectl::run(&self.0, process).await,
        }
    }
}
