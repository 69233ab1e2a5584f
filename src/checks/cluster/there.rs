//! The cluster is there.

use crate::checks::{Category, Check, Evidence, Known, Level, There, Verdict, failed, passed};

pub(super) const CHECK: Check = Check {
    id: "cluster-there",
    category: Category::Cluster,
    level: Level::Error,
    before_up: false,
    title: "the lab's cluster answers, and is the lab's",
    why: "coastal writes to no cluster that does not carry its marker, and never follows the ambient context.",
    hint: "`coastal cluster-up` makes the cluster, `coastal up` the whole lab",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    let context = evidence.lab.cluster.context();
    match &evidence.there {
        Ok(There::Running) => passed(format!("{context} answers")),
        Ok(There::Absent) => failed(format!("there is no cluster `{context}`")).verdict(),
        Ok(There::HalfMade) => {
            failed(format!("cluster `{context}` is half-made: an earlier run was interrupted")).verdict()
        }
        Err(why) => failed(why.clone()).verdict(),
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
                (&|e| e.there = Ok(There::Absent), Expect::Fails("there is no cluster `kind-kind`")),
                (&|e| e.there = Ok(There::HalfMade), Expect::Fails("half-made")),
                (&|e| e.there = Err("it belongs to another lab".into()), Expect::Fails("another lab")),
            ],
        );
    }
}
