//! kubectl and the API server are of the same age.

use semver::Version;

use crate::checks::{Category, Check, Evidence, Known, Level, Verdict, failed, passed};
use crate::tools::Tool;

pub(super) const CHECK: Check = Check {
    id: "host-kubectl-skew",
    category: Category::Host,
    level: Level::Warning,
    before_up: false,
    title: "kubectl is within one minor version of the API server",
    why: "Kubernetes supports no greater difference; what breaks first is `exec`, by which SPIRE's processes are asked.",
    hint: "install kubectl of the cluster's minor version",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    let Some(Ok(kubectl)) = evidence.tools.get(&Tool::Kubectl) else {
        return Err("kubectl did not tell its version".to_owned());
    };
    let server = super::super::cluster::version(evidence)?;
    let far = kubectl.major != server.major || kubectl.minor.abs_diff(server.minor) > 1;
    let both = |kubectl: &Version| format!("kubectl {kubectl}, Kubernetes {server}");
    if far {
        failed(format!("kubectl {kubectl} is more than one minor version from Kubernetes {server}")).verdict()
    } else {
        passed(both(kubectl))
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
                    &|e| drop(e.tools.insert(Tool::Kubectl, Ok(Version::new(1, 30, 9)))),
                    Expect::Fails("kubectl 1.30.9 is more than one minor version from Kubernetes 1.32.3"),
                ),
                (&|e| drop(e.tools.insert(Tool::Kubectl, Ok(Version::new(1, 33, 0)))), Expect::Passes),
                (&|e| e.nodes = Err("no nodes".into()), Expect::Unknown("no nodes")),
            ],
        );
    }
}
