//! The controller manager's webhook is closed again.

use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use kube::ResourceExt;

use crate::checks::{Category, Check, Evidence, Known, Level, Mend, Verdict, none_of, skipped};

pub(super) const CHECK: Check = Check {
    id: "spire-webhook-open",
    category: Category::Spire,
    level: Level::Warning,
    before_up: false,
    title: "the controller manager's webhook refuses what it cannot check",
    why: "The chart opens it (`failurePolicy: Ignore`) before an upgrade and closes it after; one that was cut off leaves it open, and broken identities are accepted.",
    hint: "the next `helm upgrade` of the release that goes through closes it",
    judge,
    mend: Some(mend),
};

fn open(evidence: &Evidence) -> Known<Option<Vec<&ValidatingWebhookConfiguration>>> {
    let spire = &evidence.lab.spire;
    // Before chart 0.15 without the release's namespace in front (facts, section 2).
    let suffix = format!("{}-controller-manager-webhook", spire.release);
    let ours: Vec<_> = evidence.webhooks.as_ref()?.iter().filter(|found| found.name_any().ends_with(&suffix)).collect();
    let is_open = |found: &&ValidatingWebhookConfiguration| {
        found.webhooks.iter().flatten().any(|webhook| webhook.failure_policy.as_deref() == Some("Ignore"))
    };
    Ok(if ours.is_empty() { None } else { Some(ours.into_iter().filter(is_open).collect()) })
}

fn judge(evidence: &Evidence) -> Known<Verdict> {
    let Some(open) = open(evidence)? else { return skipped("there is no such webhook") };
    let names: Vec<String> = open.into_iter().map(ResourceExt::name_any).collect();
    let message = format!("{} was left open: it lets pass what it cannot check", names.join(", "));
    none_of(names, message, "closed")
}

fn mend(evidence: &Evidence) -> Vec<Mend> {
    let open = open(evidence).ok().flatten().unwrap_or_default().into_iter();
    open.map(|found| Mend::CloseWebhook {
        configuration: found.name_any(),
        webhooks: found.webhooks.as_ref().map_or(0, Vec::len),
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{Expect, cases, mends};

    #[test]
    fn judged() {
        let left: &dyn Fn(&mut Evidence) = &|e| {
            let webhooks = &mut e.webhooks.as_mut().unwrap()[0].webhooks;
            webhooks.as_mut().unwrap()[0].failure_policy = Some("Ignore".into());
        };
        cases(
            &CHECK,
            &[
                (left, Expect::Fails("spire-controller-manager-webhook was left open")),
                (&|e| e.webhooks = Ok(Vec::new()), Expect::Skips),
                (&|e| e.webhooks = Err("forbidden".into()), Expect::Unknown("forbidden")),
            ],
        );
        assert!(
            mends(&CHECK, left)[0]
                .starts_with("kubectl patch validatingwebhookconfiguration spire-controller-manager-webhook")
        );
    }
}
