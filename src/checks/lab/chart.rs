//! The chart that is installed is that of lab.toml.

use crate::checks::{Category, Check, Evidence, Known, Level, Verdict, failed, passed, skipped};
use crate::config::ChartRef;

pub(super) const CHECK: Check = Check {
    id: "lab-chart",
    category: Category::Lab,
    level: Level::Warning,
    before_up: false,
    title: "the release is of the chart that lab.toml names",
    why: "Charts differ in the names of values, in ports and in selectors: going from one to another is a hop of its own.",
    hint: "`coastal upgrade --plan` shows the way between them; never a bare `helm upgrade`",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    let ChartRef::Repo { version, .. } = &evidence.lab.spire.chart else {
        return skipped("lab.toml names a chart by its path");
    };
    let installed = evidence.live.as_ref()?.chart.as_ref().ok_or("there is no release of the chart")?;
    if installed == version {
        passed(format!("spire {version}"))
    } else {
        failed(format!("chart spire {installed} is installed; lab.toml says {version}")).verdict()
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
                (
                    &|e| e.live.as_mut().unwrap().chart = Some("0.14.0".parse().unwrap()),
                    Expect::Fails("chart spire 0.14.0 is installed; lab.toml says 0.13.0"),
                ),
                (&|e| e.live.as_mut().unwrap().chart = None, Expect::Unknown("no release")),
                (&|e| e.lab.spire.chart = ChartRef::Path("/charts/spire".into()), Expect::Skips),
            ],
        );
    }
}
