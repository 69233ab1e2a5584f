//! `coastal contain`: cuts off an identity, in the order that lasts.

use clap::Args;

use crate::cli::Global;
use crate::cli::goal::{carry_out, lock};
use crate::cli::outside::Outside;
use crate::config::Lab;
use crate::error::{ExitCode, Failure};
use crate::observe;
use crate::plan::Containment;
use crate::session::Session;
use crate::spire::id::{self, Glob};
use crate::spire::incident::Incident;
use crate::steps::contain::{self, Target};
use crate::ui::Ui;

/// Arguments of `contain`.
#[derive(Debug, Args)]
pub struct ContainArgs {
    /// A SPIFFE id (whole, or its path), or a namespace
    #[arg(value_name = "ID|NAMESPACE", required_unless_present = "undo", conflicts_with = "undo")]
    target: Option<String>,
    /// Delete what makes the pods instead of scaling it to 0; cannot be undone
    #[arg(long)]
    delete: bool,
    /// Undo a containment: the last one, or that of an incident
    #[arg(long, value_name = "INCIDENT", num_args = 0..=1, default_missing_value = "", conflicts_with = "delete")]
    undo: Option<String>,
}

/// Cuts it off, or undoes that.
///
/// # Errors
/// There is nothing to cut off, it must not be, or nobody says yes; what happens in the run is in the exit code.
pub async fn run(
    args: &ContainArgs,
    global: &Global,
    ui: &Ui,
    line: &str,
    outside: &Outside,
) -> Result<ExitCode, Failure> {
    let lab = &outside.lab;
    let (containment, question, next) = if let Some(undo) = &args.undo {
        let id = Some(undo.as_str()).filter(|id| !id.is_empty());
        let incident = contain::load(&outside.paths.incidents(), id)?;
        let question = format!("undo {}: let {} run again?", incident.id, incident.target);
        (Containment::undoing(incident), question, vec!["coastal audit".to_owned()])
    } else {
        let target = target(args.target.as_deref().unwrap_or_default(), lab)?;
        let session = Session::new(lab.clone(), outside.world.clone(), outside.paths.clone());
        let incident = contain::look(&observe::looking(&session, &outside.cancel), &target, args.delete).await?;
        show(&incident, lab, ui);
        let next = vec!["coastal audit".to_owned(), format!("coastal contain --undo {}", incident.id)];
        (Containment::new(incident), format!("contain {target}?"), next)
    };
    let plan = containment.plan(lab);
    if global.dry_run {
        ui.plan(&plan);
        return Ok(ExitCode::Ok);
    }
    ui.confirm(&question, global.yes || outside.is_harmless())?;
    let _lock = lock(outside, line)?;
    let session = Session::with_containment(lab.clone(), outside.world.clone(), outside.paths.clone(), containment);
    carry_out(&session, &plan, next, ui, line, outside).await
}

/// What is meant by what was typed.
fn target(text: &str, lab: &Lab) -> Result<Target, Failure> {
    if text.contains('/') {
        return id::parse(text, &lab.spire.trust_domain).map(|id| Target::Id(id.to_string())).map_err(|problem| {
            Failure::usage(format!("`{text}` is no SPIFFE id of this trust domain: {problem}"))
                .fact(format!("this lab's trust domain is {}", lab.spire.trust_domain))
                .next("`coastal audit` and `coastal entries` show ids as they have to be written")
        });
    }
    let is_label = (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-');
    if is_label {
        return Ok(Target::Namespace(text.to_owned()));
    }
    Err(Failure::usage(format!("`{text}` is neither a SPIFFE id nor the name of a namespace"))
        .next("`coastal audit` shows what nobody expects, with the command that contains it"))
}

/// What it comes down to, before anybody is asked.
fn show(incident: &Incident, lab: &Lab, ui: &Ui) {
    for id in incident.ids() {
        ui.note(&format!("identity  {id}"));
        if lab.identities.allow.iter().any(|glob| Glob::new(glob).matches(&id)) {
            ui.warning(&format!("{id} is on the allow-list of lab.toml: its workloads lose their identity"));
        }
    }
    for holder in &incident.holders {
        ui.note(&format!("pod       {}/{} on {}", holder.namespace, holder.name, holder.node));
    }
    for action in &incident.actions {
        ui.note(&format!("will      {}", action.words()));
    }
    ui.note(&format!(
        "remains   what was issued stays valid until {:.0} at the latest: SPIRE has no revocation list",
        incident.valid_until
    ));
}
