//! What a command stands on: the lab, its world, its files. The real ones here; the rehearsal's come from
//! [`super::rehearse`].

use std::path::PathBuf;
use std::time::Duration;

use etcetera::BaseStrategy;
use tokio_util::sync::CancellationToken;

use crate::cli::rehearsed::Rehearsed;
use crate::cli::{Cli, Command, Global};
use crate::config::{self, Lab, Timeouts};
use crate::error::Failure;
use crate::session::Paths;
use crate::tools;
use crate::world::World;

/// The lab in its world.
pub struct Outside {
    /// The lab.
    pub lab: Lab,
    /// Everything outside.
    pub world: World,
    /// The lab's files.
    pub paths: Paths,
    /// Cancelled by Ctrl-C and SIGTERM.
    pub cancel: CancellationToken,
    /// The rehearsal that it is; absent for the real machine.
    pub rehearsal: Option<Rehearsed>,
}

impl Outside {
    /// The real machine.
    ///
    /// # Errors
    /// The lab file is wrong, or there is no place for the lab's files.
    pub fn real(global: &Global) -> Result<Self, Failure> {
        let lab = lab(global)?;
        let paths = Paths::new(state_directory(&lab)?);
        Ok(Outside { world: tools::real_world(), paths, cancel: stop_on_signals(), rehearsal: None, lab })
    }

    /// Whether what happens there is of no consequence: then nobody need be asked.
    #[must_use]
    pub fn is_harmless(&self) -> bool {
        self.rehearsal.is_some()
    }
}

/// The lab of the command line, with `--timeout` applied.
///
/// # Errors
/// The lab file is wrong.
pub fn lab(global: &Global) -> Result<Lab, Failure> {
    let mut lab = config::load(global.lab.as_deref())?;
    if let Some(limit) = global.timeout {
        lab.timeouts =
            Timeouts { cluster: limit, download: limit, image: limit, rollout: limit, identity: limit, removal: limit };
    }
    Ok(lab)
}

/// Where the lab keeps its files.
///
/// # Errors
/// There is no home directory.
pub(super) fn state_directory(lab: &Lab) -> Result<PathBuf, Failure> {
    if let Some(directory) = std::env::var_os("COASTAL_STATE_DIR").filter(|directory| !directory.is_empty()) {
        return std::path::absolute(PathBuf::from(directory).join(&lab.name))
            .map_err(|error| Failure::usage(format!("COASTAL_STATE_DIR is not a path: {error}")));
    }
    let base = etcetera::choose_base_strategy()
        .map_err(|error| Failure::prerequisite(format!("no home directory: {error}")).next("set COASTAL_STATE_DIR"))?;
    let state = base.state_dir().unwrap_or_else(|| base.data_dir());
    Ok(state.join("coastal").join(&lab.name))
}

/// The first signal asks everything to end; the second ends the process at once.
pub fn stop_on_signals() -> CancellationToken {
    let cancel = CancellationToken::new();
    let token = cancel.clone();
    tokio::spawn(async move {
        next_signal().await;
        token.cancel();
        // One wish to stop can arrive twice, when it is sent to the process and to its group.
        tokio::time::sleep(Duration::from_millis(500)).await;
        next_signal().await;
        crate::exit_now(crate::error::ExitCode::Interrupted);
    });
    cancel
}

async fn next_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// Runs `work` on a runtime of this thread; a rehearsal's time is virtual.
///
/// # Errors
/// The operating system gives no runtime.
pub fn block_on<T>(cli: &Cli, work: impl Future<Output = T>) -> Result<T, Failure> {
    let rehearsal = cli.global.rehearse || matches!(cli.command, Command::Rehearse(_));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(rehearsal)
        .build()
        .map_err(|error| Failure::unexpected(format!("no runtime: {error}")))?;
    let result = runtime.block_on(work);
    // A process that does not end must not keep the command from ending.
    runtime.shutdown_background();
    Ok(result)
}
