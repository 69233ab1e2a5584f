//! The tools: there, answering, and new enough.

use std::collections::BTreeMap;

use async_trait::async_trait;
use futures::future::join_all;

use crate::engine::{Body, StepContext};
use crate::error::Failure;
use crate::plan::Finding;
use crate::tools::{Tool, versions};

/// [`crate::plan::StepId::Tools`]. Only ever looks: coastal installs nothing on the host.
pub struct Tools;

#[async_trait]
impl Body for Tools {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        let lab = &cx.session.lab;
        let needed: &[Tool] = if lab.is_kind() { &Tool::ALL } else { &[Tool::Helm, Tool::Kubectl] };
        let found: BTreeMap<Tool, _> = join_all(needed.iter().map(|tool| async move {
            let said = cx.run(&versions::ask(*tool)).await;
            (*tool, said.and_then(|output| versions::read(*tool, &output)))
        }))
        .await
        .into_iter()
        .collect();
        versions::judge(&lab.tools, &found)?;
        let seen: Vec<String> =
            found.iter().filter_map(|(tool, version)| Some(format!("{tool} {}", version.as_ref().ok()?))).collect();
        Ok(Finding::Satisfied(seen.join(", ")))
    }

    async fn verify(&self, _cx: &StepContext) -> Result<String, Failure> {
        Ok("tools are there".into())
    }
}
