//! Trust domain and cluster name are those of lab.toml.

use std::collections::BTreeSet;

use crate::checks::{Category, Check, Evidence, Known, Level, Verdict, none_of};

pub(super) const CHECK: Check = Check {
    id: "spire-names",
    category: Category::Spire,
    level: Level::Error,
    before_up: false,
    title: "agents attest in the trust domain and under the cluster name of lab.toml",
    why: "Both are in every SPIFFE id: with others, no entry has a parent and every workload another name.",
    hint: "set `trust-domain` and `cluster-name` in `[spire]` of lab.toml to what runs; changing what runs makes every identity anew",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    let spire = &evidence.lab.spire;
    let agents = &evidence.audited.as_ref()?.agents;
    if agents.is_empty() {
        return Err("no agent has attested".to_owned());
    }
    let mut culprits = BTreeSet::new();
    for agent in agents {
        if agent.id.trust_domain != spire.trust_domain {
            culprits.insert(format!("trust domain {}, not {}", agent.id.trust_domain, spire.trust_domain));
        }
        let cluster = agent.id.path.strip_prefix("/spire/agent/k8s_psat/").and_then(|rest| rest.split('/').next());
        if let Some(cluster) = cluster.filter(|cluster| *cluster != spire.cluster_name) {
            culprits.insert(format!("cluster name {cluster}, not {}", spire.cluster_name));
        }
    }
    let culprits: Vec<String> = culprits.into_iter().collect();
    let message = format!("agents attested under {}", culprits.join(" and "));
    none_of(culprits, message, format!("{} and {}", spire.trust_domain, spire.cluster_name))
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
                (&|e| e.lab.spire.trust_domain = "other.example".into(), Expect::Fails("not other.example")),
                (&|e| e.lab.spire.cluster_name = "east".into(), Expect::Fails("cluster name kind-kind, not east")),
                (&|e| e.audited.as_mut().unwrap().agents.clear(), Expect::Unknown("no agent has attested")),
            ],
        );
    }
}
