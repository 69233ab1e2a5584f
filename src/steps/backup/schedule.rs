//! A CronJob that takes backups, with the account that may do what a backup does and nothing else.

use async_trait::async_trait;
use kube::ResourceExt;
use kube::core::DynamicObject;

use crate::assets;
use crate::config::{self, Inside, Lab, PullPolicy};
use crate::engine::{Body, StepContext};
use crate::error::Failure;
use crate::plan::{Finding, Schedule};
use crate::steps::addons::found_by;
use crate::steps::manifests::Objects;
use crate::steps::{images, reach};

/// Where the job finds its lab file and kubeconfig, as the manifest mounts them.
const LAB: &str = "/etc/coastal";
/// Where it writes its archives.
const ARCHIVES: &str = "/backups";
/// The context of the manifest's kubeconfig.
const CONTEXT: &str = "in-cluster";
const POD: &str = "/spec/jobTemplate/spec/template";

/// The objects, as they are printed and applied.
///
/// # Errors
/// The lab file cannot be read.
pub fn objects(lab: &Lab, schedule: &Schedule) -> Result<Vec<DynamicObject>, Failure> {
    let own = Schedule::namespace(lab);
    let kubeconfig = format!("{LAB}/kubeconfig");
    let inside = config::lab_inside(
        lab,
        &Inside {
            kubeconfig: &kubeconfig,
            context: CONTEXT,
            backups: ARCHIVES,
            recipients: &schedule.recipients,
            keep: schedule.keep,
        },
    )?;
    // The nodes of a kind cluster are given the lab's own image; no registry has it.
    let is_given = lab.is_kind() && schedule.image == lab.workload.image;
    let pull = if is_given { PullPolicy::IfNotPresent } else { lab.images.pull };
    let container = format!("{POD}/spec/containers/0");

    let mut objects = Objects::of(assets::BACKUP_SCHEDULE)?;
    objects.place(|kind, name| match (kind, name) {
        ("ClusterRole" | "ClusterRoleBinding", _) => None,
        (_, "coastal-backup-servers") => Some(&lab.spire.server_namespace),
        (_, "coastal-backup-agents") => Some(&lab.spire.system_namespace),
        _ => Some(own),
    });
    for binding in ["RoleBinding", "ClusterRoleBinding"] {
        objects.add(binding, "/subjects/0", "namespace", own)?;
    }
    objects.set("ConfigMap", "/data/lab.toml", inside)?;
    objects.set("CronJob", "/spec/schedule", schedule.cron.as_str())?;
    objects.set("CronJob", &format!("{container}/image"), schedule.image.as_str())?;
    objects.add("CronJob", &container, "imagePullPolicy", pull.as_kubernetes())?;
    if schedule.recipients.is_empty() {
        objects.append("CronJob", &format!("{container}/command"), "--plaintext")?;
    }
    Ok(objects.labelled(lab))
}

/// The objects as one YAML text.
///
/// # Errors
/// None that is known: objects can be written as YAML.
pub fn yaml(objects: &[DynamicObject]) -> Result<String, Failure> {
    let documents: Result<Vec<String>, _> = objects.iter().map(serde_yaml::to_string).collect();
    let documents = documents.map_err(|error| Failure::unexpected(format!("the objects are no YAML: {error}")))?;
    Ok(documents.join("---\n").trim_end().to_owned())
}

/// [`crate::plan::StepId::BackupSchedule`].
pub struct Apply;

fn schedule(cx: &StepContext) -> Result<&Schedule, Failure> {
    let schedule = cx.session.schedule.as_ref();
    schedule.ok_or_else(|| Failure::unexpected(format!("step `{}` outside a schedule", cx.step())))
}

