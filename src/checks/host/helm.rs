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
    use crate::checks::testing::tool_cases;

    #[test]
    fn judged() {
        tool_cases(&CHECK, Tool::Helm, "2.17.0");
    }
}
