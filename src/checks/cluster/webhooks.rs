//! Webhooks that must answer have somebody who does.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, Service};
use kube::ResourceExt;

use crate::checks::{Category, Check, Evidence, Known, Level, Verdict, count, none_of};
use crate::kube::is_ready;

pub(super) const CHECK: Check = Check {
    id: "cluster-webhooks",
    category: Category::Cluster,
    level: Level::Error,
    before_up: false,
    title: "every webhook that must answer has a ready pod behind it",
    why: "With `failurePolicy: Fail` and nobody there, every change of what it watches is refused: `helm upgrade` fails in words of certificates and connections.",
    hint: "bring its pods back; SPIRE's own webhook lives in the server pods: `coastal up`",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    let (webhooks, services, pods) =
        (evidence.webhooks.as_ref()?, evidence.services.as_ref()?, evidence.pods.as_ref()?);
    let (mut asked, mut dead) = (0, Vec::new());
    for configuration in webhooks {
        for webhook in configuration.webhooks.iter().flatten() {
            let strict = webhook.failure_policy.as_deref() != Some("Ignore");
            let Some(service) = webhook.client_config.service.as_ref().filter(|_| strict) else { continue };
            asked += 1;
            if !answers(services, pods, &service.namespace, &service.name) {
                dead.push(format!(
                    "{} of {}: no ready pod behind service {}/{}",
                    webhook.name,
                    configuration.name_any(),
                    service.namespace,
                    service.name
                ));
            }
        }
    }
    let message = format!("{} that must answer cannot", count(dead.len(), "webhook"));
    none_of(dead, message, format!("{} with a ready pod each", count(asked, "webhook")))
}

/// Whether a ready pod is selected by the service.
fn answers(services: &[Service], pods: &[Pod], namespace: &str, name: &str) -> bool {
    let is_it = |service: &&Service| service.namespace().as_deref() == Some(namespace) && service.name_any() == name;
    let Some(service) = services.iter().find(is_it) else { return false };
    let selector: BTreeMap<String, String> =
        service.spec.as_ref().and_then(|spec| spec.selector.clone()).unwrap_or_default();
    // Without a selector somebody else keeps its endpoints; nothing can be said against it.
    selector.is_empty()
        || pods.iter().any(|pod| {
            pod.namespace().as_deref() == Some(namespace)
                && is_ready(pod)
                && selector.iter().all(|(key, value)| pod.labels().get(key) == Some(value))
        })
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
                (&|e| e.services = Ok(Vec::new()), Expect::Fails("1 webhook that must answer cannot")),
                (&|e| e.pods = Ok(Vec::new()), Expect::Fails("1 webhook that must answer cannot")),
                (
                    &|e| {
                        e.pods = Ok(Vec::new());
                        let webhooks = &mut e.webhooks.as_mut().unwrap()[0].webhooks;
                        webhooks.as_mut().unwrap()[0].failure_policy = Some("Ignore".into());
                    },
                    Expect::Passes,
                ),
                (&|e| e.services = Err("forbidden".into()), Expect::Unknown("forbidden")),
            ],
        );
    }
}
