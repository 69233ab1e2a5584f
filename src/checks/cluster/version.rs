//! Kubernetes is new enough.

use semver::Version;

use crate::checks::{Category, Check, Evidence, Known, Level, Verdict, failed, passed};

/// Pod Security levels by namespace label, on which the lab relies, are stable from here on.
const OLDEST: Version = Version::new(1, 25, 0);

pub(super) const CHECK: Check = Check {
    id: "cluster-version",
    category: Category::Cluster,
    level: Level::Error,
    before_up: false,
    title: "Kubernetes is 1.25 or later",
    why: "Older ones do not enforce the Pod Security levels that SPIRE's namespaces ask for.",
    hint: "upgrade the cluster; for kind, set a newer `node-image` in `[cluster]` of lab.toml and make it anew",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    let version = super::version(evidence)?;
    if version < OLDEST {
        failed(format!("Kubernetes is {version}; the lab needs 1.25")).verdict()
    } else {
        passed(version.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{Expect, cases, node};

    #[test]
    fn judged() {
        cases(
            &CHECK,
            &[
                (&|e| e.nodes = Ok(vec![node("worker", "v1.24.9", &[])]), Expect::Fails("Kubernetes is 1.24.9")),
                (&|e| e.nodes = Ok(vec![node("worker", "new", &[])]), Expect::Unknown("no node tells")),
                (&|e| e.nodes = Err("forbidden".into()), Expect::Unknown("forbidden")),
            ],
        );
    }
}
