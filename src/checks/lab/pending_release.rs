//! No helm was cut off.

use jiff::SignedDuration;

use crate::checks::{Category, Check, Evidence, Known, Level, Mend, Verdict, none_of};
use crate::tools::helm::Release;

pub(super) const CHECK: Check = Check {
    id: "lab-pending-release",
    category: Category::Lab,
    level: Level::Error,
    before_up: false,
    title: "no release is pending for longer than a helm runs",
    why: "A helm that was killed leaves its revision pending, and every later helm refuses with `another operation is in progress`.",
    hint: "the next `coastal up` removes the pending revision and goes on",
    judge,
    mend: Some(mend),
};

fn overdue(evidence: &Evidence) -> Known<Vec<&Release>> {
    let limit = SignedDuration::try_from(evidence.lab.timeouts.rollout).unwrap_or(SignedDuration::MAX);
    let releases = evidence.releases.as_ref()?.iter();
    let late = |release: &&Release| {
        release.status.is_pending()
            && release.updated.is_none_or(|updated| evidence.now.duration_since(updated) >= limit)
    };
    Ok(releases.filter(late).collect())
}

fn judge(evidence: &Evidence) -> Known<Verdict> {
    let late: Vec<String> = overdue(evidence)?
        .into_iter()
        .map(|release| {
            let since = release.updated.map(|at| format!(" since {at:.0}")).unwrap_or_default();
            format!("revision {} of {} is {}{since}", release.revision, release.name, release.status)
        })
        .collect();
    let message = late.join(", ");
    none_of(late, message, "none")
}

fn mend(evidence: &Evidence) -> Vec<Mend> {
    let secret = |release: &Release| format!("sh.helm.release.v1.{}.v{}", release.name, release.revision);
    let late = overdue(evidence).unwrap_or_default().into_iter();
    late.map(|release| Mend::DeletePendingRevision { namespace: release.namespace.clone(), secret: secret(release) })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{Expect, cases, mends};
    use crate::tools::helm::ReleaseStatus;

    fn pending(evidence: &mut Evidence, for_s: i64) {
        let release = &mut evidence.releases.as_mut().unwrap()[0];
        release.status = ReleaseStatus::PendingUpgrade;
        release.revision = 4;
        release.updated = evidence.now.checked_sub(SignedDuration::from_secs(for_s)).ok();
    }

    #[test]
    fn judged() {
        cases(
            &CHECK,
            &[
                (&|e| pending(e, 3600), Expect::Fails("revision 4 of spire is pending-upgrade since")),
                (&|e| pending(e, 10), Expect::Passes),
                (&|e| e.releases = Err("helm is not installed".into()), Expect::Unknown("helm is not installed")),
            ],
        );
        assert_eq!(
            mends(&CHECK, &|e| pending(e, 3600)),
            ["kubectl -n default delete secret sh.helm.release.v1.spire.v4"]
        );
        assert!(mends(&CHECK, &|e| pending(e, 10)).is_empty(), "a helm that may still run is left alone");
    }
}
