//! The lab's own files are its user's only.

use crate::checks::{Category, Check, Evidence, Known, Level, Mend, Verdict, none_of, skipped};

pub(super) const CHECK: Check = Check {
    id: "host-files",
    category: Category::Host,
    level: Level::Error,
    before_up: true,
    title: "nobody else can read the lab's kubeconfig and state directory",
    why: "The kubeconfig makes whoever reads it the cluster's administrator, and so the master of every identity.",
    hint: "take the permissions away: `chmod -R go-rwx` on the state directory",
    judge,
    mend: Some(mend),
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    let modes = &evidence.files.modes;
    if modes.is_empty() {
        return skipped("there are no such files yet");
    }
    let open = modes.iter().filter(|(_, mode, most)| mode & !most != 0);
    let open = open.map(|(path, mode, most)| format!("{} has mode {mode:o}, not {most:o}", path.display()));
    none_of(open.collect(), "others can read the lab's files", "only their user can read them")
}

fn mend(evidence: &Evidence) -> Vec<Mend> {
    let open = evidence.files.modes.iter().filter(|(_, mode, most)| mode & !most != 0);
    open.map(|(path, mode, most)| Mend::SetMode { path: path.clone(), mode: mode & most }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{Expect, cases, mends};

    #[test]
    fn judged() {
        let open: &dyn Fn(&mut Evidence) = &|e| e.files.modes = vec![("/state/kubeconfig".into(), 0o644, 0o600)];
        cases(&CHECK, &[(open, Expect::Fails("others can read")), (&|e| e.files.modes.clear(), Expect::Skips)]);
        assert_eq!(mends(&CHECK, open), ["chmod 600 /state/kubeconfig"]);
    }
}
