//! Docker has CPUs enough.

use crate::checks::{Category, Check, Evidence, Known, Level, Verdict, failed, passed, skipped};

/// The least with which the lab came up in minutes on a real machine.
const LEAST: u32 = 2;

pub(super) const CHECK: Check = Check {
    id: "host-docker-cpus",
    category: Category::Host,
    level: Level::Warning,
    before_up: true,
    title: "Docker has at least 2 CPUs",
    why: "With one, the control plane and three SPIRE servers starve each other while they start, and probes fail.",
    hint: "give Docker more CPUs (Docker Desktop: Settings, Resources)",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    if !evidence.lab.is_kind() {
        return skipped("the cluster is not kind's");
    }
    let cpus = evidence.docker.as_ref()?.cpus;
    if cpus < LEAST {
        failed(format!("Docker has {cpus} CPU; the lab needs {LEAST}")).verdict()
    } else {
        passed(format!("{cpus} CPUs"))
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
                (&|e| e.docker.as_mut().unwrap().cpus = 1, Expect::Fails("Docker has 1 CPU")),
                (&|e| e.docker = Err("the daemon is silent".into()), Expect::Unknown("silent")),
            ],
        );
    }
}
