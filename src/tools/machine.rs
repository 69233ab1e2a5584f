//! The real world: this machine's processes, network and time.

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;

use super::fetch::HttpFetcher;
use super::process::ProcessRunner;
use crate::kube::RealConnector;
use crate::world::{Clock, Host, HostFacts, World};

/// The time of day of this machine.
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// This machine.
pub struct ThisHost;

impl Host for ThisHost {
    fn look(&self, ports: &[u16], directory: &Path) -> HostFacts {
        let number = |file: &str| std::fs::read_to_string(file).ok()?.trim().parse().ok();
        let taken = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_err();
        HostFacts {
            memory_available: std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| available(&text)),
            disk_free: directory.ancestors().find(|place| place.exists()).and_then(free),
            ports_taken: ports.iter().copied().filter(taken).collect(),
            inotify_watches: number("/proc/sys/fs/inotify/max_user_watches"),
            inotify_instances: number("/proc/sys/fs/inotify/max_user_instances"),
        }
    }
}

/// `MemAvailable` of /proc/meminfo, in bytes.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

fn free(place: &Path) -> Option<u64> {
    let system = nix::sys::statvfs::statvfs(place).ok()?;
    #[expect(clippy::useless_conversion, reason = "it is narrower than u64 on macOS")]
    u64::from(system.blocks_available()).checked_mul(u64::from(system.fragment_size()))
}

/// This machine as a [`World`].
#[must_use]
pub fn real_world() -> World {
    World {
        runner: Arc::new(ProcessRunner::new()),
        connector: Arc::new(RealConnector),
        clock: Arc::new(SystemClock),
        fetcher: Arc::new(HttpFetcher::new()),
        host: Arc::new(ThisHost),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_read() {
        let text = "MemTotal:       16316412 kB\nMemFree:          204 kB\nMemAvailable:    8000 kB\n";
        assert_eq!(available(text), Some(8_192_000));
        for other in ["", "MemAvailable: many kB", "MemAvailable: 3"] {
            assert_eq!(available(other), None, "{other}");
        }
    }

    #[test]
    fn a_port_at_which_somebody_listens_is_taken() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let facts = ThisHost.look(&[port], Path::new("/nowhere/at/all"));
        assert_eq!(facts.ports_taken, [port]);
        assert!(facts.disk_free.is_some(), "the root is there");
    }
}
