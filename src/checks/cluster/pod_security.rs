//! SPIRE's namespaces have their Pod Security levels.

use kube::ResourceExt;

use crate::checks::{Category, Check, Evidence, Known, Level, Verdict, none_of};

const LABEL: &str = "pod-security.kubernetes.io/enforce";

pub(super) const CHECK: Check = Check {
    id: "cluster-pod-security",
    category: Category::Cluster,
    level: Level::Warning,
    before_up: false,
    title: "servers run under Pod Security level `restricted`, agents under `privileged`",
    why: "The servers hold the CA keys and need nothing of the host; agents cannot start without it.",
    hint: "`coastal namespaces` sets the labels",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    let spire = &evidence.lab.spire;
    let mut culprits = Vec::new();
    for (name, level) in [(&spire.server_namespace, "restricted"), (&spire.system_namespace, "privileged")] {
        let namespaces = evidence.namespaces.as_ref()?;
        let Some(namespace) = namespaces.iter().find(|namespace| namespace.name_any() == *name) else {
            culprits.push(format!("there is no namespace {name}"));
            continue;
        };
        match namespace.labels().get(LABEL) {
            Some(found) if found == level => {}
            Some(found) => culprits.push(format!("{name} enforces `{found}`, not `{level}`")),
            None => culprits.push(format!("{name} enforces nothing; wanted is `{level}`")),
        }
    }
    let message = culprits.join(", ");
    none_of(culprits, message, "both namespaces enforce their levels")
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
                (&|e| e.namespaces = Ok(Vec::new()), Expect::Fails("there is no namespace spire-server")),
                (
                    &|e| e.namespaces.as_mut().unwrap()[0].metadata.labels = None,
                    Expect::Fails("spire-server enforces nothing"),
                ),
                (
                    &|e| {
                        let labels = &mut e.namespaces.as_mut().unwrap()[1].metadata.labels;
                        labels.as_mut().unwrap().insert(LABEL.into(), "baseline".into());
                    },
                    Expect::Fails("spire-system enforces `baseline`"),
                ),
                (&|e| e.namespaces = Err("forbidden".into()), Expect::Unknown("forbidden")),
            ],
        );
    }
}
