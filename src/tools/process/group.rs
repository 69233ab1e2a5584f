//! A process group of ours, from its start to its end.

use std::collections::BTreeSet;
use std::io;
use std::process::ExitStatus;
use std::sync::{Mutex, PoisonError};

use rustix::process::{Pid, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::task::JoinHandle;

pub(super) use rustix::process::Signal;

/// The groups that run now. A number is in it only while its leader is not reaped.
static RUNNING: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// Ends every process that runs, at once. For the second Ctrl-C, after which `coastal` exits without a word.
pub fn kill_all() {
    for group in RUNNING.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        if let Some(group) = Pid::from_raw(*group) {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// A running group. Dropped before it was reaped (its future was dropped), it is killed.
pub(super) struct Group {
    handle: duct::Handle,
    leader: Pid,
    exit: JoinHandle<io::Result<()>>,
    exited: bool,
    reaped: bool,
}

impl Group {
    /// Around a process that was just started as the leader of its group.
    pub(super) fn new(handle: duct::Handle) -> io::Result<Self> {
        let leader = handle
            .pids()
            .first()
            .and_then(|pid| i32::try_from(*pid).ok())
            .and_then(Pid::from_raw)
            .ok_or_else(|| io::Error::other("started, but without a process id"))?;
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).insert(leader.as_raw_pid());
        let exit = tokio::task::spawn_blocking(move || wait_without_reaping(leader));
        Ok(Group { handle, leader, exit, exited: false, reaped: false })
    }

    /// Waits until the leader has exited; it stays a zombie. May be dropped and called again.
    pub(super) async fn leader_exit(&mut self) -> io::Result<()> {
        if !self.exited {
            (&mut self.exit).await.map_err(io::Error::other)??;
            self.exited = true;
        }
        Ok(())
    }

    /// Sends a signal to all of it. That nobody is left to receive it is no error.
    pub(super) fn signal(&self, signal: Signal) {
        if !self.reaped {
            let _ = kill_process_group(self.leader, signal);
        }
    }

    /// Reaps the leader, which has exited. The group's number is free from here on.
    pub(super) fn reap(&mut self) -> io::Result<ExitStatus> {
        self.forget();
        Ok(self.handle.wait()?.status)
    }

    fn forget(&mut self) {
        self.reaped = true;
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.leader.as_raw_pid());
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.reaped {
            self.signal(Signal::KILL);
            // Reaped by duct, now or when it next starts something.
            self.forget();
        }
    }
}

fn wait_without_reaping(leader: Pid) -> io::Result<()> {
    loop {
        match waitid(WaitId::Pid(leader), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
