//! No broken server of another revision holds up the rollout.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use crate::checks::{Category, Check, Evidence, Known, Level, Mend, Verdict, none_of, skipped};
use crate::kube::is_ready;

const REVISION: &str = "controller-revision-hash";

pub(super) const CHECK: Check = Check {
    id: "spire-server-stuck",
    category: Category::Spire,
    level: Level::Error,
    before_up: false,
    title: "no server of an older revision is broken",
    why: "Servers are replaced one after the other, each only once the one before is ready: a broken one of the wrong revision waits for ever, and going back to the right chart does not heal it.",
    hint: "delete exactly that pod; its StatefulSet makes it anew as the right revision",
    judge,
    mend: Some(mend),
};

/// Not ready, and not of the revision that the StatefulSet goes to.
fn stuck<'a>(evidence: &'a Evidence, wanted: &str) -> Known<Vec<&'a Pod>> {
    let namespace = &evidence.lab.spire.server_namespace;
    let pods = evidence.pods.as_ref()?.iter();
    let of_set = |pod: &&Pod| {
        pod.namespace().as_ref() == Some(namespace)
            && pod.labels().get("app.kubernetes.io/name").is_some_and(|name| name == "server")
            && pod.metadata.deletion_timestamp.is_none()
    };
    let other = |pod: &&Pod| pod.labels().get(REVISION).is_some_and(|revision| revision != wanted);
    Ok(pods.filter(of_set).filter(other).filter(|pod| !is_ready(pod)).collect())
}

fn wanted(evidence: &Evidence) -> Known<Option<String>> {
    let set = evidence.server_set.as_ref()?.as_ref();
    Ok(set.and_then(|set| set.status.as_ref()?.update_revision.clone()))
}

fn judge(evidence: &Evidence) -> Known<Verdict> {
    let Some(wanted) = wanted(evidence)? else { return skipped("there are no servers") };
    let stuck: Vec<String> = stuck(evidence, &wanted)?.into_iter().map(ResourceExt::name_any).collect();
    let message = format!("{} is broken and of an older revision: the rollout waits for it for ever", stuck.join(", "));
    none_of(stuck, message, "none")
}

fn mend(evidence: &Evidence) -> Vec<Mend> {
    let Ok(Some(wanted)) = wanted(evidence) else { return Vec::new() };
    let namespace = &evidence.lab.spire.server_namespace;
    let stuck = stuck(evidence, &wanted).unwrap_or_default().into_iter();
    stuck.map(|pod| Mend::DeletePod { namespace: namespace.clone(), name: pod.name_any() }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::checks::testing::{Expect, cases, change_pod, mends};

    #[test]
    fn judged() {
        let old: &dyn Fn(&mut Evidence) = &|e| {
            change_pod(e, "spire-server-2", |pod| {
                pod["metadata"]["labels"][REVISION] = json!("spire-server-old");
                pod["status"] = json!({"phase": "Running", "conditions": []});
            });
        };
        let moving: &dyn Fn(&mut Evidence) = &|e| {
            change_pod(e, "spire-server-2", |pod| pod["metadata"]["labels"][REVISION] = json!("spire-server-old"));
        };
        cases(
            &CHECK,
            &[
                (old, Expect::Fails("spire-server-2 is broken")),
                (moving, Expect::Passes),
                (&|e| e.server_set = Ok(None), Expect::Skips),
                (&|e| e.pods = Err("forbidden".into()), Expect::Unknown("forbidden")),
            ],
        );
        assert_eq!(mends(&CHECK, old), ["kubectl -n spire-server delete pod spire-server-2"]);
    }
}
