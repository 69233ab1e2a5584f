//! The host's ports.

use crate::checks::{Category, Check, Evidence, Known, Level, There, Verdict, failed, passed, skipped};
use crate::config::Provider;

pub(super) const CHECK: Check = Check {
    id: "host-ports",
    category: Category::Host,
    level: Level::Error,
    before_up: true,
    title: "the host's ports that lead into the cluster are free, or the cluster's own",
    why: "kind publishes them when it makes the cluster, and fails late if somebody else listens there.",
    hint: "`ss -ltnp` shows who listens; end that program, or set other ports in `[cluster]` of lab.toml",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    let Provider::Kind { http_port, https_port, .. } = &evidence.lab.cluster.provider else {
        return skipped("the cluster is not kind's");
    };
    match evidence.there.as_ref()? {
        There::Running => return passed(format!("{http_port} and {https_port} are the cluster's")),
        There::HalfMade => return skipped("the cluster is half-made and may hold them"),
        There::Absent => {}
    }
    let taken: Vec<String> = evidence.host.ports_taken.iter().map(|port| format!("port {port} is taken")).collect();
    if taken.is_empty() {
        passed(format!("{http_port} and {https_port} are free"))
    } else {
        failed(taken.join(", ")).verdict()
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
                (
                    &|e| {
                        e.there = Ok(There::Absent);
                        e.host.ports_taken = vec![8080];
                    },
                    Expect::Fails("port 8080 is taken"),
                ),
                (&|e| e.there = Ok(There::Absent), Expect::Passes),
                (&|e| e.host.ports_taken = vec![8080, 8443], Expect::Passes),
                (&|e| e.there = Err("Docker is silent".into()), Expect::Unknown("silent")),
            ],
        );
    }
}
