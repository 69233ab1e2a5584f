//! The chart writes what these servers and agents understand.

use crate::checks::{Category, Check, Evidence, Known, Level, Verdict, none_of};
use crate::spire::charts::{self, Component};
use crate::spire::releases;

pub(super) const CHECK: Check = Check {
    id: "spire-chart-fits",
    category: Category::Spire,
    level: Level::Error,
    before_up: false,
    title: "SPIRE understands everything that its chart writes into its configuration",
    why: "A server or agent refuses a setting that it does not know, at its next start: chart 0.27 writes one that agents before 1.13 do not.",
    hint: "`coastal upgrade --plan` shows the order: on the way up images first, on the way down the chart",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    let live = evidence.live.as_ref()?;
    let version = live.chart.as_ref().ok_or("there is no release of the chart")?;
    let chart = charts::find(version).ok_or_else(|| format!("chart spire {version} is not in the table"))?;
    let parts =
        [("servers", Component::Server, live.server_versions()), ("agents", Component::Agent, live.agent_versions())];
    let mut culprits = Vec::new();
    for (what, component, versions) in parts {
        for release in versions.iter().filter_map(releases::find) {
            if chart.refuses(component, release).is_some() {
                culprits.push(format!("{what} {} do not understand what chart {version} writes", release.version()));
            }
        }
    }
    let message = culprits.join(", ");
    none_of(culprits, message, format!("chart spire {version}"))
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
                    &|e| e.live.as_mut().unwrap().chart = Some("0.27.0".parse().unwrap()),
                    Expect::Fails("agents 1.7.2 do not understand what chart 0.27.0 writes"),
                ),
                (
                    &|e| e.live.as_mut().unwrap().chart = Some("9.9.9".parse().unwrap()),
                    Expect::Unknown("not in the table"),
                ),
                (&|e| e.live = Err("helm is silent".into()), Expect::Unknown("silent")),
            ],
        );
    }
}
