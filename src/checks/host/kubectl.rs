//! kubectl is there.

use crate::checks::{Category, Check, Level};
use crate::tools::Tool;

pub(super) const CHECK: Check = Check {
    id: "host-kubectl",
    category: Category::Host,
    level: Level::Error,
    before_up: true,
    title: "kubectl is installed, in a version that the lab accepts",
    why: "coastal asks SPIRE's processes through kubectl exec.",
    hint: "install a version in the range of `[tools] kubectl` of lab.toml",
    judge: |evidence| super::tool(evidence, Tool::Kubectl),
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
                    &|e| drop(e.tools.insert(Tool::Kubectl, Err(CommandError::NotFound { tool: Tool::Kubectl }))),
                    Expect::Fails("kubectl is not installed"),
                ),
                (
                    &|e| drop(e.tools.insert(Tool::Kubectl, Ok("1.12.10".parse().unwrap()))),
                    Expect::Fails("kubectl 1.12.10 is too old"),
                ),
                (
                    &|e| {
                        let stopped = CommandError::Interrupted { line: "kubectl version".into() };
                        e.tools.insert(Tool::Kubectl, Err(stopped));
                    },
                    Expect::Unknown("was interrupted"),
                ),
            ],
        );
    }
}
