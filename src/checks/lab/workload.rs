//! The workload holds its identity.

use crate::checks::{Category, Check, Evidence, Known, Level, Verdict, count, none_of, skipped};
use crate::spire::names;

pub(super) const CHECK: Check = Check {
    id: "lab-workload",
    category: Category::Lab,
    level: Level::Error,
    before_up: false,
    title: "every workload pod holds a valid SVID of the name that it should have",
    why: "That is what SPIRE is for; all else is how.",
    hint: "`coastal logs workload` shows what the pods say, `coastal test` proves the chain to the bundle",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    let (lab, svids) = (&evidence.lab, evidence.svids.as_ref()?);
    if svids.is_empty() {
        return skipped("the workload is not deployed: `coastal deploy-workload`");
    }
    let expected = names::workload_id(&lab.spire.trust_domain, &lab.workload.namespace, &lab.workload.name);
    let mut culprits = Vec::new();
    for svid in svids {
        match &svid.update {
            None => culprits.push(format!("{}: no SVID yet", svid.pod)),
            Some(update) if update.spiffe_id != expected => {
                culprits.push(format!("{} holds {}", svid.pod, update.spiffe_id));
            }
            Some(update) if !update.is_valid_at(evidence.now) => {
                culprits.push(format!("{}: its SVID expired at {:.0}", svid.pod, update.not_after));
            }
            Some(_) => {}
        }
    }
    let message = format!("{} of {} without a valid SVID of {expected}", culprits.len(), count(svids.len(), "pod"));
    none_of(culprits, message, format!("{} hold {expected}", count(svids.len(), "pod")))
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
                (&|e| e.svids.as_mut().unwrap()[0].update = None, Expect::Fails("1 of 5 pods without a valid SVID")),
                (
                    &|e| {
                        let update = e.svids.as_mut().unwrap()[0].update.as_mut().unwrap();
                        update.spiffe_id = "spiffe://x/y".into();
                    },
                    Expect::Fails("1 of 5 pods"),
                ),
                (
                    &|e| {
                        let past = e.now.checked_sub(jiff::SignedDuration::from_secs(5)).unwrap();
                        e.svids.as_mut().unwrap()[0].update.as_mut().unwrap().not_after = past;
                    },
                    Expect::Fails("1 of 5 pods"),
                ),
                (&|e| e.svids = Ok(Vec::new()), Expect::Skips),
                (&|e| e.svids = Err("forbidden".into()), Expect::Unknown("forbidden")),
            ],
        );
    }
}
