//! Probes: short-lived pods that show whether agents give a new pod an SVID now, and from whom.
//!
//! The strongest word that a gate can have: an SVID that is issued after a change has gone through server, controller
//! manager, agent and CSI driver as they are now. A probe is a pod of its own, so its entry and its SVID are new too.
//!
//! Probes never stay: they are removed whatever comes of them, also when the run is stopped. What a killed run left
//! behind the next one replaces, `delete-workload` and `down` remove, and the kubelet ends after
//! [`pod::LIFETIME`].

mod pod;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::{join_all, try_join_all};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod, ServiceAccount};
use kube::ResourceExt;
use kube::api::{ListParams, PostParams};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::engine::StepContext;
use crate::engine::context::millis;
use crate::error::{Failure, Kind};
use crate::kube::{Cluster, LogOf, Patience, api_failure, describe_pod};
use crate::spire::names;
use crate::steps::images::{self, Program};
use crate::steps::manifests::WORKLOAD_CONTAINER;
use crate::steps::reach;
use crate::workload::{Update, updates_in};

pub use pod::MOST_NODES;

use pod::Runs;

/// SPIRE sets an SVID's begin so long before the moment of issue.
const BACKDATE: SignedDuration = SignedDuration::from_secs(10);
/// How often a probe's log is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How long a run that is to stop may take to see its probes gone; the engine gives it 20 s.
const FAREWELL: Duration = Duration::from_secs(15);

/// What is asked of the probes.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// What they are for, e.g. `1.8.0-servers`: part of their names, so that a run which is repeated finds them again.
    pub purpose: &'a str,
    /// Their SVIDs must have been issued after this moment.
    pub issued_after: Timestamp,
    /// Their SVIDs must chain to one of these authorities (key ids).
    pub authorities: &'a BTreeSet<String>,
}

/// What a probe got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// On which node.
    pub node: String,
    /// The pod that it was.
    pub pod: String,
    /// The identity that it was given.
    pub spiffe_id: String,
    /// The SVID's serial number, hexadecimal. Absent, like the next one, if the program was `spire-agent api watch`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// The key that signed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer_key_id: Option<String>,
    /// Whether it was seen to chain to an authority that was asked for; `spire-agent api watch` does not show it.
    pub chained: bool,
    /// Valid from.
    pub not_before: Timestamp,
    /// Valid to.
    pub not_after: Timestamp,
    /// Milliseconds from the pod's creation until its SVID was seen.
    pub took_ms: u64,
}

/// Has a probe on each node that runs an agent (at most [`MOST_NODES`], spread over zones) show its SVID.
///
/// # Errors
/// No agent runs; a probe may not be made; one gets no SVID in time, or one that is not as asked. Names the node, the
/// pod's state and its last words. The probes are gone then as well.
pub async fn prove(cx: &StepContext, asked: Asked<'_>) -> Result<Vec<Proof>, Failure> {
    let cluster = reach::cluster(cx).await?;
    clear(cx, &cluster).await?;
    let places = places(cx, &cluster).await?;
    cx.progress(format!("new pods on {} ask for SVIDs", count_of(places.len(), "node")));
    let (namespace, selector) = (cx.session.lab.workload.namespace.as_str(), pod::selector(&cx.session.lab));
    let (patience, doomed) = (cx.patience(), [(namespace, selector.as_str())]);
    let result = tokio::select! {
        biased;
        () = cx.cancel.cancelled() => Err(Failure::interrupted()),
        proofs = try_join_all(places.iter().map(|place| probe(cx, &cluster, asked, place))) => proofs,
        doom = cluster.until_doomed(&doomed, &patience) => Err(doomed_probe(cx, doom, asked, &places)),
    };
    match (result, leave(cx, &cluster).await) {
        (Ok(proofs), Ok(())) => Ok(proofs),
        (Ok(_), Err(left)) => Err(left),
        (Err(failure), Ok(())) => Err(failure),
        (Err(failure), Err(left)) => {
            Err(failure.fact(format!("{}; `coastal delete-workload` removes it", left.message)))
        }
    }
}

