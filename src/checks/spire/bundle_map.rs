//! The bundle that agents boot from is the servers'.

use std::collections::BTreeSet;

use crate::checks::{Category, Check, Evidence, Known, Level, Verdict, none_of};
use crate::spire::audit::AuthorityKind;

pub(super) const CHECK: Check = Check {
    id: "spire-bundle-map",
    category: Category::Spire,
    level: Level::Error,
    before_up: false,
    title: "the ConfigMap that agents boot from holds the authorities that the servers trust, and no other",
    why: "The notifier does not follow a revocation: an agent that boots from the old map trusts what was revoked, and one that lacks a new authority trusts no server.",
    hint: "restart the servers one by one (`kubectl rollout restart statefulset`): each writes the map when it starts",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    let maps = evidence.bundle_maps.as_ref()?;
    let namespace = &evidence.lab.spire.system_namespace;
    let map = maps.iter().find(|map| map.namespace == *namespace);
    let map = map.ok_or_else(|| format!("there is no ConfigMap {namespace}/spire-bundle"))?;
    let authorities = &evidence.audited.as_ref()?.authorities;
    if authorities.is_empty() {
        return Err("no server shows its bundle".to_owned());
    }
    let trusted: BTreeSet<&str> =
        authorities.iter().filter(|found| found.kind == AuthorityKind::X509).map(|found| found.id.as_str()).collect();
    let held: BTreeSet<&str> = map.x509.iter().map(String::as_str).collect();
    let surplus = held.difference(&trusted).map(|id| format!("{id} is in the ConfigMap, and no server trusts it"));
    let lacking =
        trusted.difference(&held).map(|id| format!("{id} is trusted by the servers, and not in the ConfigMap"));
    let culprits: Vec<String> = surplus.chain(lacking).collect();
    let message =
        format!("the ConfigMap and the servers differ in {} of {} authorities", culprits.len(), trusted.len());
    none_of(culprits, message, format!("{} X.509 authorities in both", trusted.len()))
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
                    &|e| assert!(e.bundle_maps.as_mut().unwrap()[0].x509.insert("dead".into())),
                    Expect::Fails("differ in 1 of 1 authorities"),
                ),
                (&|e| e.bundle_maps.as_mut().unwrap()[0].x509.clear(), Expect::Fails("differ in 1 of 1")),
                (&|e| e.bundle_maps = Ok(Vec::new()), Expect::Unknown("there is no ConfigMap")),
                (&|e| e.audited.as_mut().unwrap().authorities.clear(), Expect::Unknown("no server shows")),
            ],
        );
    }
}
