//! Agents renew SVIDs in time.

use crate::checks::{Category, Check, Evidence, Known, Level, Verdict, count, none_of, skipped};

pub(super) const CHECK: Check = Check {
    id: "spire-svids-renewed",
    category: Category::Spire,
    level: Level::Warning,
    before_up: false,
    title: "no workload's SVID is in the last quarter of its life",
    why: "Agents renew at half of it. One that is older was not renewed: servers or agents have been out of reach, and the clock runs.",
    hint: "`coastal logs agent` says why it cannot renew; `coastal check spire` what else is wrong",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    let svids = evidence.svids.as_ref()?;
    let updates: Vec<_> = svids.iter().filter_map(|svid| Some((&svid.pod, svid.update.as_ref()?))).collect();
    if updates.is_empty() {
        return skipped("no workload pod holds an SVID");
    }
    let mut late = Vec::new();
    for (pod, update) in &updates {
        let life = update.not_after.duration_since(update.not_before);
        let left = update.not_after.duration_since(evidence.now);
        if update.is_overdue_at(evidence.now) {
            late.push(format!("{pod}: {} s left of {} s", left.as_secs().max(0), life.as_secs()));
        }
    }
    let message = format!("{} not renewed in time", count(late.len(), "SVID"));
    let first = updates.iter().map(|(_, update)| update.not_after).min();
    let first = first.map(|at| format!("the first expires {at:.0}")).unwrap_or_default();
    none_of(late, message, first)
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::checks::testing::{Expect, cases};

    #[test]
    fn judged() {
        let late: &dyn Fn(&mut Evidence) = &|e| e.now = e.now.checked_add(SignedDuration::from_mins(50)).unwrap();
        cases(
            &CHECK,
            &[
                (late, Expect::Fails("5 SVIDs not renewed in time")),
                (&|e| e.svids = Ok(Vec::new()), Expect::Skips),
                (&|e| e.svids = Err("forbidden".into()), Expect::Unknown("forbidden")),
            ],
        );
    }
}
