//! `coastal agents`: who hands out identities on which node; and keeping one of them from it.

use std::collections::BTreeMap;
use std::sync::Arc;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde::Serialize;

use crate::cli::Global;
use crate::cli::goal::lock;
use crate::cli::outside::Outside;
use crate::cli::watch::{Shown, Watch};
use crate::error::{ExitCode, Failure};
use crate::observe;
use crate::session::Session;
use crate::spire::cli::{Agent, SpiffeId};
use crate::spire::id::{self, Glob};
use crate::steps::identity::server_json_of;
use crate::steps::{inspect, reach, registrations};
use crate::ui::Ui;

/// Arguments of `agents`.
#[derive(Debug, Args)]
pub struct AgentsArgs {
    #[command(subcommand)]
    action: Option<Action>,
    /// Only ids, or paths, that this covers: `*` within a segment, `**` across
    #[arg(long, value_name = "GLOB", global = true)]
    id: Option<String>,
    #[command(flatten)]
    watch: Watch,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show them (this is the default)
    #[command(alias = "list")]
    Show,
    /// Only say how many there are
    Count,
    /// Refuse everything to an agent, for good: it cannot attest again until it is evicted
    Ban {
        /// The agent's SPIFFE id, or its path
        #[arg(value_name = "ID")]
        agent: String,
    },
    /// Forget an agent: it has to attest again; lifts a ban
    Evict {
        /// The agent's SPIFFE id, or its path
        #[arg(value_name = "ID")]
        agent: String,
    },
}

const HEAD: &[&str] = &["agent", "node", "attested by", "expires", "version", "state"];

/// The result of `agents`.
#[derive(Serialize)]
struct Document {
    schema: u32,
    trust_domain: String,
    count: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    agents: Option<Vec<Row>>,
}

#[derive(Serialize)]
struct Row {
    id: String,
    /// The name of its node; absent if it is not in the cluster.
    node: Option<String>,
    attestation_type: String,
    expires_at: Option<Timestamp>,
    banned: bool,
    /// Absent if the server does not tell.
    can_reattest: Option<bool>,
    /// Absent if neither server nor agent tells it.
    version: Option<String>,
}

/// Shows, counts, bans or evicts.
///
/// # Errors
/// No server answers; there is no such agent.
pub async fn run(
    args: &AgentsArgs,
    global: &Global,
    ui: &Ui,
    line: &str,
    outside: &Outside,
) -> Result<ExitCode, Failure> {
    let session = Session::new(outside.lab.clone(), outside.world.clone(), outside.paths.clone());
    match &args.action {
        None | Some(Action::Show) => {
            args.watch.show(outside, ui, async || look(&session, args.id.as_deref(), true, ui, outside).await).await
        }
        Some(Action::Count) => {
            args.watch.show(outside, ui, async || look(&session, args.id.as_deref(), false, ui, outside).await).await
        }
        Some(Action::Ban { agent }) => change(&session, Change::Ban, agent, global, ui, line, outside).await,
        Some(Action::Evict { agent }) => change(&session, Change::Evict, agent, global, ui, line, outside).await,
    }
}

async fn look(
    session: &Arc<Session>,
    glob: Option<&str>,
    list: bool,
    ui: &Ui,
    outside: &Outside,
) -> Result<Shown, Failure> {
    let cx = observe::looking(session, &outside.cancel);
    let cluster = reach::cluster(&cx).await?;
    let (agents, nodes) = tokio::try_join!(inspect::agents(&cx), inspect::nodes(&cluster))?;
    let trust_domain = session.lab.spire.trust_domain.clone();
    let glob = glob.map(|glob| Glob::of_id(glob, &trust_domain));
    let wanted = |agent: &&Agent| glob.as_ref().is_none_or(|glob| glob.matches(&agent.id.to_string()));
    let mut rows: Vec<Row> = agents.agents.iter().filter(wanted).map(|agent| row(agent, &nodes)).collect();
    rows.sort_by(|a, b| (&a.node, &a.id).cmp(&(&b.node, &b.id)));
    let count = rows.len();
    if ui.is_json() {
        return Shown::document(&Document { schema: 1, trust_domain, count, agents: list.then_some(rows) });
    }
    if !list {
        return Ok(Shown::line(count.to_string()));
    }
    Ok(Shown::table(HEAD, rows.iter().map(Row::cells).collect()))
}

