//! The audit: everything that has an identity, or could get one, held against what is expected.

use std::sync::{Arc, Mutex, PoisonError};

use crate::engine::StepContext;
use crate::error::Failure;
use crate::spire::audit::{Audit, Auditor, Authority};
use crate::spire::cli::Agent;
use crate::steps::{inspect, registrations};

/// What the audit found, and what it was made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audited {
    /// Its findings.
    pub audit: Audit,
    /// All attested agents.
    pub agents: Vec<Agent>,
    /// All authorities of the bundle.
    pub authorities: Vec<Authority>,
    /// Whether every server told which authorities are its own.
    pub holders_known: bool,
}

/// Audits. Entries go by as they come, none is kept; the servers are asked beside that.
///
/// # Errors
/// The cluster, or every server, does not answer.
pub async fn audited(cx: &StepContext) -> Result<Audited, Failure> {
    let entries = async {
        let facts = inspect::facts(cx).await?;
        let agents = facts.agents.clone();
        let auditor = Arc::new(Mutex::new(Auditor::new(facts)));
        let into = Arc::clone(&auditor);
        registrations::each(cx, move |entry| into.lock().unwrap_or_else(PoisonError::into_inner).entry(&entry)).await?;
        let auditor =
            Arc::into_inner(auditor).ok_or_else(|| Failure::unexpected("the entries are still being read"))?;
        Ok::<_, Failure>((auditor.into_inner().unwrap_or_else(PoisonError::into_inner), agents))
    };
    let (entries, trust) = tokio::join!(Box::pin(entries), Box::pin(inspect::trust(cx)));
    // Where no server answers both fail, and what is said of the servers says why.
    let trust = trust?;
    let (auditor, agents) = entries?;
    let (authorities, holders_known) = (trust.authorities.clone(), trust.holders_known);
    Ok(Audited { audit: auditor.finish(trust), agents, authorities, holders_known })
}
