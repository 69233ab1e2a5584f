//! Limits of inotify: watches.

use crate::checks::{Category, Check, Level};

/// What kind asks for (its known issue "pod errors due to too many open files").
const LEAST: u64 = 524_288;

pub(super) const CHECK: Check = Check {
    id: "host-inotify-watches",
    category: Category::Host,
    level: Level::Warning,
    before_up: true,
    title: "the kernel allows at least 524288 inotify watches a user",
    why: "The nodes share the host's limit. When it is reached kubelets and log followers fail with `too many open files`.",
    hint: "`sudo sysctl fs.inotify.max_user_watches=524288`, and the same line in /etc/sysctl.d to keep it",
    judge: |evidence| super::inotify(evidence, evidence.host.inotify_watches, "max_user_watches", LEAST),
    mend: None,
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{Expect, cases};

    #[test]
    fn judged() {
        cases(
            &CHECK,
            &[
                (&|e| e.host.inotify_watches = Some(65_536), Expect::Fails("max_user_watches is 65536")),
                (&|e| e.host.inotify_watches = None, Expect::Unknown("does not tell it")),
            ],
        );
    }
}
