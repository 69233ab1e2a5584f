//! The controller manager could make every entry.

use serde_json::Value;

use crate::checks::{Category, Check, Evidence, Known, Level, Verdict, count, failed, none_of};

pub(super) const CHECK: Check = Check {
    id: "spire-manager-stats",
    category: Category::Spire,
    level: Level::Error,
    before_up: false,
    title: "the controller manager reports no failure for any ClusterSPIFFEID",
    why: "A template that does not render, or an entry that the server refuses, leaves pods without identity; only this status says so.",
    hint: "`kubectl get clusterspiffeid NAME -o yaml` shows template and status, `coastal logs controller-manager` the error",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    let identities = evidence.spiffe_ids.as_ref()?;
    if identities.is_empty() {
        return failed("there is no ClusterSPIFFEID: no pod gets an entry").verdict();
    }
    let mut culprits = Vec::new();
    for identity in identities {
        let name = identity["metadata"]["name"].as_str().unwrap_or_default();
        for counter in ["podEntryRenderFailures", "entryFailures"] {
            let number = identity["status"]["stats"].get(counter).and_then(Value::as_u64).unwrap_or_default();
            if number > 0 {
                culprits.push(format!("{name}: {counter} {number}"));
            }
        }
    }
    let message = culprits.join(", ");
    none_of(culprits, message, count(identities.len(), "ClusterSPIFFEID"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::checks::testing::{Expect, cases};

    #[test]
    fn judged() {
        cases(
            &CHECK,
            &[
                (
                    &|e| e.spiffe_ids.as_mut().unwrap()[0]["status"] = json!({"stats": {"entryFailures": 2}}),
                    Expect::Fails("entryFailures 2"),
                ),
                (&|e| e.spiffe_ids = Ok(Vec::new()), Expect::Fails("no ClusterSPIFFEID")),
                (&|e| e.spiffe_ids = Err("forbidden".into()), Expect::Unknown("forbidden")),
            ],
        );
    }
}
