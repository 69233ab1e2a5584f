//! Room on the disk.

use super::gib;
use crate::checks::{Category, Check, Evidence, Known, Level, There, Verdict, failed, passed};

/// The lab's images are 2.8 GB, and each of two nodes unpacks them (facts, section 9).
const BEFORE: u64 = 10 << 30;
/// The kubelet evicts pods when less than a tenth of the disk is left; a few GiB are a good early sign.
const AFTER: u64 = 2 << 30;

pub(super) const CHECK: Check = Check {
    id: "host-disk",
    category: Category::Host,
    level: Level::Error,
    before_up: true,
    title: "the disk has room: 10 GiB before the lab is up, 2 GiB after",
    why: "Images and PostgreSQL's files lie on it. When it is full, pods are evicted and the database stops.",
    hint: "free some space: `docker system df` shows what Docker holds, `docker image prune` what can go",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    let left = evidence.host.disk_free.ok_or("this operating system does not tell how much room is left")?;
    let needed = if evidence.there == Ok(There::Running) || !evidence.lab.is_kind() { AFTER } else { BEFORE };
    if left < needed {
        failed(format!("{} are left on the disk of the lab's files; {} are needed", gib(left), gib(needed))).verdict()
    } else {
        passed(format!("{} left", gib(left)))
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
                (&|e| e.host.disk_free = Some(1 << 30), Expect::Fails("1.0 GiB are left")),
                (
                    &|e| {
                        e.host.disk_free = Some(3 << 30);
                        e.there = Ok(There::Absent);
                    },
                    Expect::Fails("10.0 GiB are needed"),
                ),
                (&|e| e.host.disk_free = None, Expect::Unknown("does not tell")),
            ],
        );
    }
}
