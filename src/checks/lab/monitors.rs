//! Prometheus is told where SPIRE is.

use crate::checks::{Category, Check, Evidence, Known, Level, Verdict, none_of, skipped};
use crate::spire::monitors::blind;

pub(super) const CHECK: Check = Check {
    id: "lab-monitors",
    category: Category::Lab,
    level: Level::Warning,
    before_up: false,
    title: "a PodMonitor looks at servers and at agents",
    why: "The monitors of chart 0.13.0 name a field that does not exist, and look only at their own namespace: SPIRE's gauges stay empty.",
    hint: "`coastal patch-monitors` makes the lab's own",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    if evidence.lab.monitoring.is_none() {
        return skipped("monitoring is switched off in this lab");
    }
    let monitors = evidence.monitors.as_ref()?;
    let blind = blind(&evidence.lab.spire, monitors);
    let message = blind.join(", ");
    none_of(blind, message, "both are seen")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::checks::testing::{Expect, cases};

    fn monitors(evidence: &mut Evidence, selector: &Value) {
        let of = |what: &str| {
            let labels = json!({"matchLabels": {"app.kubernetes.io/name": what}});
            ("default".to_owned(), json!({"namespaceSelector": selector, "selector": labels}))
        };
        evidence.monitors = Ok(vec![of("server"), of("agent")]);
    }

    #[test]
    fn judged() {
        cases(
            &CHECK,
            &[
                // As chart 0.13.0 leaves them, once the API server has dropped the field that it does not know.
                (&|e| monitors(e, &json!({})), Expect::Fails("no PodMonitor sees the servers in spire-server")),
                (
                    &|e| monitors(e, &json!({"matchNames": ["spire-server"]})),
                    Expect::Fails("the agents in spire-system"),
                ),
                (&|e| monitors(e, &json!({"any": true})), Expect::Passes),
                (&|e| e.lab.monitoring = None, Expect::Skips),
                (&|e| e.monitors = Err("forbidden".into()), Expect::Unknown("forbidden")),
            ],
        );
    }
}
