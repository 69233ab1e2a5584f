//! Docker has memory enough.

use super::gib;
use crate::checks::{Category, Check, Evidence, Known, Level, Verdict, failed, passed, skipped};

/// The whole lab holds 3.3 GiB once it has settled; below this the kernel begins to end processes.
const LEAST: u64 = 4 << 30;

pub(super) const CHECK: Check = Check {
    id: "host-docker-memory",
    category: Category::Host,
    level: Level::Error,
    before_up: true,
    title: "Docker has at least 4 GiB of memory",
    why: "Two nodes, Prometheus, Grafana and three SPIRE servers run in it; with less, pods are ended for want of memory.",
    hint: "give Docker more memory (Docker Desktop: Settings, Resources), or leave out `[monitoring]` in lab.toml",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    if !evidence.lab.is_kind() {
        return skipped("the cluster is not kind's");
    }
    let memory = evidence.docker.as_ref()?.memory;
    // What a machine is sold as is less by what its firmware keeps.
    if memory < LEAST / 16 * 15 {
        failed(format!("Docker has {} of memory; the lab needs {}", gib(memory), gib(LEAST))).verdict()
    } else {
        passed(gib(memory))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{Expect, cases};

    #[test]
    fn judged() {
        cases(
            &CHECK,
            &[
                (&|e| e.docker.as_mut().unwrap().memory = 2 << 30, Expect::Fails("Docker has 2.0 GiB")),
                (&|e| e.docker.as_mut().unwrap().memory = 4_100_000_000, Expect::Passes),
                (&|e| e.docker = Err("the daemon is silent".into()), Expect::Unknown("silent")),
            ],
        );
    }
}
