//! The machine has memory to spare.

use super::gib;
use crate::checks::{Category, Check, Evidence, Known, Level, There, Verdict, failed, passed, skipped};

/// What the lab takes before it runs, and what it needs to go on breathing once it does.
const BEFORE: u64 = 4 << 30;
const AFTER: u64 = 512 << 20;

pub(super) const CHECK: Check = Check {
    id: "host-memory",
    category: Category::Host,
    level: Level::Warning,
    before_up: true,
    title: "the machine has memory to spare: 4 GiB before the lab is up, half of one after",
    why: "When memory runs out the kernel ends processes, and which ones it does not say in Kubernetes' words.",
    hint: "end what is not needed, or set `[spire] servers` or `[workload] replicas` lower in lab.toml",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    if !evidence.lab.is_kind() {
        return skipped("the cluster is not kind's");
    }
    let left = evidence.host.memory_available.ok_or("this operating system does not tell how much memory is left")?;
    let needed = if evidence.there == Ok(There::Running) { AFTER } else { BEFORE };
    if left < needed {
        failed(format!("{} of memory are left; {} are needed", gib(left), gib(needed))).verdict()
    } else {
        passed(format!("{} left", gib(left)))
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
                (&|e| e.host.memory_available = Some(300 << 20), Expect::Fails("0.2 GiB of memory are left")),
                (&|e| e.host.memory_available = Some(1 << 30), Expect::Passes),
                (
                    &|e| {
                        e.host.memory_available = Some(1 << 30);
                        e.there = Ok(There::Absent);
                    },
                    Expect::Fails("4.0 GiB are needed"),
                ),
                (&|e| e.host.memory_available = None, Expect::Unknown("does not tell")),
            ],
        );
    }
}
