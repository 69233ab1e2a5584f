//! The files on a server's claim. The server's image holds no shell and no tar, so a short-lived pod on the same claim
//! hands them out and takes them in (facts, section 9): the claim is `ReadWriteOnce`, which lets a second pod of the same
//! node have it.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use kube::api::PostParams;
use kube::core::DynamicObject;
use serde_json::{Value, json};

use crate::config::Lab;
use crate::engine::StepContext;
use crate::error::Failure;
use crate::kube::{Cluster, Judgement, api_failure, describe_pod, doom_of, label};
use crate::spire::names;
use crate::steps::{live, reach};
use crate::tools::{CommandError, kubectl};

/// The `app` label of these pods.
const APP: &str = "coastal.keys";
const CONTAINER: &str = "keys";
/// Where the claim is in the pod.
const MOUNT: &str = "/claim";
/// After so many seconds the kubelet ends one whose run was killed.
const LIFETIME: u32 = 600;
/// All of a file or nothing, readable by the server only.
const PUT: &str = r#"umask 077; cat > "$1.new" && mv -f "$1.new" "$1""#;

/// A pod on a server's claim.
pub struct Vault {
    server: String,
    pod: String,
}

impl Vault {
    fn of(server: &str) -> Self {
        Vault { server: server.to_owned(), pod: format!("coastal-keys-{server}") }
    }

    /// Starts one on the claim of `server`, and waits until it runs. `None` if there is no such claim.
    ///
    /// # Errors
    /// It cannot be started; says why.
    pub async fn open(cx: &StepContext, cluster: &Cluster, server: &str) -> Result<Option<Self>, Failure> {
        let lab = &cx.session.lab;
        let namespace = &lab.spire.server_namespace;
        let claim = names::server_claim(server);
        if cluster.get::<PersistentVolumeClaim>(namespace, &claim).await?.is_none() {
            return Ok(None);
        }
        // Where a server runs, the claim is; else the scheduler knows.
        let pods = live::pods(cluster, namespace, names::SERVER_SELECTOR).await?;
        let node =
            pods.iter().find(|pod| pod.name_any() == server).and_then(|pod| pod.spec.as_ref()?.node_name.clone());
        let set = cluster.get::<StatefulSet>(namespace, &names::server(&lab.spire)).await?;
        let vault = Vault::of(server);
        // One that a killed run has left may have ended by now.
        vault.close(cx, cluster).await?;
        let pod: Pod = serde_json::from_value(manifest(lab, &vault.pod, &claim, node.as_deref(), set.as_ref()))
            .map_err(|error| Failure::unexpected(format!("the pod on the claim is none: {error}")))?;
        let api = cluster.namespaced::<Pod>(namespace);
        let created = api.create(&PostParams::default(), &pod).await;
        created.map_err(|error| api_failure(&format!("could not start a pod on the claim {claim}"), &error))?;
        let patience = cx.patience();
        let running = cluster.wait_one(api, &vault.pod, &patience, |pod| match pod {
            None => Judgement::Hopeless(Failure::tool(format!("somebody has deleted the pod on the claim {claim}"))),
            Some(pod) => match doom_of(pod) {
                Some(doom) => Judgement::Hopeless(doom.failure(None)),
                None if runs(pod) => Judgement::Good(()),
                None => Judgement::Waiting(describe_pod(pod)),
            },
        });
        match running.await {
            Ok(()) => Ok(Some(vault)),
            Err(failure) => {
                // What cannot start is of no use to the next run either.
                let _ = vault.close(cx, cluster).await;
                Err(failure.context(format!("the keys of {server} cannot be reached")))
            }
        }
    }

    /// Whose it is.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Reads a file; `None` if there is none.
    ///
    /// # Errors
    /// The pod does not answer.
    pub async fn get(&self, cx: &StepContext, file: &str) -> Result<Option<String>, Failure> {
        let namespace = &cx.session.lab.spire.server_namespace;
        let argv = ["cat".to_owned(), format!("{MOUNT}/{file}")];
        let command = kubectl::exec(&reach::target(cx), namespace, &self.pod, CONTAINER, argv).secret_output();
        match cx.run(&command).await {
            Ok(output) => Ok(Some(output.stdout)),
            Err(CommandError::Exit { output, .. }) if output.stderr.contains("No such file") => Ok(None),
            Err(error) => Err(Failure::from(error).context(format!("could not read {file} of {}", self.server))),
        }
    }

