//! `coastal bundle`: which authorities the servers trust, and which of them are whose.

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde::Serialize;

use crate::cli::outside::Outside;
use crate::error::{ExitCode, Failure};
use crate::observe;
use crate::session::Session;
use crate::spire::audit::{Authority, AuthorityKind};
use crate::steps::inspect::{self, ServerView};
use crate::ui::Ui;

/// Arguments of `bundle`.
#[derive(Debug, Args)]
pub struct BundleArgs {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum Action {
    /// Show the authorities (this is the default)
    Show,
    /// Only say how many there are
    Count,
}

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
    let views = inspect::servers(&observe::looking(&session, &outside.cancel)).await?;
    if let Some(failure) = views.iter().all(|view| view.bundle.is_err()).then(|| views.first()).flatten() {
        return failure.bundle.as_ref().map(|_| ExitCode::Ok).map_err(Clone::clone);
    }
    let (authorities, differing) = (inspect::authorities(&views), inspect::differing(&views));
    let of = |kind| authorities.iter().filter(|authority| authority.kind == kind).count();
    let (x509, jwt) = (of(AuthorityKind::X509), of(AuthorityKind::Jwt));
    let list = !matches!(args.action, Some(Action::Count));
    if ui.is_json() {
        let servers = views
            .iter()
            .map(|view| Server {
                pod: view.pod.clone(),
                version: view.version.as_ref().map(ToString::to_string),
                failure: view.bundle.as_ref().err().cloned(),
            })
            .collect();
        let trust_domain = session.lab.spire.trust_domain.clone();
        let authorities = list.then_some(authorities);
        ui.document(&Document {
            schema: 1,
            trust_domain,
            agree: differing.is_empty(),
            servers,
            x509,
            jwt,
            authorities,
        });
    } else if list {
        let now = session.world.clock.now();
        let answering = views.iter().filter(|view| view.bundle.is_ok()).count();
        let rows: Vec<Vec<String>> = authorities.iter().map(|authority| row(authority, answering, now)).collect();
        ui.table(&["kind", "authority", "expires", "state", "held by", "trusted by"], &rows);
    } else {
        ui.text(&format!("{x509} X.509 authorities, {jwt} JWT authorities"));
    }
    remarks(&views, &differing, ui);
    Ok(ExitCode::Ok)
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

fn remarks(views: &[ServerView], differing: &[String], ui: &Ui) {
    for view in views {
        if let Err(failure) = &view.bundle {
            ui.warning(&format!("{} does not answer: {}", view.pod, failure.message));
        } else if let Some(silent) = &view.silent {
            ui.warning(&format!("{} does not tell which authorities are its own: {silent}", view.pod));
        }
    }
    if !differing.is_empty() {
        ui.warning(&format!(
            "{} trust another bundle than the first server; servers of one data store differ for a second at most",
            differing.join(", ")
        ));
    }
    if views.iter().all(|view| view.own.is_empty() && view.bundle.is_ok()) {
        ui.note("which authority is whose, servers tell from SPIRE 1.11 on");
    }
}
