//! Claims get volumes.

use kube::ResourceExt;

use crate::checks::{Category, Check, Evidence, Known, Level, Verdict, failed, passed};

const MARK: &str = "storageclass.kubernetes.io/is-default-class";

pub(super) const CHECK: Check = Check {
    id: "cluster-storage-class",
    category: Category::Cluster,
    level: Level::Error,
    before_up: false,
    title: "exactly one storage class is the default",
    why: "The claims of PostgreSQL and of the SPIRE servers name no class: without a default they get no volume.",
    hint: "mark one: `kubectl patch storageclass NAME -p '{\"metadata\":{\"annotations\":{\"storageclass.kubernetes.io/is-default-class\":\"true\"}}}'`",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    let classes = evidence.storage_classes.as_ref()?;
    let default = |class: &&k8s_openapi::api::storage::v1::StorageClass| {
        class.annotations().get(MARK).is_some_and(|mark| mark == "true")
    };
    let names: Vec<String> = classes.iter().filter(default).map(ResourceExt::name_any).collect();
    match names.as_slice() {
        [] => failed("no storage class is the default").verdict(),
        [one] => passed(one.clone()),
        several => failed(format!("several storage classes are the default: {}", several.join(", "))).verdict(),
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
                (&|e| e.storage_classes = Ok(Vec::new()), Expect::Fails("no storage class is the default")),
                (
                    &|e| {
                        let classes = e.storage_classes.as_mut().unwrap();
                        classes.push(classes[0].clone());
                    },
                    Expect::Fails("several"),
                ),
                (&|e| e.storage_classes = Err("forbidden".into()), Expect::Unknown("forbidden")),
            ],
        );
    }
}