/// The proof in words: `new SVIDs on 2 nodes, issued after 12:00:00, chained to the bundle`.
#[must_use]
pub fn in_words(proofs: &[Proof]) -> String {
    let slowest = proofs.iter().map(|proof| proof.took_ms).max().unwrap_or_default();
    let chained = if proofs.iter().all(|proof| proof.chained) { ", chained to the bundle" } else { "" };
    format!("new pods on {} got SVIDs within {} ms{chained}", count_of(proofs.len(), "node"), slowest)
}

/// Probes that are there: of a run that was killed, or of this one.
///
/// # Errors
/// They cannot be listed.
pub async fn leftovers(cx: &StepContext, cluster: &Cluster) -> Result<Vec<Pod>, Failure> {
    let lab = &cx.session.lab;
    let api = cluster.namespaced::<Pod>(&lab.workload.namespace);
    let list = api.list(&ListParams::default().labels(&pod::selector(lab))).await;
    Ok(list.map_err(|error| api_failure("could not list the probe pods", &error))?.items)
}

/// Removes every probe and sees it gone.
///
/// # Errors
/// One is not gone in time; says what holds it. Or the run is to stop.
pub async fn clear(cx: &StepContext, cluster: &Cluster) -> Result<(), Failure> {
    remove(cx, cluster, &cx.cancel, cx.session.lab.timeouts.removal).await
}

/// As [`clear`], but a run that is to stop has time for this.
async fn leave(cx: &StepContext, cluster: &Cluster) -> Result<(), Failure> {
    match clear(cx, cluster).await {
        Err(failure) if failure.kind == Kind::Interrupted => {
            remove(cx, cluster, &CancellationToken::new(), FAREWELL).await
        }
        result => result,
    }
}

async fn remove(
    cx: &StepContext,
    cluster: &Cluster,
    cancel: &CancellationToken,
    time: Duration,
) -> Result<(), Failure> {
    let progress = |message| cx.progress(message);
    let patience = Patience { deadline: Instant::now() + time, cancel, progress: &progress };
    let there = patience.limit(leftovers(cx, cluster)).await?;
    let there = there.unwrap_or_else(|| Err(Failure::timeout("the probe pods could not be listed in time")))?;
    let namespace = &cx.session.lab.workload.namespace;
    let gone = join_all(there.iter().map(|pod| {
        let (name, api) = (pod.name_any(), cluster.namespaced::<Pod>(namespace));
        let what = format!("probe pod {namespace}/{name}");
        async move { cluster.delete_named(api, &name, &what, &patience).await }
    }));
    gone.await.into_iter().collect()
}

/// Where a probe is made, and of what.
struct Place {
    node: String,
    /// The image of the node's own agent, which is on the node, and its pod.
    agent_image: Option<String>,
    agent: String,
    /// Of the workload, if that is deployed.
    service_account: String,
    program: Program,
}

/// The nodes to ask.
async fn places(cx: &StepContext, cluster: &Cluster) -> Result<Vec<Place>, Failure> {
    let (spire, workload) = (&cx.session.lab.spire, &cx.session.lab.workload);
    let agents = cluster.namespaced::<Pod>(&spire.system_namespace);
    let agents = agents.list(&ListParams::default().labels(names::AGENT_SELECTOR)).await;
    let agents = agents.map_err(|error| api_failure("could not list the agents", &error))?.items;
    let nodes = cluster.all::<Node>().list(&ListParams::default()).await;
    let nodes = nodes.map_err(|error| api_failure("could not list the nodes", &error))?.items;
    let chosen = pod::choose(&agents, &nodes);
    if chosen.is_empty() {
        return Err(Failure::check_failed("no agent runs, so no new pod can be given an SVID")
            .facts(agents.iter().map(describe_pod))
            .next("`coastal logs agent` shows what they say"));
    }
    let program = images::readable_program(cx)?;
    let own: Option<ServiceAccount> = cluster.get(&workload.namespace, &workload.name).await?;
    let service_account = own.map_or_else(|| "default".to_owned(), |own| own.name_any());
    let place = |agent: &Pod| Place {
        node: pod::node_of(agent).unwrap_or_default().to_owned(),
        agent_image: pod::agent_image(agent),
        agent: describe_pod(agent),
        service_account: service_account.clone(),
        program: program.clone(),
    };
    Ok(chosen.into_iter().map(place).collect())
}

