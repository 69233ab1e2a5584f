//! Logs of pods, line by line.

use futures::future::{BoxFuture, join_all};
use futures::io::{AsyncBufReadExt, AsyncReadExt};
use futures::{FutureExt, TryStreamExt};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{ListParams, LogParams};

use crate::error::Failure;
use crate::kube::{Cluster, Patience, api_failure, by_kubectl};

/// A log that is longer is not read to its end. Kubelets begin a new file every 10 MiB by default.
const LONGEST: u64 = 256 << 20;

/// Which log of a container.
#[derive(Debug, Clone, Copy)]
pub struct LogOf<'a> {
    /// The pod's namespace.
    pub namespace: &'a str,
    /// The pod.
    pub pod: &'a str,
    /// The container.
    pub container: &'a str,
    /// That of the life before its last restart.
    pub previous: bool,
    /// Only what was written since then.
    pub since: Option<Timestamp>,
}

/// A log as far as it could be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogText {
    /// Its lines, each after the time at which the container runtime got it. What is no UTF-8 is replaced.
    pub text: String,
    /// Why the rest is missing, if it is.
    pub broke_off: Option<String>,
}

impl Cluster {
    /// A container's log, until now.
    ///
    /// # Errors
    /// It cannot be read at all: there is no such pod, container or previous life, or the node does not answer.
    pub async fn log_text(&self, of: LogOf<'_>) -> Result<LogText, Failure> {
        let params = LogParams {
            container: Some(of.container.to_owned()),
            previous: of.previous,
            since_time: of.since,
            timestamps: true,
            ..LogParams::default()
        };
        let stream = self.namespaced::<Pod>(of.namespace).log_stream(of.pod, &params).await;
        let stream = stream.map_err(|error| api_failure(&format!("could not read the log of {}", of.pod), &error))?;
        let mut bytes = Vec::new();
        let read = std::pin::pin!(stream.take(LONGEST)).read_to_end(&mut bytes).await;
        let broke_off = match read {
            Ok(_) if bytes.len() as u64 == LONGEST => Some(format!("it is longer than {} MiB", LONGEST >> 20)),
            Ok(_) => None,
            Err(error) => Some(error.to_string()),
        };
        Ok(LogText { text: String::from_utf8_lossy(&bytes).into_owned(), broke_off })
    }

    /// Gives the last `tail` lines of each pod of `selector` to `line` (pod, line), pod after pod; with `follow`
    /// it goes on with all of them until it is stopped.
    ///
    /// # Errors
    /// There is no such pod, or its log cannot be read.
    #[expect(
        clippy::too_many_arguments,
        reason = "where, how much, and to whom; a struct for one caller would not help"
    )]
    pub async fn logs(
        &self,
        namespace: &str,
        selector: &str,
        container: Option<&str>,
        tail: u32,
        follow: bool,
        patience: &Patience<'_>,
        line: &(dyn Fn(&str, &str) + Send + Sync),
    ) -> Result<(), Failure> {
        let api = self.namespaced::<Pod>(namespace);
        let pods = api.list(&ListParams::default().labels(selector)).await;
        let pods = pods.map_err(|error| api_failure(&format!("could not list the pods of {namespace}"), &error))?;
        if pods.items.is_empty() {
            return Err(Failure::prerequisite(format!("no pod in namespace {namespace} matches {selector}"))
                .next("`coastal status` shows what is there"));
        }
        let params = LogParams {
            container: container.map(str::to_owned),
            tail_lines: Some(i64::from(tail)),
            follow,
            ..LogParams::default()
        };
        let readers: Vec<BoxFuture<'_, Result<(), Failure>>> = pods
            .items
            .iter()
            .map(|pod| {
                let (name, api, params) = (pod.name_any(), &api, &params);
                async move {
                    let unread = |error: &dyn std::fmt::Display| {
                        Failure::tool(format!("could not read the log of {name}: {error}"))
                            .next(by_kubectl(&format!("-n {namespace} describe pod {name}")))
                    };
                    let stream = api.log_stream(&name, params).await.map_err(|error| match &error {
                        kube::Error::Api(status) => unread(&status.message),
                        other => unread(other),
                    })?;
                    let mut lines = stream.lines();
                    while let Some(text) = lines.try_next().await.map_err(|error| unread(&error))? {
                        line(&name, &text);
                    }
                    Ok(())
                }
                .boxed()
            })
            .collect();
        if follow {
            tokio::select! {
                results = join_all(readers) => results.into_iter().collect(),
                () = patience.cancel.cancelled() => Ok(()),
            }
        } else {
            for reader in readers {
                reader.await?;
            }
            Ok(())
        }
    }
}
