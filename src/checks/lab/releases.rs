//! The helm releases are deployed.

use crate::checks::{Category, Check, Evidence, Known, Level, Verdict, none_of};
use crate::tools::helm::ReleaseStatus;

pub(super) const CHECK: Check = Check {
    id: "lab-releases",
    category: Category::Lab,
    level: Level::Error,
    before_up: false,
    title: "every helm release of the lab is deployed",
    why: "A release that failed half-way leaves a mixture of two revisions running.",
    hint: "`coastal up` installs what is missing and mends what failed; never `helm rollback`, which knows nothing of the database",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    let lab = &evidence.lab;
    let wanted = [Some(&lab.spire.release), lab.monitoring.as_ref().map(|monitoring| &monitoring.release)];
    let releases = evidence.releases.as_ref()?;
    let (mut good, mut culprits) = (Vec::new(), Vec::new());
    for name in wanted.into_iter().flatten() {
        match releases.iter().find(|release| release.name == *name) {
            None => culprits.push(format!("there is no release {name}")),
            // What is pending is another check's.
            Some(found) if found.status == ReleaseStatus::Deployed || found.status.is_pending() => {
                good.push(format!("{name} {} revision {}", found.chart, found.revision));
            }
            Some(found) => culprits.push(format!("release {name} is {}", found.status)),
        }
    }
    let message = culprits.join(", ");
    none_of(culprits, message, good.join(", "))
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
                (&|e| e.releases.as_mut().unwrap().clear(), Expect::Fails("there is no release spire")),
                (
                    &|e| e.releases.as_mut().unwrap()[0].status = ReleaseStatus::Failed,
                    Expect::Fails("release spire is failed"),
                ),
                (&|e| e.releases = Err("helm is not installed".into()), Expect::Unknown("helm is not installed")),
            ],
        );
    }
}