    /// Puts a file there, whole or not at all, and reads it back.
    ///
    /// # Errors
    /// It is not there as it should be.
    pub async fn put(&self, cx: &StepContext, file: &str, bytes: &[u8]) -> Result<(), Failure> {
        let namespace = &cx.session.lab.spire.server_namespace;
        let path = format!("{MOUNT}/{file}");
        let argv = ["sh", "-c", PUT, "sh", &path];
        let command =
            kubectl::exec_with_input(&reach::target(cx), namespace, &self.pod, CONTAINER, argv, bytes.to_vec());
        cx.run(&command.secret_output())
            .await
            .map_err(|error| Failure::from(error).context(format!("could not write {file} of {}", self.server)))?;
        let back = self.get(cx, file).await?;
        if back.as_deref().map(str::trim_end) == Some(String::from_utf8_lossy(bytes).trim_end()) {
            Ok(())
        } else {
            Err(Failure::tool(format!("{file} of {} is not what was written there", self.server))
                .next("run the same command again"))
        }
    }

    /// Takes a file away; none is fine.
    ///
    /// # Errors
    /// The pod does not answer.
    pub async fn remove(&self, cx: &StepContext, file: &str) -> Result<(), Failure> {
        let namespace = &cx.session.lab.spire.server_namespace;
        let argv = ["rm".to_owned(), "-f".to_owned(), format!("{MOUNT}/{file}")];
        cx.run(&kubectl::exec(&reach::target(cx), namespace, &self.pod, CONTAINER, argv)).await?;
        Ok(())
    }

    /// Takes the pod away, and waits for it: a claim stays in use until then.
    ///
    /// # Errors
    /// It does not go.
    pub async fn close(&self, cx: &StepContext, cluster: &Cluster) -> Result<(), Failure> {
        let namespace = &cx.session.lab.spire.server_namespace;
        let api = cluster.namespaced::<Pod>(namespace);
        cluster.delete_named(api, &self.pod, &format!("pod {namespace}/{}", self.pod), &cx.patience()).await
    }
}

/// Takes away the pod on the claim of `server` that a run has left, if it can.
pub async fn close_left(cx: &StepContext, cluster: &Cluster, server: &str) {
    let vault = Vault::of(server);
    if let Err(failure) = vault.close(cx, cluster).await {
        cx.progress(format!("pod {} is left: {}", vault.pod, failure.message));
    }
}

/// Makes the claim of a server that has none yet: the StatefulSet takes the claims that it finds by name.
///
/// # Errors
/// The cluster does not take it.
pub async fn make_claim(cx: &StepContext, cluster: &Cluster, server: &str) -> Result<(), Failure> {
    let lab = &cx.session.lab;
    let (namespace, name) = (&lab.spire.server_namespace, names::server_claim(server));
    if cluster.get::<PersistentVolumeClaim>(namespace, &name).await?.is_some() {
        return Ok(());
    }
    let set = cluster.get::<StatefulSet>(namespace, &names::server(&lab.spire)).await?;
    let templates = set.and_then(|set| set.spec.volume_claim_templates).unwrap_or_default();
    let template = templates.into_iter().find(|template| template.name_any() == "spire-data");
    let spec = match template.and_then(|template| template.spec) {
        Some(spec) => serde_json::to_value(spec).map_err(|error| Failure::unexpected(error.to_string()))?,
        // As the chart has it.
        None => json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}),
    };
    let claim = json!({
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": name,
            "namespace": namespace,
            // As the StatefulSet would label it: removal finds it by these.
            "labels": {"app.kubernetes.io/name": "server", "app.kubernetes.io/instance": lab.spire.release},
        },
        "spec": spec,
    });
    let mut claim: DynamicObject =
        serde_json::from_value(claim).map_err(|error| Failure::unexpected(error.to_string()))?;
    label(&mut claim, lab);
    cluster.apply(&[claim], &cx.patience()).await
}

