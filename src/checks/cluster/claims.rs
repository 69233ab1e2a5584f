//! The lab's claims have their volumes.

use kube::ResourceExt;

use crate::checks::{Category, Check, Evidence, Known, Level, Verdict, count, none_of};

pub(super) const CHECK: Check = Check {
    id: "cluster-claims",
    category: Category::Cluster,
    level: Level::Error,
    before_up: false,
    title: "every claim in SPIRE's namespaces is bound",
    why: "PostgreSQL's data and the servers' CA keys lie there; a pod whose claim is not bound does not start.",
    hint: "`kubectl get pvc,pv --all-namespaces` and the claim's events say what is missing",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    let spire = &evidence.lab.spire;
    let ours = |namespace: &str| namespace == spire.server_namespace || namespace == spire.system_namespace;
    let claims = evidence.claims.as_ref()?;
    let claims: Vec<_> = claims.iter().filter(|claim| ours(&claim.namespace().unwrap_or_default())).collect();
    let phase = |claim: &k8s_openapi::api::core::v1::PersistentVolumeClaim| {
        claim.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_else(|| "Pending".to_owned())
    };
    let open = claims.iter().filter(|claim| phase(claim) != "Bound");
    let open: Vec<String> = open.map(|claim| format!("{}: {}", claim.name_any(), phase(claim))).collect();
    let message = format!("{} without a volume", count(open.len(), "claim"));
    none_of(open, message, format!("{} bound", count(claims.len(), "claim")))
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
                    &|e| e.claims.as_mut().unwrap()[0].status.as_mut().unwrap().phase = Some("Lost".into()),
                    Expect::Fails("1 claim without a volume"),
                ),
                (&|e| e.claims = Err("forbidden".into()), Expect::Unknown("forbidden")),
            ],
        );
    }
}