/// Makes the probe of a node and waits for its SVID.
async fn probe(cx: &StepContext, cluster: &Cluster, asked: Asked<'_>, place: &Place) -> Result<Proof, Failure> {
    let lab = &cx.session.lab;
    let runs = match place.program {
        Program::Coastal => Runs::Workload,
        Program::AgentWatch(_) => Runs::AgentWatch(place.agent_image.as_deref()),
    };
    let wanted = pod::manifest(lab, asked.purpose, &place.node, &place.service_account, runs)?;
    let name = wanted.name_any();
    let created = Instant::now();
    let api = cluster.namespaced::<Pod>(&lab.workload.namespace);
    api.create(&PostParams::default(), &wanted).await.map_err(|error| not_admitted(&error, &wanted, &place.node))?;
    let deadline = cx.deadline().min(created + lab.timeouts.identity);
    loop {
        let seen = look(cluster, &lab.workload.namespace, &name).await;
        let on = |failure: Failure| seen.explain(failure.context(format!("probe on node {}", place.node)), place);
        let state = match seen.newest() {
            None => seen.state.clone(),
            Some(update) => match judge(update, asked, &lab.spire.trust_domain) {
                Verdict::Good { chained } => {
                    return Ok(proof(update, &name, place, chained, millis(created.elapsed())));
                }
                Verdict::NotYet(why) => why,
                Verdict::Bad(failure) => return Err(on(failure)),
            },
        };
        if let Some(ended) = &seen.ended {
            return Err(on(Failure::tool(format!("the pod ended: {ended}"))));
        }
        if Instant::now() + LOOK > deadline {
            let seconds = created.elapsed().as_secs();
            return Err(on(Failure::timeout(format!("no SVID for a new pod within {seconds} s: {state}")))
                .next("`coastal logs agent` shows what the agents say"));
        }
        cx.progress(format!("probe on {}: {state}", place.node));
        cx.sleep(LOOK).await?;
    }
}

fn proof(update: &Update, pod: &str, place: &Place, chained: bool, took_ms: u64) -> Proof {
    Proof {
        node: place.node.clone(),
        pod: pod.to_owned(),
        spiffe_id: update.spiffe_id.clone(),
        serial: update.serial.clone(),
        issuer_key_id: update.issuer_key_id.clone(),
        chained,
        not_before: update.not_before,
        not_after: update.not_after,
        took_ms,
    }
}

/// A probe and its log at a moment.
struct Seen {
    /// In words.
    state: String,
    /// Why it runs no more: a node that has no room for a pod ends it before it starts.
    ended: Option<String>,
    updates: Vec<Update>,
    last_lines: Vec<String>,
}

async fn look(cluster: &Cluster, namespace: &str, name: &str) -> Seen {
    let (state, ended) = match cluster.get::<Pod>(namespace, name).await {
        // What is up with the API server now need not be so at the next look.
        Err(failure) => (failure.message, None),
        Ok(None) => (format!("{namespace}/{name} is gone"), Some("somebody deleted it".to_owned())),
        Ok(Some(pod)) => (describe_pod(&pod), ended(&pod)),
    };
    let of = LogOf { namespace, pod: name, container: WORKLOAD_CONTAINER, previous: false, since: None };
    // A container that has not started has no log: that is "no SVID yet", not an error.
    let text = cluster.log_text(of).await.map(|log| log.text).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let last = lines.get(lines.len().saturating_sub(5)..).unwrap_or_default();
    let last_lines = last.iter().map(|line| format!("{name} said: {line}")).collect();
    Seen { state, ended, updates: updates_in(&text), last_lines }
}

fn ended(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let phase = status.phase.as_deref().filter(|phase| matches!(*phase, "Failed" | "Succeeded"))?;
    let words = [&status.reason, &status.message].into_iter().flatten().cloned().collect::<Vec<_>>().join(": ");
    Some(if words.is_empty() { phase.to_owned() } else { words })
}

