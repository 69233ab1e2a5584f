//! The CSI driver is there.

use kube::ResourceExt;

use crate::checks::{Category, Check, Evidence, Known, Level, Verdict, failed, passed};
use crate::spire::names;

pub(super) const CHECK: Check = Check {
    id: "spire-csi-driver",
    category: Category::Spire,
    level: Level::Error,
    before_up: false,
    title: "the SPIFFE CSI driver is registered and ready on every node that should have it",
    why: "It mounts the Workload API into pods: without it new ones do not start, and old ones cannot go.",
    hint: "`coastal spire-install` mends it",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    let drivers = evidence.csi_drivers.as_ref()?;
    if !drivers.iter().any(|driver| driver.name_any() == names::CSI_DRIVER) {
        return failed(format!("CSI driver {} is not registered", names::CSI_DRIVER)).verdict();
    }
    let name = names::csi_driver(&evidence.lab.spire);
    let sets = evidence.daemon_sets.as_ref()?;
    let Some(set) = sets.iter().find(|set| set.name_any() == name) else {
        return failed(format!("there is no DaemonSet {name}")).verdict();
    };
    let (ready, wanted) =
        set.status.as_ref().map_or((0, 0), |status| (status.number_ready, status.desired_number_scheduled));
    if wanted == 0 || ready < wanted {
        failed(format!("{name}: {ready} of {wanted} pods ready")).verdict()
    } else {
        passed(format!("{name} {ready} of {wanted}"))
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
                (&|e| e.csi_drivers = Ok(Vec::new()), Expect::Fails("csi.spiffe.io is not registered")),
                (&|e| e.daemon_sets = Ok(Vec::new()), Expect::Fails("no DaemonSet spire-spiffe-csi-driver")),
                (
                    &|e| e.daemon_sets.as_mut().unwrap()[1].status.as_mut().unwrap().number_ready = 0,
                    Expect::Fails("0 of 1 pods ready"),
                ),
                (&|e| e.csi_drivers = Err("forbidden".into()), Expect::Unknown("forbidden")),
            ],
        );
    }
}
