//! The proof that counts: every workload pod holds a valid SVID that chains to the servers' bundle.

use std::collections::BTreeSet;

use async_trait::async_trait;
use kube::ResourceExt;
use serde::de::DeserializeOwned;

use crate::engine::{Body, StepContext};
use crate::error::Failure;
use crate::kube::{by_kubectl, describe_pod};
use crate::plan::Finding;
use crate::spire::cli::{Bundle, Unreadable, X509Authority, read};
use crate::spire::names;
use crate::steps::{reach, workload};

/// [`crate::plan::StepId::IdentityTest`].
pub struct Test;

#[async_trait]
impl Body for Test {
    async fn check(&self, _cx: &StepContext) -> Result<Finding, Failure> {
        Ok(Finding::Missing("tests run each time".into()))
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        let cluster = reach::cluster(cx).await?;
        if workload::holders(cx, &cluster).await?.is_empty() {
            return Err(Failure::prerequisite("the workload's identity cannot be tested yet: it is not deployed")
                .fact("the chart's own tests do not need it")
                .next("`coastal build-load-image`, then `coastal deploy-workload`, then `coastal test` again"));
        }
        Ok(())
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        let cluster = reach::cluster(cx).await?;
        let holders = workload::holders(cx, &cluster).await?;
        let proof = workload::judge(&holders, cx).map_err(|missing| {
            Failure::check_failed(missing)
                .facts(holders.iter().map(|holder| describe_pod(&holder.pod)))
                .next("`coastal logs workload` shows what the pods say; `coastal status` what SPIRE does")
        })?;
        let authorities: BTreeSet<String> =
            bundle(cx).await?.x509_authorities.iter().filter_map(X509Authority::key_id).collect();
        for holder in &holders {
            let Some(update) = &holder.update else { continue };
            let pod = holder.pod.name_any();
            match &update.issuer_key_id {
                // The fallback program (`api watch`) does not print it.
                None => {}
                Some(issuer) if authorities.contains(issuer) => {}
                Some(issuer) => {
                    return Err(Failure::check_failed(format!(
                        "the SVID of {pod} was issued by an authority outside the bundle"
                    ))
                    .fact(format!("issuer key id {issuer}"))
                    .fact(format!("authorities: {}", authorities.iter().cloned().collect::<Vec<_>>().join(", ")))
                    .next(by_kubectl(&format!(
                        "-n {} exec {}-0 -c {} -- /opt/spire/bin/spire-server bundle show",
                        cx.session.lab.spire.server_namespace,
                        names::server(&cx.session.lab.spire),
                        names::SERVER_CONTAINER
                    ))));
                }
            }
        }
        Ok(format!("{proof}, each issued by one of {} authorities of the bundle", authorities.len()))
    }
}

/// The trust bundle as the first server has it.
///
/// # Errors
/// The server does not answer.
pub async fn bundle(cx: &StepContext) -> Result<Bundle, Failure> {
    server_json(cx, &["bundle", "show"]).await
}

/// What is said of an answer that cannot be used.
pub(super) fn unreadable(pod: &str, args: &[&str], error: &Unreadable) -> Failure {
    Failure::tool(format!("`spire-server {}` on {pod} {error}", args.join(" ")))
        .fact("the process ended well")
        .next("run the same command again; `coastal logs server` shows what the servers say")
}

/// Runs `spire-server ARGS -output json` on the first server and reads the answer.
///
/// # Errors
/// The server does not answer, or with something else.
pub async fn server_json<T: DeserializeOwned>(cx: &StepContext, args: &[&str]) -> Result<T, Failure> {
    let pod = format!("{}-0", names::server(&cx.session.lab.spire));
    server_json_of(cx, &pod, args).await
}

/// Runs `spire-server ARGS -output json` on the server in `pod` and reads the answer.
///
/// # Errors
/// The server does not answer, or with something else.
pub async fn server_json_of<T: DeserializeOwned>(cx: &StepContext, pod: &str, args: &[&str]) -> Result<T, Failure> {
    let spire = &cx.session.lab.spire;
    let mut words = vec!["/opt/spire/bin/spire-server"];
    words.extend(args);
    words.extend(["-output", "json"]);
    let output = reach::exec(cx, &spire.server_namespace, pod, names::SERVER_CONTAINER, &words).await?;
    read(&output.stdout).map_err(|error| unreadable(pod, args, &error))
}