fn runs(pod: &Pod) -> bool {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    statuses.into_iter().any(|status| status.state.as_ref().is_some_and(|state| state.running.is_some()))
}

/// It runs as the server does, so that the files stay the server's, and bears the Pod Security level `restricted`. Its
/// image is one that is on the nodes anyway.
fn manifest(lab: &Lab, name: &str, claim: &str, node: Option<&str>, set: Option<&StatefulSet>) -> Value {
    let template = set.and_then(|set| set.spec.template.spec.as_ref()?.security_context.clone());
    let user = template.as_ref().and_then(|context| context.run_as_user).filter(|user| *user != 0).unwrap_or(1000);
    let group = template.as_ref().and_then(|context| context.run_as_group).unwrap_or(user);
    let fs_group = template.as_ref().and_then(|context| context.fs_group).unwrap_or(group);
    let mut spec = json!({
        "automountServiceAccountToken": false,
        "activeDeadlineSeconds": LIFETIME,
        // `sleep` as the first process does not hear a SIGTERM.
        "terminationGracePeriodSeconds": 0,
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": user, "runAsGroup": group, "fsGroup": fs_group,
            "fsGroupChangePolicy": "OnRootMismatch", "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [{
            "name": CONTAINER,
            "image": lab.database.image,
            "imagePullPolicy": "IfNotPresent",
            "command": ["sleep", LIFETIME.to_string()],
            "resources": {"requests": {"cpu": "1m", "memory": "8Mi"}, "limits": {"memory": "64Mi"}},
            "securityContext": {
                "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": [{"name": "claim", "mountPath": MOUNT}],
        }],
        "volumes": [{"name": "claim", "persistentVolumeClaim": {"claimName": claim}}],
    });
    if let Some(node) = node {
        spec["nodeName"] = json!(node);
    }
    json!({
        "metadata": {
            "name": name,
            "namespace": lab.spire.server_namespace,
            "labels": {"app": APP, (Lab::LABEL): lab.name},
        },
        "spec": spec,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::embedded;

    #[test]
    fn the_pod_is_restricted_and_runs_as_the_server_does() {
        let lab = embedded().unwrap();
        let plain = manifest(&lab, "p", "c", None, None);
        assert!(plain["spec"].get("nodeName").is_none());
        assert_eq!(plain["spec"]["securityContext"]["runAsUser"], 1000);
        let set = json!({
            "spec": {"selector": {}, "serviceName": "s", "template": {"spec": {
                "containers": [], "securityContext": {"runAsUser": 70, "fsGroup": 71},
            }}},
        });
        let set: StatefulSet = serde_json::from_value(set).unwrap();
        let pod = manifest(&lab, "p", "spire-data-spire-server-0", Some("worker"), Some(&set));
        let context = &pod["spec"]["securityContext"];
        assert_eq!(
            (&context["runAsUser"], &context["runAsGroup"], &context["fsGroup"]),
            (&70.into(), &70.into(), &71.into())
        );
        assert_eq!(pod["spec"]["nodeName"], "worker");
        assert_eq!(pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"], "spire-data-spire-server-0");
        let container = &pod["spec"]["containers"][0]["securityContext"];
        assert_eq!(container["allowPrivilegeEscalation"], false);
        assert_eq!(container["capabilities"]["drop"], json!(["ALL"]));
        // Root's files would be no use to the server, and `restricted` does not let it in.
        let root = json!({"spec": {"selector": {}, "serviceName": "s", "template": {"spec": {"containers": [], "securityContext": {"runAsUser": 0}}}}});
        let root: StatefulSet = serde_json::from_value(root).unwrap();
        assert_eq!(manifest(&lab, "p", "c", None, Some(&root))["spec"]["securityContext"]["runAsUser"], 1000);
    }
}
