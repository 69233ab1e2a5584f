//! The controller manager looks at every ClusterSPIFFEID.

use crate::checks::{Category, Check, Evidence, Known, Level, Verdict, none_of, skipped};

pub(super) const CHECK: Check = Check {
    id: "spire-class-names",
    category: Category::Spire,
    level: Level::Warning,
    before_up: false,
    title: "no ClusterSPIFFEID is ignored for its class",
    why: "From chart 0.15 on a controller manager has a class and ignores what names another, or none unless `watchClassless` is set: the entries of such an identity are deleted.",
    hint: "set `className`, or `spire-server.controllerManager.watchClassless`; the lab's own values set the latter",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    let conf = evidence.manager_conf.as_ref()?;
    let Some(class) = conf["className"].as_str().filter(|class| !class.is_empty()) else {
        return skipped("this controller manager has no class: it looks at all");
    };
    let classless = conf["watchClassless"] == true;
    let identities = evidence.spiffe_ids.as_ref()?;
    let mut ignored = Vec::new();
    for identity in identities {
        let name = identity["metadata"]["name"].as_str().unwrap_or_default();
        match identity["spec"]["className"].as_str().unwrap_or_default() {
            "" if classless => {}
            "" => ignored.push(format!("{name} names no class")),
            other if other == class => {}
            other => ignored.push(format!("{name} is of class {other}, not {class}")),
        }
    }
    let message = format!("ignored: {}", ignored.join(", "));
    none_of(ignored, message, format!("class {class}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::checks::testing::{Expect, cases};

    #[test]
    fn judged() {
        cases(
            &CHECK,
            &[
                (
                    &|e| e.manager_conf = Ok(json!({"className": "default-spire", "watchClassless": false})),
                    Expect::Fails("names no class"),
                ),
                (
                    &|e| e.manager_conf = Ok(json!({"className": "default-spire", "watchClassless": true})),
                    Expect::Passes,
                ),
                (
                    &|e| {
                        e.manager_conf = Ok(json!({"className": "default-spire", "watchClassless": true}));
                        e.spiffe_ids.as_mut().unwrap()[0]["spec"]["className"] = json!("x");
                    },
                    Expect::Fails("is of class x, not default-spire"),
                ),
                (&|e| e.manager_conf = Err("no such ConfigMap".into()), Expect::Unknown("no such ConfigMap")),
            ],
        );
    }
}