fn row(agent: &Agent, nodes: &BTreeMap<String, String>) -> Row {
    let uid = agent.id.path.rsplit('/').next().unwrap_or_default();
    Row {
        id: agent.id.to_string(),
        node: nodes.get(uid).cloned(),
        attestation_type: agent.attestation_type.clone(),
        expires_at: agent.x509svid_expires_at.parse().ok().and_then(|second| Timestamp::from_second(second).ok()),
        banned: agent.banned,
        can_reattest: agent.can_reattest,
        version: Some(agent.agent_version.clone()).filter(|version| !version.is_empty()),
    }
}

impl Row {
    fn cells(&self) -> Vec<String> {
        vec![
            self.id.clone(),
            self.node.clone().unwrap_or_else(|| "not in the cluster".to_owned()),
            self.attestation_type.clone(),
            self.expires_at.map(|expires| format!("{expires:.0}")).unwrap_or_default(),
            self.version.clone().unwrap_or_default(),
            if self.banned { "banned" } else { "attested" }.to_owned(),
        ]
    }
}

/// What is done to an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Ban,
    Evict,
}

impl Change {
    fn word(self) -> &'static str {
        match self {
            Change::Ban => "ban",
            Change::Evict => "evict",
        }
    }

    fn question(self, agent: &SpiffeId) -> String {
        match self {
            Change::Ban => {
                format!("ban {agent}? no workload on its node gets an SVID any more, and none that it has is renewed")
            }
            Change::Evict => format!("evict {agent}? it has to attest again before it can renew anything"),
        }
    }

    /// How it is undone, and what it does not do.
    fn after(self, agent: &SpiffeId) -> [String; 2] {
        match self {
            Change::Ban => [
                "what its workloads hold stays valid until it expires".to_owned(),
                format!("undo: `coastal agents evict {agent}`; then the agent attests again when it is restarted"),
            ],
            Change::Evict => [
                "an agent that attests by a token of its pod does so by itself; one that joined by a token needs a new one"
                    .to_owned(),
                "undo: nothing to undo once it has attested again; to keep it out, ban it".to_owned(),
            ],
        }
    }
}

async fn change(
    session: &Arc<Session>,
    change: Change,
    agent: &str,
    global: &Global,
    ui: &Ui,
    line: &str,
    outside: &Outside,
) -> Result<ExitCode, Failure> {
    let agent = id::parse(agent, &session.lab.spire.trust_domain).map_err(|problem| {
        Failure::usage(format!("`{agent}` is no agent of this trust domain: {problem}"))
            .next("`coastal agents` shows all of them")
    })?;
    let cx = observe::looking(session, &outside.cancel);
    let known = inspect::agents(&cx).await?;
    let Some(found) = known.agents.iter().find(|known| known.id == agent) else {
        return Err(Failure::prerequisite(format!("no agent {agent} has attested"))
            .facts(known.agents.iter().take(10).map(|known| format!("there is {}", known.id)))
            .next("`coastal agents` shows all of them"));
    };
    if change == Change::Ban && found.banned {
        ui.note(&format!("{agent} is banned already"));
        return Ok(ExitCode::Ok);
    }
    if global.dry_run {
        ui.note(&format!("would {} {agent}; nothing was done", change.word()));
        return Ok(ExitCode::Ok);
    }
    ui.confirm(&change.question(&agent), global.yes || outside.is_harmless())?;
    let _lock = lock(outside, line)?;
    let (pod, text) = (registrations::server(&cx).await?, agent.to_string());
    // It answers with an empty object.
    let _: serde_json::Value = server_json_of(&cx, &pod, &["agent", change.word(), "-spiffeID", &text]).await?;
    let after = inspect::agents(&cx).await?;
    let now = after.agents.iter().find(|known| known.id == agent);
    if change == Change::Ban && now.is_none_or(|agent| !agent.banned) {
        return Err(Failure::tool(format!("the server took the ban of {agent}, and does not show it"))
            .fact("the agent may have been evicted meanwhile")
            .next("`coastal agents` shows how it is now"));
    }
    if ui.is_json() {
        ui.document(
            &serde_json::json!({"schema": 1, "agent": text, "done": change.word(), "notes": change.after(&agent)}),
        );
    } else {
        ui.text(&format!("{} {agent}", if change == Change::Ban { "banned" } else { "evicted" }));
        change.after(&agent).iter().for_each(|note| ui.note(note));
    }
    Ok(ExitCode::Ok)
}
