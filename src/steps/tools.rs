//! The tools: there, answering, and new enough.

use async_trait::async_trait;

use crate::engine::{Body, StepContext};
use crate::error::Failure;
use crate::plan::Finding;
use crate::tools::versions::{self, Probe};
use crate::tools::{Tool, docker, helm, kind, kubectl};

/// [`crate::plan::StepId::Tools`]. Only ever looks: coastal installs nothing on the host.
pub struct Tools;

#[async_trait]
impl Body for Tools {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        let lab = &cx.session.lab;
        let (docker_command, kind_command) = (docker::version(), kind::version());
        let (helm_command, kubectl_command) = (helm::version(), kubectl::version());
        let (docker_said, kind_said, helm_said, kubectl_said) = tokio::join!(
            async { if lab.is_kind() { Some(cx.run(&docker_command).await) } else { None } },
            async { if lab.is_kind() { Some(cx.run(&kind_command).await) } else { None } },
            cx.run(&helm_command),
            cx.run(&kubectl_command),
        );
        let mut probes = Vec::new();
        if let Some(said) = docker_said {
            probes.push(Probe { tool: Tool::Docker, found: said.and_then(|output| docker::parse_version(&output)) });
        }
        if let Some(said) = kind_said {
            probes.push(Probe { tool: Tool::Kind, found: said.and_then(|output| kind::parse_version(&output)) });
        }
        probes.push(Probe { tool: Tool::Helm, found: helm_said.and_then(|output| helm::parse_version(&output)) });
        probes.push(Probe { tool: Tool::Kubectl, found: kubectl_said.and_then(|output| kubectl::parse_version(&output)) });
        versions::judge(&probes, &lab.tools).map(Finding::Satisfied)
    }

    async fn run(&self, _cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        Ok(())
    }

    async fn verify(&self, _cx: &StepContext) -> Result<String, Failure> {
        Ok("tools are there".into())
    }
}
