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
    use crate::checks::testing::{Expect, cases};
    use crate::tools::CommandError;

    #[test]
    fn judged() {
        cases(
            &CHECK,
            &[
                (
                    &|e| drop(e.tools.insert(Tool::Kind, Err(CommandError::NotFound { tool: Tool::Kind }))),
                    Expect::Fails("kind is not installed"),
                ),
                (
                    &|e| drop(e.tools.insert(Tool::Kind, Ok("0.7.0".parse().unwrap()))),
                    Expect::Fails("kind 0.7.0 is too old"),
                ),
                (
                    &|e| {
                        let stopped = CommandError::Interrupted { line: "kind version".into() };
                        e.tools.insert(Tool::Kind, Err(stopped));
                    },
                    Expect::Unknown("was interrupted"),
                ),
            ],
        );
    }
}
