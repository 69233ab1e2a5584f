//! What runs is what lab.toml names.

use crate::checks::{Category, Check, Evidence, Known, Level, Verdict, none_of};

pub(super) const CHECK: Check = Check {
    id: "lab-version",
    category: Category::Lab,
    level: Level::Warning,
    before_up: false,
    title: "servers and agents run the versions of lab.toml",
    why: "`up` never moves a running SPIRE: with another version in lab.toml the next new server would not be like the others.",
    hint: "`coastal upgrade --to VERSION` moves SPIRE by legal hops, and then writes lab.toml",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    let (live, spire) = (evidence.live.as_ref()?, &evidence.lab.spire);
    let (servers, agents) = (live.server_versions(), live.agent_versions());
    if servers.is_empty() && agents.is_empty() {
        return Err("no SPIRE process tells its version".to_owned());
    }
    let mut culprits = Vec::new();
    for (what, found, wanted) in
        [("servers", &servers, &spire.server_version), ("agents", &agents, &spire.agent_version)]
    {
        let others = found.iter().filter(|version| *version != wanted);
        culprits.extend(others.map(|version| format!("{what} run {version}; lab.toml says {wanted}")));
    }
    let message = culprits.join(", ");
    none_of(culprits, message, format!("servers {}, agents {}", spire.server_version, spire.agent_version))
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
                    &|e| e.lab.spire.server_version = "1.8.0".parse().unwrap(),
                    Expect::Fails("servers run 1.7.2; lab.toml says 1.8.0"),
                ),
                (&|e| e.live = Ok(crate::steps::live::Live::default()), Expect::Unknown("no SPIRE process")),
                (&|e| e.live = Err("helm is silent".into()), Expect::Unknown("silent")),
            ],
        );
    }
}
