//! Agents find the bundle where they look.

use crate::checks::{Category, Check, Evidence, Known, Level, Verdict, failed, passed};

pub(super) const CHECK: Check = Check {
    id: "spire-bundle-place",
    category: Category::Spire,
    level: Level::Error,
    before_up: false,
    title: "the bundle that agents boot from is in their own namespace, and is not empty",
    why: "An agent mounts it from there. From chart 0.26 on the publisher writes into the servers' namespace unless told otherwise: running agents go on, new ones do not start.",
    hint: "set `spire-server.bundlePublisher.k8sConfigMap.namespace` (before chart 0.26: `notifier.k8sbundle.namespace`) to the agents' namespace; the lab's own values do",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    let maps = evidence.bundle_maps.as_ref()?;
    let namespace = &evidence.lab.spire.system_namespace;
    let elsewhere: Vec<&str> = maps.iter().map(|map| map.namespace.as_str()).filter(|name| name != namespace).collect();
    match maps.iter().find(|map| map.namespace == *namespace) {
        None if elsewhere.is_empty() => failed(format!("there is no ConfigMap {namespace}/spire-bundle")).verdict(),
        None => failed(format!("the bundle is in namespace {}, and agents look in {namespace}", elsewhere.join(", ")))
            .verdict(),
        Some(map) if map.x509.is_empty() => {
            failed(format!("ConfigMap {namespace}/spire-bundle holds no authority")).verdict()
        }
        Some(_) => passed(format!("ConfigMap {namespace}/spire-bundle")),
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
                (&|e| e.bundle_maps = Ok(Vec::new()), Expect::Fails("there is no ConfigMap spire-system/spire-bundle")),
                (
                    &|e| e.bundle_maps.as_mut().unwrap()[0].namespace = "spire-server".into(),
                    Expect::Fails("in namespace spire-server, and agents look in spire-system"),
                ),
                (&|e| e.bundle_maps.as_mut().unwrap()[0].x509.clear(), Expect::Fails("holds no authority")),
                (&|e| e.bundle_maps = Err("forbidden".into()), Expect::Unknown("forbidden")),
            ],
        );
    }
}
