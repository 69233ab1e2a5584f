//! What a shell offers for an argument while it is typed: versions with the hops to them, steps, checks, runs, pods. Read
//! from tables and from what lies on this machine; no cluster is asked while somebody waits at a prompt.

use clap::builder::StyledStr;
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};

use crate::cli::outside;
use crate::config::{self, ChartRef, Lab};
use crate::engine::journal;
use crate::session::Paths;
use crate::spire::path::{self, Answer, ChartChoice, Options};
use crate::spire::policy::State;
use crate::spire::releases::Release;
use crate::spire::{charts, names, releases};
use crate::{checks, learn};

fn candidate(value: impl Into<String>, help: impl Into<StyledStr>) -> CompletionCandidate {
    CompletionCandidate::new(value.into()).help(Some(help.into()))
}

/// The lab of this directory; what is offered needs none.
fn lab() -> Option<Lab> {
    config::load(None).ok()
}

/// SPIRE versions that can be reached from those of lab.toml, each with its hops; newest first.
pub(super) fn versions() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let Some(from) = lab().as_ref().and_then(wanted) else {
            return releases::all().rev().map(|release| CompletionCandidate::new(release.to_string())).collect();
        };
        let newest = releases::all().rev().enumerate();
        newest.filter_map(|(order, to)| Some(hops(&from, to)?.display_order(Some(order)))).collect()
    })
}

/// What lab.toml says that runs.
fn wanted(lab: &Lab) -> Option<State> {
    let server = releases::find(&lab.spire.server_version)?;
    let agent = releases::find(&lab.spire.agent_version)?;
    let chart = match &lab.spire.chart {
        ChartRef::Repo { version, .. } => charts::find(version),
        ChartRef::Path(_) => charts::made_for(server),
    };
    let (schema, code) = (server.schema().latest, server.version().clone());
    State::new(vec![server], vec![agent], Some(schema), Some(code), chart)
}

/// A version, if there is a legal way to it. A database that can go back by its dump is taken for granted.
fn hops(from: &State, to: Release) -> Option<CompletionCandidate> {
    let outcome = path::plan(from, to, &ChartChoice::Keep, &Options::default());
    let way = match (outcome.verdict, outcome.hops.len()) {
        (Answer::Allowed, 1) => "1 hop".to_owned(),
        (Answer::Allowed, hops) => format!("{hops} hops"),
        (Answer::NothingToDo, _) => "as lab.toml says".to_owned(),
        (Answer::Refused, _) => return None,
    };
    Some(candidate(to.to_string(), way))
}

/// The lab's steps.
pub(super) fn lessons() -> ArgValueCandidates {
    ArgValueCandidates::new(|| learn::ALL.iter().map(|lesson| candidate(lesson.id, lesson.title)).collect())
}

/// Checks and their categories.
pub(super) fn checks() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let categories = checks::Category::ALL.iter().map(|of| candidate(of.word(), "all of this category"));
        categories.chain(checks::all().into_iter().map(|check| candidate(check.id, check.title))).collect()
    })
}

/// Journals that are kept, the newest first.
pub(super) fn runs() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let directory = lab().and_then(|lab| outside::state_directory(&lab).ok());
        let kept = directory.and_then(|state| journal::runs(&Paths::new(state).runs()).ok()).unwrap_or_default();
        let newest = kept.into_iter().rev().enumerate();
        let ids = newest.map(|(order, id)| CompletionCandidate::new(id).display_order(Some(order + 1)));
        std::iter::once(candidate("last", "the newest").display_order(Some(0))).chain(ids).collect()
    })
}

/// The lab's server pods.
pub(super) fn servers() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        lab().map_or_else(Vec::new, |lab| {
            names::server_pods(&lab.spire).into_iter().map(CompletionCandidate::new).collect()
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_versions_with_a_way_are_offered_with_its_hops() {
        let from = wanted(&config::embedded().unwrap()).unwrap();
        let offered = |text: &str| {
            let found = hops(&from, releases::find(&text.parse().unwrap()).unwrap())?;
            Some(found.get_help().unwrap().to_string())
        };
        assert_eq!(offered("1.7.2").as_deref(), Some("as lab.toml says"));
        assert_eq!(offered("1.8.0").as_deref(), Some("1 hop"));
        assert_eq!(offered("1.9.6").as_deref(), Some("2 hops"));
        assert_eq!(offered("1.0.0"), None, "its schema is older than any dump");
    }
}
