//! kind is there.

use crate::checks::{Category, Check, Level};
use crate::tools::Tool;

pub(super) const CHECK: Check = Check {
    id: "host-kind",
    category: Category::Host,
    level: Level::Error,
    before_up: true,
    title: "kind is installed, in a version that the lab accepts",
    why: "kind makes the cluster and takes it away.",
    hint: "install a version in the range of `[tools] kind` of lab.toml",
    judge: |evidence| super::tool(evidence, Tool::Kind),
    mend: None,
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::tool_cases;

    #[test]
    fn judged() {
        tool_cases(&CHECK, Tool::Kind, "0.7.0");
    }
}
