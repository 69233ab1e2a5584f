//! Every value reaches the chart.

use crate::checks::{Category, Check, Evidence, Known, Level, Verdict, none_of, skipped};

pub(super) const CHECK: Check = Check {
    id: "lab-value-keys",
    category: Category::Lab,
    level: Level::Warning,
    before_up: false,
    title: "the chart reads every value that the release was given",
    why: "helm ignores a key that no template asks for: from chart 0.17 on `image.version` is one, and another version runs than the values say.",
    hint: "correct or remove the keys in the values file of `[spire] values`; `helm show values` prints all that a chart knows",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    let Some(values) = evidence.values.as_ref()? else { return skipped("there is no release spire") };
    let unread = values.unread.as_ref().ok_or("the release's chart has no readable version")?.as_ref()?;
    let keys: Vec<String> = unread.iter().map(ToString::to_string).collect();
    let message =
        format!("the chart ignores {}", unread.iter().map(|key| key.path.as_str()).collect::<Vec<_>>().join(", "));
    none_of(keys, message, "all are read")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::ReleaseValues;
    use crate::checks::testing::{Expect, cases};
    use crate::spire::values::known::Unknown;

    #[test]
    fn judged() {
        let unread = |unread| Ok(Some(ReleaseValues { unread, passwords: Vec::new() }));
        let key = Unknown { path: "spire-server.image.version".into(), hint: Some("use `tag`".into()) };
        cases(
            &CHECK,
            &[
                (
                    &|e| e.values = unread(Some(Ok(vec![key.clone()]))),
                    Expect::Fails("the chart ignores spire-server.image.version"),
                ),
                (&|e| e.values = unread(Some(Err("no such chart".into()))), Expect::Unknown("no such chart")),
                (&|e| e.values = unread(None), Expect::Unknown("no readable version")),
                (&|e| e.values = Ok(None), Expect::Skips),
                (&|e| e.values = Err("helm is silent".into()), Expect::Unknown("silent")),
            ],
        );
    }
}
