//! Docker answers.

use crate::checks::{Category, Check, Level};
use crate::tools::Tool;

pub(super) const CHECK: Check = Check {
    id: "host-docker",
    category: Category::Host,
    level: Level::Error,
    before_up: true,
    title: "the Docker daemon answers, in a version that the lab accepts",
    why: "kind's nodes are containers: without Docker there is no cluster.",
    hint: "start Docker, or install a version in the range of `[tools] docker` of lab.toml",
    judge: |evidence| super::tool(evidence, Tool::Docker),
    mend: None,
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{Expect, cases};
    use crate::tools::{CommandError, Output};

    #[test]
    fn judged() {
        let down = CommandError::Exit {
            line: "docker version".into(),
            code: 1,
            output: Output { stdout: String::new(), stderr: "Cannot connect to the Docker daemon".into() },
        };
        cases(
            &CHECK,
            &[
                (&|e| drop(e.tools.insert(Tool::Docker, Err(down.clone()))), Expect::Fails("does not answer")),
                (
                    &|e| drop(e.tools.insert(Tool::Docker, Ok("17.3.2".parse().unwrap()))),
                    Expect::Fails("docker 17.3.2 is too old"),
                ),
                (&|e| drop(e.tools.remove(&Tool::Docker)), Expect::Unknown("was not asked")),
            ],
        );
    }
}
