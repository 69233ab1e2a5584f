//! Every agent has attested, and its SVID is valid.

use std::collections::BTreeMap;

use jiff::Timestamp;
use kube::ResourceExt;

use crate::checks::{Category, Check, Evidence, Known, Level, Verdict, count, failed, none_of};

pub(super) const CHECK: Check = Check {
    id: "spire-agents-attested",
    category: Category::Spire,
    level: Level::Error,
    before_up: false,
    title: "the agent of every node is attested, and its SVID is valid",
    why: "An agent whose SVID has run out must attest anew; until it does its workloads get nothing, though it still runs.",
    hint: "`coastal logs agent` says why it cannot attest; `coastal agents` shows those that have",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    let (nodes, pods) = (evidence.nodes.as_ref()?, evidence.pods.as_ref()?);
    let attested = &evidence.audited.as_ref()?.agents;
    let uids: BTreeMap<String, String> = nodes.iter().filter_map(|node| Some((node.name_any(), node.uid()?))).collect();
    let spire = &evidence.lab.spire;
    let running = pods.iter().filter(|pod| {
        pod.namespace().as_ref() == Some(&spire.system_namespace)
            && pod.labels().get("app.kubernetes.io/name").is_some_and(|name| name == "agent")
            && pod.metadata.deletion_timestamp.is_none()
    });
    let (mut looked, mut culprits) = (0, Vec::new());
    for pod in running {
        let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()) else { continue };
        looked += 1;
        let uid = uids.get(node).map(String::as_str).unwrap_or_default();
        let agent = attested.iter().find(|agent| agent.id.path.rsplit('/').next() == Some(uid));
        let expires = |second: &str| Timestamp::from_second(second.parse().ok()?).ok();
        match agent.map(|agent| expires(&agent.x509svid_expires_at)) {
            None => culprits.push(format!("the agent of {node} has not attested")),
            Some(Some(end)) if end <= evidence.now => {
                culprits.push(format!("the SVID of the agent of {node} expired at {end:.0}"));
            }
            Some(_) => {}
        }
    }
    if looked == 0 {
        return failed("no agent runs").verdict();
    }
    let message = culprits.join(", ");
    none_of(culprits, message, format!("{} attested", count(looked, "agent")))
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
                    &|e| e.audited.as_mut().unwrap().agents.clear(),
                    Expect::Fails("the agent of worker has not attested"),
                ),
                (
                    &|e| e.audited.as_mut().unwrap().agents[0].x509svid_expires_at = "1000".into(),
                    Expect::Fails("expired at 1970-01-01T00:16:40Z"),
                ),
                (&|e| e.pods = Ok(Vec::new()), Expect::Fails("no agent runs")),
                (&|e| e.audited = Err("no server answers".into()), Expect::Unknown("no server answers")),
            ],
        );
    }
}
