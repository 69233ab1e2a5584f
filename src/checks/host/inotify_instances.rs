//! Limits of inotify: instances.

use crate::checks::{Category, Check, Level};

/// What kind asks for (its known issue "pod errors due to too many open files").
const LEAST: u64 = 512;

pub(super) const CHECK: Check = Check {
    id: "host-inotify-instances",
    category: Category::Host,
    level: Level::Warning,
    before_up: true,
    title: "the kernel allows at least 512 inotify instances a user",
    why: "The nodes share the host's limit. When it is reached kubelets and log followers fail with `too many open files`.",
    hint: "`sudo sysctl fs.inotify.max_user_instances=512`, and the same line in /etc/sysctl.d to keep it",
    judge: |evidence| super::inotify(evidence, evidence.host.inotify_instances, "max_user_instances", LEAST),
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
                (&|e| e.host.inotify_instances = Some(128), Expect::Fails("max_user_instances is 128")),
                (&|e| e.host.inotify_instances = None, Expect::Unknown("does not tell it")),
            ],
        );
    }
}
