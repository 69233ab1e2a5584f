//! Processes run what their templates ask for.

use semver::Version;

use crate::checks::{Category, Check, Evidence, Known, Level, Verdict, none_of};

pub(super) const CHECK: Check = Check {
    id: "spire-processes",
    category: Category::Spire,
    level: Level::Warning,
    before_up: false,
    title: "every process runs the version that its template asks for",
    why: "A tag is a wish: a rollout that is stuck, or an image under a wrong tag, runs something else, and the next restart changes it.",
    hint: "`coastal status` shows what runs; a rollout that waits says why in `coastal check spire-server-stuck`",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    let live = evidence.live.as_ref()?;
    let parts = [(&live.servers, &live.server_template), (&live.agents, &live.agent_template)];
    let mut culprits = Vec::new();
    for (pods, template) in parts {
        let Some(template) = template else { return Err("a template's image has no version for a tag".to_owned()) };
        let other = |version: &&Version| *version != template;
        let others = pods.iter().filter_map(|(pod, version)| Some((pod, version.as_ref().filter(other)?)));
        culprits.extend(others.map(|(pod, version)| format!("{pod} runs {version}; its template asks for {template}")));
    }
    let message = culprits.join(", ");
    none_of(culprits, message, "they do")
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
                    &|e| e.live.as_mut().unwrap().server_template = Some("1.8.0".parse().unwrap()),
                    Expect::Fails("spire-server-0 runs 1.7.2; its template asks for 1.8.0"),
                ),
                (&|e| e.live.as_mut().unwrap().agent_template = None, Expect::Unknown("no version for a tag")),
                (&|e| e.live = Err("helm is silent".into()), Expect::Unknown("silent")),
            ],
        );
    }
}
