//! Carries out what was decided, one server after the other, and decides anew.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use super::{gate, hold, in_words, observe, remember, rotation};
use crate::engine::StepContext;
use crate::error::Failure;
use crate::plan::RotatePart;
use crate::spire::names;
use crate::spire::planes::brief;
use crate::spire::rotation::{Action, KeyType, Phase, Plan, Verb};
use crate::steps::{reach, spire};
use crate::tools::CommandError;

/// A rotation of three servers takes seven such turns, and as many while the servers hear of each other; with
/// everything in the way, twice as many.
const MOST_TURNS: usize = 60;
/// After so many turns what was done is done again if it is not seen.
const HEARD_WITHIN: usize = 10;
/// The time between two of them.
const LOOK: Duration = Duration::from_millis(300);

/// Does what is due until the servers are beyond `upto`.
///
/// # Errors
/// A server refuses, does not answer, or a gate does not open in time.
pub(super) async fn advance(cx: &StepContext, key: KeyType, upto: Phase) -> Result<(), Failure> {
    let mut done: BTreeSet<Action> = BTreeSet::new();
    let mut turns = 0;
    while turns < MOST_TURNS {
        let plan = observe::decide(cx, key).await?;
        if plan.phase > upto {
            return Ok(());
        }
        turns += 1;
        // Servers see each other's changes of the bundle a second later (facts, section 9).
        if turns % HEARD_WITHIN != 0 && plan.actions.iter().all(|action| done.contains(action)) {
            cx.sleep(LOOK).await?;
            rotation(cx)?.forget();
            continue;
        }
        pass_gate(cx, key, &plan).await?;
        hold(cx).await?;
        cx.progress(in_words(&plan));
        for action in &plan.actions {
            // After a wish to stop nothing new is begun; what was done is written down.
            if cx.cancel.is_cancelled() {
                return Err(Failure::interrupted().next("`coastal rotate --yes` goes on where this one stopped"));
            }
            let acted = act(cx, key, action).await;
            rotation(cx)?.forget();
            if !acted? {
                break;
            }
            done.insert(action.clone());
        }
    }
    Err(Failure::tool(format!("the {key} authorities change faster than they can be rotated"))
        .next("somebody else may be rotating: look at the servers' logs with `coastal logs server`"))
}

async fn pass_gate(cx: &StepContext, key: KeyType, plan: &Plan) -> Result<(), Failure> {
    let part = match plan.phase {
        Phase::Activate => Some(RotatePart::Spread),
        Phase::Taint => Some(RotatePart::Reissue),
        Phase::Revoke => Some(RotatePart::Drain),
        _ => None,
    };
    let seen_open =
        part.is_some_and(|part| rotation(cx).is_ok_and(|rotation| rotation.open_gates().remove(&(key, part))));
    if seen_open { Ok(()) } else { gate::wait(cx, key, &plan.gate).await.map(drop) }
}

/// Does one thing; false if the server says that its slots are not what they were, so that it has to be decided anew.
async fn act(cx: &StepContext, key: KeyType, action: &Action) -> Result<bool, Failure> {
    let now = || cx.session.world.clock.now();
    let Some(words) = action.argv(key) else {
        spire::restart_server(cx, &reach::cluster(cx).await?, &action.pod).await?;
        remember(cx, |incident| incident.note(now(), format!("{}: restarted", action.pod)))?;
        return Ok(true);
    };
    let mut argv = vec!["/opt/spire/bin/spire-server"];
    argv.extend(words.iter().map(String::as_str));
    argv.extend(["-output", "json"]);
    let namespace = &cx.session.lab.spire.server_namespace;
    let what = |id: &str| format!("{}: {key} {} {id}", action.pod, action.verb).trim_end().to_owned();
    match reach::exec(cx, namespace, &action.pod, names::SERVER_CONTAINER, &argv).await {
        Ok(output) => {
            let answer: Value = serde_json::from_str(&output.stdout).unwrap_or_default();
            let id =
                answer_id(&answer).or(action.id.as_deref()).unwrap_or("(the server named no authority)").to_owned();
            remember(cx, |incident| {
                incident.note(now(), what(&id));
                let Some(record) = incident.keys.get_mut(&key) else { return };
                record.done_at.insert(action.verb, now());
                if action.verb == Verb::Prepare {
                    record.prepared.insert(id.clone(), action.pod.clone());
                }
            })?;
            Ok(true)
        }
        Err(error) => match verdict(action.verb, &error) {
            Refusal::AlreadySo => Ok(true),
            Refusal::Moved => {
                cx.retry(2, format!("{}: {}", action.pod, error.tail(1).join(" ")));
                Ok(false)
            }
            Refusal::Real => {
                let id = action.id.as_deref().unwrap_or_default();
                remember(cx, |incident| incident.note(now(), format!("{} FAILED: {error}", what(id))))?;
                let its = format!("{} did not {} its {key} authority {}", action.pod, action.verb, brief(id));
                Err(Failure::from(error)
                    .context(its.trim_end())
                    .first("`coastal rotate --yes` goes on from what the servers hold then"))
            }
        },
    }
}

