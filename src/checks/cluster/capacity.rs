//! The workload fits.

use crate::checks::{Category, Check, Evidence, Known, Level, Problem, Verdict, passed};
use crate::steps::capacity;

pub(super) const CHECK: Check = Check {
    id: "cluster-capacity",
    category: Category::Cluster,
    level: Level::Error,
    before_up: false,
    title: "what the workload's pods request fits onto the nodes",
    why: "Pods that do not fit stay Pending for ever: the seed lab's five pods of half a CPU do not fit a worker of two.",
    hint: "set `cpu` or `replicas` lower in `[workload]` of lab.toml",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    let (nodes, pods) = (evidence.nodes.as_ref()?, evidence.pods.as_ref()?);
    let workload = &evidence.lab.workload;
    match capacity::fits(workload, nodes, pods) {
        Ok(()) => passed(format!("{} pods of {} CPU fit", workload.replicas, workload.cpu)),
        Err(failure) => Problem::from(failure).verdict(),
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
                (&|e| e.lab.workload.cpu = "2".into(), Expect::Fails("do not fit: there is room for 1")),
                (&|e| e.pods = Err("forbidden".into()), Expect::Unknown("forbidden")),
            ],
        );
    }
}
