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
    use crate::checks::testing::tool_cases;

    #[test]
    fn judged() {
        tool_cases(&CHECK, Tool::Kubectl, "1.12.10");
    }
}