/// The id in an answer of `prepare`, `activate`, `taint` or `revoke`.
fn answer_id(answer: &Value) -> Option<&str> {
    let members = answer.as_object()?;
    let named = members.values().find_map(|member| member["authority_id"].as_str());
    named.or_else(|| answer["upstream_authority_subject_key_id"].as_str())
}

#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    /// It was so already: a run before was killed after it, or a server's cache was a second old.
    AlreadySo,
    /// Its slots changed after they were read: the ordinary rotator, or somebody else.
    Moved,
    Real,
}

fn verdict(verb: Verb, error: &CommandError) -> Refusal {
    let CommandError::Exit { output, .. } = error else { return Refusal::Real };
    let said = |words: &[&str]| words.iter().any(|words| output.stderr.contains(words));
    match verb {
        Verb::Taint | Verb::TaintUpstream if said(&["is already tainted"]) => Refusal::AlreadySo,
        Verb::Revoke | Verb::RevokeUpstream
            if said(&["no ca found with provided subject key ID", "no JWT Key found", "no JWT authority found"]) =>
        {
            Refusal::AlreadySo
        }
        // It restarts: what came of it is seen when it is there again.
        _ if said(&["code = Unavailable", "container not found"]) => Refusal::Moved,
        _ if said(&[
            "unexpected authority ID",
            "can be activated",
            "can be tainted",
            "can be revoked",
            "unable to",
        ]) =>
        {
            Refusal::Moved
        }
        _ => Refusal::Real,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::Output;

    #[test]
    fn what_was_done_before_and_what_has_moved_is_told_from_a_refusal() {
        for (verb, said, expected) in [
            (Verb::Taint, "desc = failed to taint X.509 authority: root CA is already tainted", Refusal::AlreadySo),
            (Verb::Taint, "desc = failed to taint JWT authority: key is already tainted", Refusal::AlreadySo),
            (Verb::Revoke, "desc = … no ca found with provided subject key ID", Refusal::AlreadySo),
            (Verb::Activate, "desc = unexpected authority ID", Refusal::Moved),
            (Verb::Taint, "desc = unable to taint current local authority", Refusal::Moved),
            (Verb::Revoke, "desc = it is not possible to revoke an untainted root CA", Refusal::Real),
            (Verb::Prepare, "code = Unavailable desc = server is initializing", Refusal::Moved),
            (Verb::Prepare, "code = Internal desc = failed to prepare X.509 authority", Refusal::Real),
        ] {
            let output = Output { stdout: String::new(), stderr: format!("Error: could not … rpc error: {said}\n") };
            let error = CommandError::Exit { line: "kubectl exec".into(), code: 1, output };
            assert_eq!(verdict(verb, &error), expected, "{verb} {said}");
        }
    }

    #[test]
    fn every_answer_names_its_authority() {
        for text in [
            r#"{"prepared_authority":{"authority_id":"ab","expires_at":"1"}}"#,
            r#"{"revoked_authority":{"authority_id":"ab","expires_at":"0","upstream_authority_subject_key_id":""}}"#,
            r#"{"upstream_authority_subject_key_id":"ab"}"#,
        ] {
            assert_eq!(answer_id(&serde_json::from_str(text).unwrap()), Some("ab"), "{text}");
        }
        assert_eq!(answer_id(&Value::Null), None);
    }
}
