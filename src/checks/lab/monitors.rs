//! Prometheus is told where SPIRE is.

use serde_json::Value;

use crate::checks::{Category, Check, Evidence, Known, Level, Verdict, none_of, skipped};

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
    let spire = &evidence.lab.spire;
    let mut blind = Vec::new();
    for (what, namespace) in [("server", &spire.server_namespace), ("agent", &spire.system_namespace)] {
        let sees = |(home, spec): &(String, Value)| sees(home, spec, namespace) && selects(spec, what);
        if !monitors.iter().any(sees) {
            blind.push(format!("no PodMonitor sees the {what}s in {namespace}"));
        }
    }
    let message = blind.join(", ");
    none_of(blind, message, "both are seen")
}

fn sees(home: &str, spec: &Value, namespace: &str) -> bool {
    let selector = &spec["namespaceSelector"];
    let names = selector["matchNames"].as_array().map(Vec::as_slice).unwrap_or_default();
    selector["any"] == true || names.iter().any(|name| name == namespace) || (names.is_empty() && home == namespace)
}

fn selects(spec: &Value, what: &str) -> bool {
    let name = &spec["selector"]["matchLabels"]["app.kubernetes.io/name"];
    name.is_null() || name == what
}

#[cfg(test)]
mod tests {
    use serde_json::json;

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
