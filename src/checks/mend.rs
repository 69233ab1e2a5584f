//! What `check --fix` may do: little, safe, shown first, and never twice.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;

use crate::config::Lab;
use crate::engine::StepContext;
use crate::error::{Failure, io_failure};
use crate::kube::api_failure;
use crate::steps::reach;

/// A repair.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mend {
    /// A pod that its controller makes anew.
    DeletePod {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// The record of a revision that a helm which was cut off left pending.
    DeletePendingRevision {
        /// The release's namespace.
        namespace: String,
        /// The Secret.
        secret: String,
    },
    /// A file that others can read.
    SetMode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A webhook that a hook of the chart left open.
    CloseWebhook {
        /// The configuration.
        configuration: String,
        /// How many webhooks it has.
        webhooks: usize,
    },
}

impl fmt::Display for Mend {
    /// As a person would type it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mend::DeletePod { namespace, name } => write!(f, "kubectl -n {namespace} delete pod {name}"),
            Mend::DeletePendingRevision { namespace, secret } => {
                write!(f, "kubectl -n {namespace} delete secret {secret}")
            }
            Mend::SetMode { path, mode } => write!(f, "chmod {mode:o} {}", path.display()),
            Mend::CloseWebhook { configuration, webhooks } => {
                let patches: Vec<String> = (0..*webhooks)
                    .map(|at| format!(r#"{{"op":"replace","path":"/webhooks/{at}/failurePolicy","value":"Fail"}}"#))
                    .collect();
                write!(
                    f,
                    "kubectl patch validatingwebhookconfiguration {configuration} --type=json -p '[{}]'",
                    patches.join(",")
                )
            }
        }
    }
}

impl Mend {
    /// Carries it out.
    ///
    /// # Errors
    /// The cluster or the file system refuses.
    pub async fn carry_out(&self, cx: &StepContext) -> Result<(), Failure> {
        match self {
            Mend::DeletePod { namespace, name } => {
                let cluster = reach::cluster(cx).await?;
                match cluster.namespaced::<Pod>(namespace).delete(name, &DeleteParams::default()).await {
                    Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
                    Err(error) => Err(api_failure(&format!("could not delete pod {namespace}/{name}"), &error)),
                    Ok(_) => Ok(()),
                }
            }
            Mend::DeletePendingRevision { namespace, secret } => {
                let cluster = reach::cluster(cx).await?;
                let what = format!("Secret {namespace}/{secret}");
                cluster.delete_named::<Secret>(cluster.namespaced(namespace), secret, &what, &cx.patience()).await
            }
            Mend::SetMode { path, mode } => std::fs::set_permissions(path, std::fs::Permissions::from_mode(*mode))
                .map_err(|error| io_failure("change the permissions of", path, &error)),
            Mend::CloseWebhook { configuration, .. } => {
                let cluster = reach::cluster(cx).await?;
                let api = cluster.all::<ValidatingWebhookConfiguration>();
                let what = format!("could not close the webhooks of ValidatingWebhookConfiguration {configuration}");
                let failed = |error: kube::Error| api_failure(&what, &error);
                let Some(mut found) = api.get_opt(configuration).await.map_err(failed)? else { return Ok(()) };
                for webhook in found.webhooks.iter_mut().flatten() {
                    webhook.failure_policy = Some("Fail".to_owned());
                }
                // With the version that was read: whoever changes it in between is not overwritten.
                let patch = json!({"metadata": {"resourceVersion": found.metadata.resource_version}, "webhooks": found.webhooks});
                let parameters =
                    PatchParams { field_manager: Some(Lab::FIELD_MANAGER.into()), ..PatchParams::default() };
                api.patch(configuration, &parameters, &Patch::Merge(&patch)).await.map(drop).map_err(failed)
            }
        }
    }
}
