//! Control groups of the second version.

use crate::checks::{Category, Check, Evidence, Known, Level, Verdict, failed, passed, skipped};

pub(super) const CHECK: Check = Check {
    id: "host-cgroups",
    category: Category::Host,
    level: Level::Warning,
    before_up: true,
    title: "Docker uses control groups v2",
    why: "Kubernetes keeps v1 only in maintenance, and newer kubelets refuse to start on it.",
    hint: "boot the kernel with `systemd.unified_cgroup_hierarchy=1`, or use a distribution from 2021 or later",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    if !evidence.lab.is_kind() {
        return skipped("the cluster is not kind's");
    }
    match evidence.docker.as_ref()?.cgroup_version.as_str() {
        "" => Err("Docker does not tell which version it uses".to_owned()),
        "2" => passed("v2"),
        other => failed(format!("Docker uses control groups v{other}")).verdict(),
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
                (&|e| e.docker.as_mut().unwrap().cgroup_version = "1".into(), Expect::Fails("control groups v1")),
                (&|e| e.docker.as_mut().unwrap().cgroup_version = String::new(), Expect::Unknown("does not tell")),
            ],
        );
    }
}