#[async_trait]
impl Body for Apply {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        let (lab, schedule) = (&cx.session.lab, schedule(cx)?);
        if schedule.image == lab.workload.image {
            images::has_tools(cx)?;
        }
        let cluster = reach::cluster(cx).await?;
        // Somebody else's objects of these names are not written over.
        let objects = objects(lab, schedule)?;
        let ours = cluster.those_of(&objects, lab).await?;
        for object in &objects {
            let api = cluster.api_of(object).await?;
            let there = api.get_opt(&object.name_any()).await;
            let there = there.map_err(|error| crate::kube::api_failure("could not look at the schedule", &error))?;
            if there.is_some_and(|there| there.labels().get(Lab::LABEL) != Some(&lab.name)) {
                return Err(Failure::refused(format!(
                    "{} is there and is not this lab's; nothing was written",
                    crate::kube::name_of(object)
                ))
                .fact(format!("it does not carry {}={}", Lab::LABEL, lab.name))
                .next("two labs with a schedule in one cluster need two values of `release-namespace` in [spire]"));
            }
        }
        let found = found_by(cluster.difference(&objects).await?, || told(lab, schedule));
        Ok(match found {
            Finding::Missing(_) if ours.is_empty() => Finding::Missing("no schedule is there".into()),
            found => found,
        })
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        let objects = objects(&cx.session.lab, schedule(cx)?)?;
        reach::cluster(cx).await?.apply(&objects, &cx.patience()).await
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        match self.check(cx).await? {
            Finding::Satisfied(proof) => Ok(proof),
            other => Err(Failure::tool(format!("the schedule was applied, and yet {}", other.detail()))
                .next("run the same command again")),
        }
    }
}

fn told(lab: &Lab, schedule: &Schedule) -> String {
    let (name, namespace) = (Schedule::NAME, Schedule::namespace(lab));
    format!("CronJob {namespace}/{name} at `{}` (UTC), {} kept in claim {name}", schedule.cron, schedule.keep)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::embedded;

    fn schedule() -> Schedule {
        Schedule { cron: "0 */6 * * *".into(), image: "r/coastal:1".into(), recipients: vec!["age1x".into()], keep: 5 }
    }

    #[test]
    fn the_objects_are_as_they_were_looked_at() {
        insta::assert_snapshot!(yaml(&objects(&embedded().unwrap(), &schedule()).unwrap()).unwrap());
    }

    #[test]
    fn names_of_the_lab_reach_every_place() {
        let mut lab = embedded().unwrap();
        lab.name = "mine".into();
        lab.spire.release_namespace = "helm".into();
        lab.spire.server_namespace = "servers".into();
        lab.spire.system_namespace = "system".into();
        let objects = objects(&lab, &Schedule { recipients: Vec::new(), ..schedule() }).unwrap();
        for object in &objects {
            let kind = &object.types.as_ref().unwrap().kind;
            let place = match (kind.as_str(), object.name_any().as_str()) {
                ("ClusterRole" | "ClusterRoleBinding", _) => None,
                (_, "coastal-backup-servers") => Some("servers".to_owned()),
                (_, "coastal-backup-agents") => Some("system".to_owned()),
                _ => Some("helm".to_owned()),
            };
            assert_eq!(object.namespace(), place, "{kind}");
            assert_eq!(object.labels()[Lab::LABEL], "mine");
            if let Some(subjects) = object.data.get("subjects") {
                assert_eq!(subjects, &json!([{"kind": "ServiceAccount", "name": Schedule::NAME, "namespace": "helm"}]));
            }
        }
        let job = objects.last().unwrap();
        assert_eq!(
            job.data.pointer(&format!("{POD}/metadata/labels/coastal-containers.example~1lab")).unwrap(),
            "mine"
        );
        let command = job.data.pointer(&format!("{POD}/spec/containers/0/command")).unwrap();
        assert_eq!(command.as_array().unwrap().last().unwrap(), "--plaintext");
        // Nobody is made a recipient silently, and nothing is a secret.
        let text = yaml(&objects).unwrap();
        assert!(text.contains("recipients = []") && !text.contains("kind: Secret"), "{text}");
    }

    #[test]
    fn the_labs_own_image_is_not_pulled_where_the_nodes_were_given_it() {
        let mut lab = embedded().unwrap();
        lab.images.pull = PullPolicy::Always;
        let policy = |lab: &Lab, image: &str| {
            let objects = objects(lab, &Schedule { image: image.into(), ..schedule() }).unwrap();
            objects.last().unwrap().data.pointer(&format!("{POD}/spec/containers/0/imagePullPolicy")).unwrap().clone()
        };
        assert_eq!(policy(&lab, &lab.workload.image), "IfNotPresent");
        assert_eq!(policy(&lab, "r/coastal:1"), "Always");
    }
}
