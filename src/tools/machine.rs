//! The real world: this machine's processes, network and time.

use std::sync::Arc;

use jiff::Timestamp;

use super::fetch::HttpFetcher;
use super::process::ProcessRunner;
use crate::kube::RealConnector;
use crate::world::{Clock, World};

/// The time of day of this machine.
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// This machine as a [`World`].
#[must_use]
pub fn real_world() -> World {
    World {
        runner: Arc::new(ProcessRunner::new()),
        connector: Arc::new(RealConnector),
        clock: Arc::new(SystemClock),
        fetcher: Arc::new(HttpFetcher::new()),
    }
}