impl Seen {
    /// The default identity of the newest update.
    fn newest(&self) -> Option<&Update> {
        let sequence = self.updates.last()?.sequence;
        self.updates.iter().find(|update| update.sequence == sequence)
    }

    fn explain(&self, failure: Failure, place: &Place) -> Failure {
        failure.fact(self.state.clone()).facts(self.last_lines.clone()).fact(format!("agent {}", place.agent))
    }
}

/// What an SVID is worth.
#[derive(Debug)]
enum Verdict {
    Good { chained: bool },
    NotYet(String),
    Bad(Failure),
}

fn judge(update: &Update, asked: Asked<'_>, trust_domain: &str) -> Verdict {
    if !update.spiffe_id.starts_with(&format!("spiffe://{trust_domain}/")) {
        return Verdict::Bad(Failure::check_failed(format!(
            "a new pod was given {}, which is not of trust domain {trust_domain}",
            update.spiffe_id
        )));
    }
    // Certificates hold whole seconds.
    if (update.not_before + BACKDATE).as_second() < asked.issued_after.as_second() {
        return Verdict::NotYet(format!(
            "its SVID was issued at {:.0}, before {:.0}",
            update.not_before + BACKDATE,
            asked.issued_after
        ));
    }
    let known = || {
        let known: Vec<&str> = asked.authorities.iter().map(String::as_str).collect();
        format!("authorities of the bundle: {}", known.join(", "))
    };
    match (&update.anchor_key_id, update.verified) {
        (_, Some(false)) => Verdict::Bad(Failure::check_failed(
            "the SVID of a new pod does not verify against the bundle that came with it",
        )),
        (Some(anchor), _) if asked.authorities.contains(anchor) => Verdict::Good { chained: true },
        (Some(anchor), _) => Verdict::Bad(
            Failure::check_failed("the SVID of a new pod chains to an authority that is not in the servers' bundle")
                .fact(format!("authority of the SVID: {anchor}"))
                .fact(known()),
        ),
        (None, _) => Verdict::Good { chained: false },
    }
}

/// Why the API server takes no probe, as a user reads it.
fn not_admitted(error: &kube::Error, wanted: &Pod, node: &str) -> Failure {
    let namespace = wanted.namespace().unwrap_or_default();
    let kube::Error::Api(status) = error else { return api_failure("could not make a probe pod", error) };
    let words = &status.message;
    let cannot = |why: &str| {
        Failure::new(Kind::Prerequisite, format!("no probe pod can be made in namespace {namespace}: {why}"))
    };
    if words.contains("violates PodSecurity") {
        cannot("its Pod Security level refuses it")
            .fact(words.clone())
            .next(format!("`kubectl get namespace {namespace} --show-labels` shows the level; the pod needs CSI volumes and is otherwise `restricted`"))
    } else if words.contains("exceeded quota") || words.contains("failed quota") {
        cannot("its quota is used up").fact(words.clone()).next(format!(
            "`kubectl -n {namespace} describe resourcequota`: room for one pod of {} is needed per node",
            pod::CPU
        ))
    } else if status.code == 409 {
        cannot(&format!("{} is there and is not the lab's", wanted.name_any()))
            .next(format!("look at it: `kubectl -n {namespace} get pod {} --show-labels`", wanted.name_any()))
    } else {
        api_failure(&format!("could not make a probe pod on node {node}"), error)
    }
}

/// A probe that will never start. Its image is the workload's; who has not deployed that one yet may lack it.
fn doomed_probe(cx: &StepContext, doom: Failure, asked: Asked<'_>, places: &[Place]) -> Failure {
    if doom.kind == Kind::Interrupted {
        return doom;
    }
    let name = |place: &&Place| pod::name(&cx.session.lab, asked.purpose, &place.node);
    let on = places.iter().find(|place| doom.message.contains(&name(place))).map(|place| place.node.as_str());
    doom.context(format!("probe on node {}", on.unwrap_or("?")))
        .next("`coastal deploy-workload` brings the workload's image, which probes run too, onto the nodes")
}

fn count_of(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
