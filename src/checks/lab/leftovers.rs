//! Earlier runs left nothing behind.

use crate::checks::{Category, Check, Evidence, Known, Level, Mend, Verdict, count, none_of};

pub(super) const CHECK: Check = Check {
    id: "lab-leftovers",
    category: Category::Lab,
    level: Level::Warning,
    before_up: false,
    title: "no probe pod of an interrupted run is left",
    why: "A probe asks for SVIDs of its own; one that is left holds an identity that nobody watches.",
    hint: "`coastal delete-workload` takes them too, and so does the next upgrade",
    judge,
    mend: Some(mend),
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    let left = evidence.leftovers.as_ref()?.clone();
    let message = format!("{} left", count(left.len(), "probe pod"));
    none_of(left, message, "none")
}

fn mend(evidence: &Evidence) -> Vec<Mend> {
    let namespace = &evidence.lab.workload.namespace;
    let left = evidence.leftovers.iter().flatten();
    left.map(|name| Mend::DeletePod { namespace: namespace.clone(), name: name.clone() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{Expect, cases, mends};

    #[test]
    fn judged() {
        let left: &dyn Fn(&mut Evidence) = &|e| e.leftovers = Ok(vec!["probe-1".into()]);
        cases(
            &CHECK,
            &[
                (left, Expect::Fails("1 probe pod left")),
                (&|e| e.leftovers = Err("silent".into()), Expect::Unknown("silent")),
            ],
        );
        assert_eq!(mends(&CHECK, left), ["kubectl -n default delete pod probe-1"]);
    }
}
