//! helm is there.

use crate::checks::{Category, Check, Level};
use crate::tools::Tool;

pub(super) const CHECK: Check = Check {
    id: "host-helm",
    category: Category::Host,
    level: Level::Error,
    before_up: true,
    title: "helm is installed, in a version that the lab accepts",
    why: "SPIRE and Prometheus are helm charts; an older helm renders them otherwise.",
    hint: "install a version in the range of `[tools] helm` of lab.toml",
    judge: |evidence| super::tool(evidence, Tool::Helm),
    mend: None,
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{Expect, cases};
    use crate::tools::CommandError;

    #[test]
    fn judged() {
        cases(
            &CHECK,
            &[
                (
                    &|e| drop(e.tools.insert(Tool::Helm, Err(CommandError::NotFound { tool: Tool::Helm }))),
                    Expect::Fails("helm is not installed"),
                ),
                (
                    &|e| drop(e.tools.insert(Tool::Helm, Ok("2.17.0".parse().unwrap()))),
                    Expect::Fails("helm 2.17.0 is too old"),
                ),
                (
                    &|e| {
                        let stopped = CommandError::Interrupted { line: "helm version".into() };
                        e.tools.insert(Tool::Helm, Err(stopped));
                    },
                    Expect::Unknown("was interrupted"),
                ),
            ],
        );
    }
}
