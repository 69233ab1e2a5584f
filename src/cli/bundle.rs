//! `coastal bundle`: which authorities the servers trust, and which of them are whose.

use std::collections::BTreeSet;
use std::sync::Arc;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde::Serialize;

use crate::cli::outside::Outside;
use crate::cli::watch::{Shown, Watch};
use crate::error::{ExitCode, Failure};
use crate::observe;
use crate::session::Session;
use crate::spire::audit::{Authority, AuthorityKind};
use crate::spire::rotation::KeyType;
use crate::steps::inspect::{self, ServerView};
use crate::steps::planes;
use crate::ui::Ui;

/// Arguments of `bundle`.
#[derive(Debug, Args)]
pub struct BundleArgs {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    watch: Watch,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum Action {
    /// Show the authorities (this is the default)
    Show,
    /// Only say how many there are
    Count,
    /// Show what database, servers, ConfigMap, agents and workloads each hold of it
    Planes {
        /// Exit with 8 if a plane is not as the servers are, or is unknown
        #[arg(long)]
        check: bool,
    },
}

const HEAD: &[&str] = &["kind", "authority", "expires", "state", "held by", "trusted by"];

/// The result of `bundle`.
#[derive(Serialize)]
struct Document {
    schema: u32,
    trust_domain: String,
    /// Whether all servers that answer trust the same.
    agree: bool,
    servers: Vec<Server>,
    x509: usize,
    jwt: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    authorities: Option<Vec<Authority>>,
}

#[derive(Serialize)]
struct Server {
    pod: String,
    version: Option<String>,
    /// Why it does not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<Failure>,
}

/// Asks every server, and shows what they trust.
///
/// # Errors
/// No server answers.
pub async fn run(args: &BundleArgs, ui: &Ui, outside: &Outside) -> Result<ExitCode, Failure> {
    let session = Session::new(outside.lab.clone(), outside.world.clone(), outside.paths.clone());
    if let Some(Action::Planes { check }) = args.action {
        return Box::pin(held(check, &session, ui, outside)).await;
    }
    let list = !matches!(args.action, Some(Action::Count));
    args.watch.show(outside, ui, async || look(&session, list, ui, outside).await).await
}

async fn look(session: &Arc<Session>, list: bool, ui: &Ui, outside: &Outside) -> Result<Shown, Failure> {
    let views = inspect::servers(&observe::looking(session, &outside.cancel)).await?;
    if views.iter().all(|view| view.bundle.is_err())
        && let Some(Err(failure)) = views.first().map(|view| view.bundle.as_ref())
    {
        return Err(failure.clone());
    }
    let (authorities, differing) = (inspect::authorities(&views), inspect::differing(&views));
    let of = |kind| authorities.iter().filter(|authority| authority.kind == kind).count();
    let (x509, jwt) = (of(AuthorityKind::X509), of(AuthorityKind::Jwt));
    let shown = if ui.is_json() {
        let servers = views
            .iter()
            .map(|view| Server {
                pod: view.pod.clone(),
                version: view.version.as_ref().map(ToString::to_string),
                failure: view.bundle.as_ref().err().cloned(),
            })
            .collect();
        let trust_domain = session.lab.spire.trust_domain.clone();
        let (agree, authorities) = (differing.is_empty(), list.then_some(authorities));
        Shown::document(&Document { schema: 1, trust_domain, agree, servers, x509, jwt, authorities })?
    } else if list {
        let now = session.world.clock.now();
        let answering = views.iter().filter(|view| view.bundle.is_ok()).count();
        Shown::table(HEAD, authorities.iter().map(|authority| row(authority, answering, now)).collect())
    } else {
        Shown::line(format!("{x509} X.509 authorities, {jwt} JWT authorities"))
    };
    let untold = views.iter().all(|view| view.own.is_empty() && view.bundle.is_ok());
    let note = untold.then(|| "which authority is whose, servers tell from SPIRE 1.11 on".to_owned());
    Ok(shown.warnings(warnings(&views, &differing)).notes(note))
}

fn row(authority: &Authority, servers: usize, now: Timestamp) -> Vec<String> {
    let expired = authority.expires_at.is_some_and(|expires| expires <= now);
    let state = match (authority.tainted, expired) {
        (true, _) => "tainted",
        (false, true) => "expired",
        (false, false) => "",
    };
    let trusted_by = if authority.seen_by.len() == servers { "all".to_owned() } else { authority.seen_by.join(", ") };
    vec![
        authority.kind.to_string(),
        authority.id.clone(),
        authority.expires_at.map(|expires| format!("{expires:.0}")).unwrap_or_default(),
        state.to_owned(),
        authority.held_by.join(", "),
        trusted_by,
    ]
}

fn warnings(views: &[ServerView], differing: &[String]) -> Vec<String> {
    let mut warnings = Vec::new();
    for view in views {
        if let Err(failure) = &view.bundle {
            warnings.push(format!("{} does not answer: {}", view.pod, failure.message));
        } else if let Some(silent) = &view.silent {
            warnings.push(format!("{} does not tell which authorities are its own: {silent}", view.pod));
        }
    }
    if !differing.is_empty() {
        warnings.push(format!(
            "{} trust another bundle than the first server; servers of one data store differ for a second at most",
            differing.join(", ")
        ));
    }
    warnings
}

/// Where the bundle is held, plane by plane.
async fn held(check: bool, session: &Arc<Session>, ui: &Ui, outside: &Outside) -> Result<ExitCode, Failure> {
    let planes = planes::collect(&observe::looking(session, &outside.cancel)).await?;
    let none = BTreeSet::new();
    let mut lags = Vec::new();
    for key in KeyType::ALL {
        lags.extend(planes.findings(key).into_iter().map(|lag| format!("{key}: {lag}")));
    }
    lags.extend(planes.unknown(&none).map(|lag| lag.to_string()));
    if ui.is_json() {
        ui.document(&planes);
    } else {
        for key in KeyType::ALL {
            let (head, rows) = planes.table(key);
            let head: Vec<&str> = head.iter().map(String::as_str).collect();
            ui.table(&head, &rows);
            ui.text("\n");
        }
        for lag in &lags {
            ui.note(lag);
        }
    }
    Ok(if check && !lags.is_empty() { ExitCode::CheckFailed } else { ExitCode::Ok })
}
