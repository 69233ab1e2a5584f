//! What the steps of a change of SPIRE's versions do. Each looks at what runs, never at what an earlier step did, so
//! that a change which was interrupted anywhere is gone on with, and one that somebody else has touched is noticed.

pub(in crate::steps) mod aim;
mod chart;
pub(in crate::steps) mod gate;
pub(in crate::steps) mod half;
mod restore;
pub(in crate::steps) mod source;

use async_trait::async_trait;

use crate::engine::{Body, StepContext};
use crate::error::{Failure, Kind};
use crate::plan::{Change, Finding, HopPart, HopStep};
use crate::spire::path::Hop;
use crate::steps::dump;
use crate::steps::live::Live;
use crate::steps::upgrade::gate::Gate;
use crate::steps::upgrade::half::{Half, Turn};

/// The body of a step of a hop.
#[must_use]
pub fn body(step: HopStep) -> Box<dyn Body> {
    let HopStep { hop, part } = step;
    match part {
        HopPart::Fetch => Box::new(source::Fetch(hop)),
        HopPart::Backup => Box::new(Backup),
        HopPart::Restore => Box::new(restore::Restore(hop)),
        HopPart::Crds => Box::new(chart::Crds(hop)),
        HopPart::Chart => Box::new(chart::Move(hop)),
        HopPart::Servers => Box::new(Turn { hop, half: Half::Servers }),
        HopPart::ServersGate => Box::new(Gate { hop, half: Half::Servers }),
        HopPart::Agents => Box::new(Turn { hop, half: Half::Agents }),
        HopPart::AgentsGate => Box::new(Gate { hop, half: Half::Agents }),
    }
}

/// The change that is carried out.
fn change(cx: &StepContext) -> Result<&Change, Failure> {
    let change = cx.session.change.as_ref();
    change.ok_or_else(|| Failure::unexpected(format!("step `{}` outside a change of versions", cx.step())))
}

fn hop(cx: &StepContext, number: u16) -> Result<&Hop, Failure> {
    let hop = change(cx)?.hop(number);
    hop.ok_or_else(|| Failure::unexpected(format!("step `{}` of a hop that is not in the change", cx.step())))
}

/// Half a hop that did not come to its end leaves the other half where it is. There are two ways on.
fn ways_on(cx: &StepContext, number: u16, failure: Failure) -> Failure {
    let Ok(hop) = hop(cx, number) else { return failure };
    if failure.kind == Kind::Interrupted {
        return failure;
    }
    failure
        .fact(format!("hop {} -> {} stopped here: what comes after it was not touched", hop.from, hop.to))
        .next(format!("forward: mend the cause, then `coastal upgrade --to {}` goes on from what runs", hop.to))
        .next(format!("back: `coastal upgrade --to {}`", hop.from))
}

/// [`HopPart::Backup`].
struct Backup;

#[async_trait]
impl Body for Backup {
    async fn check(&self, _cx: &StepContext) -> Result<Finding, Failure> {
        Ok(Finding::Missing("a dump is taken each time: an older one would lose what came since".into()))
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        let live = Live::look(cx).await?;
        let dump = dump::take(cx, live.server_versions())
            .await
            .map_err(|failure| failure.next("`--no-backup` goes on without one: then the hop cannot be undone"))?;
        cx.progress(format!(
            "{} bytes, schema {}, written by SPIRE {}",
            dump.bytes, dump.migrations, dump.code_version
        ));
        Ok(())
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        let directory = cx.session.paths.dumps();
        let newest = dump::list(&directory)?.pop();
        let dump = newest.ok_or_else(|| Failure::tool(format!("there is no dump in `{}`", directory.display())))?;
        Ok(format!(
            "{} ({} bytes, schema {}, SPIRE {})",
            directory.join(&dump.file).display(),
            dump.bytes,
            dump.migrations,
            dump.code_version
        ))
    }
}
