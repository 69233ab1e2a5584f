//! What each plane is seen to be, and what is lost there. Pure.

use semver::Version;

use super::diagnosis::{Condition, Plane, Row, distrust};
use super::facts::{Facts, PodState, Workload};
use super::loss::{Database, JournalPlace, Keys, Loss, reaction};

pub(super) fn row(plane: Plane, condition: Condition, seen: impl Into<String>) -> Row {
    Row { plane, condition, seen: seen.into() }
}

pub(super) fn nodes(facts: &Facts) -> Row {
    let ready = facts.nodes.iter().filter(|node| node.ready && !node.stopped).count();
    let all = format!("{ready} of {} ready", facts.nodes.len());
    match facts.nodes.iter().find(|node| node.stopped || (facts.reached && !node.ready)) {
        None => row(Plane::Nodes, Condition::Sound, all),
        Some(node) if node.stopped => row(Plane::Nodes, Condition::Broken, format!("{all}; {} is stopped", node.name)),
        Some(node) => row(Plane::Nodes, Condition::Coming, format!("{all}; {} is not ready", node.name)),
    }
}

pub(super) fn database(facts: &Facts, loss: Loss) -> Row {
    let (condition, seen) = match (&facts.database.silent, &facts.database.row, loss.database) {
        (Some(why), ..) => (Condition::Broken, why.clone()),
        (None, None, _) => (Condition::Lost, "it answers and is empty: SPIRE's tables are not there".to_owned()),
        (None, Some((schema, _)), Database::Lost) if facts.database.bundle == Some(false) => {
            (Condition::Lost, format!("it was begun anew (schema {schema}), and there is no bundle in it"))
        }
        (None, Some((schema, _)), Database::Lost) => {
            (Condition::Lost, format!("it was begun anew (schema {schema}): no workload knows any of its authorities"))
        }
        (None, Some((schema, code)), Database::Older) => (
            Condition::Lost,
            format!("it is older than what workloads hold (schema {schema}, written by SPIRE {code})"),
        ),
        (None, Some((schema, code)), Database::Kept) => {
            (Condition::Sound, format!("schema {schema}, written by SPIRE {code}"))
        }
    };
    row(Plane::Database, condition, seen)
}

pub(super) fn entries(facts: &Facts, loss: Loss) -> Row {
    let (condition, seen) = match (facts.entries, loss.database) {
        (_, Database::Lost) => {
            (Condition::Lost, "those made by hand are gone; the controller manager makes its own again".to_owned())
        }
        (_, Database::Older) => (Condition::Lost, "those made by hand since the backup are gone".to_owned()),
        (Some(count), Database::Kept) => (Condition::Sound, format!("{count} registered")),
        (None, Database::Kept) => (Condition::Unknown, "no server tells".to_owned()),
    };
    row(Plane::Entries, condition, seen)
}

pub(super) fn keys(facts: &Facts, loss: Loss) -> Row {
    let (wanted, missing) = (facts.servers.wanted, &facts.servers.claims_missing);
    let there = wanted.saturating_sub(missing.len());
    match (missing.first(), loss.keys) {
        (Some(first), _) => {
            row(Plane::Keys, Condition::Lost, format!("{there} of {wanted} claims are there; {first} is not"))
        }
        (None, Keys::Lost) => {
            row(Plane::Keys, Condition::Lost, "the claims are younger than the authorities: their keys were lost")
        }
        (None, Keys::Kept) => row(Plane::Keys, Condition::Sound, format!("{there} of {wanted} claims")),
    }
}

pub(super) fn journal(version: Option<&Version>, loss: Loss) -> Row {
    let Some(version) = version else { return row(Plane::Journal, Condition::Unknown, "the version is not known") };
    let place = JournalPlace::of(version);
    let seen = match place {
        JournalPlace::Disk => "journal.pem, beside the keys",
        JournalPlace::Both => "in the database, and journal.pem beside the keys",
        JournalPlace::Database => "in the database",
    };
    let condition = if place.survives(loss) { Condition::Sound } else { Condition::Lost };
    row(Plane::Journal, condition, seen)
}

pub(super) fn bundle(facts: &Facts, loss: Loss) -> Row {
    match (&facts.bundle, loss.database, loss.keys) {
        (Some(bundle), Database::Kept, Keys::Kept) => {
            row(Plane::Bundle, Condition::Sound, format!("{} X.509 authorities", bundle.len()))
        }
        (None, Database::Kept, Keys::Kept) => row(Plane::Bundle, Condition::Unknown, "no server tells"),
        (_, Database::Lost, _) => row(Plane::Bundle, Condition::Lost, "it begins anew"),
        (_, Database::Older, _) => row(Plane::Bundle, Condition::Lost, "it is that of the backup"),
        (_, Database::Kept, Keys::Lost) => row(
            Plane::Bundle,
            Condition::Sound,
            "kept; new authorities join it, and the old ones stay until they expire",
        ),
    }
}

pub(super) fn release(facts: &Facts) -> Row {
    match &facts.release {
        None => row(Plane::Release, Condition::Broken, "there is none"),
        Some(release) if !release.deployed => {
            row(Plane::Release, Condition::Broken, format!("revision {} is {}", release.revision, release.status))
        }
        Some(release) => match wrong_version(facts) {
            Some(wrong) => row(Plane::Release, Condition::Broken, wrong),
            None => row(Plane::Release, Condition::Sound, format!("revision {} is deployed", release.revision)),
        },
    }
}

/// A template that asks for another version than the current one.
pub(super) fn wrong_version(facts: &Facts) -> Option<String> {
    let current = facts.current.as_ref()?;
    let off = |what: &str, asks: Option<&Version>, wanted: &Version| {
        let asks = asks.filter(|asks| *asks != wanted)?;
        Some(format!("its {what} are to be {asks}, and {wanted} is what the database and the others are at"))
    };
    off("servers", facts.servers.template.as_ref(), &current.server)
        .or_else(|| off("agents", facts.agents.template.as_ref(), &current.agent))
}

pub(super) fn servers(facts: &Facts) -> Row {
    let servers = &facts.servers;
    let serving = servers.pods.iter().filter(|pod| pod.state.serves()).count();
    let mut seen = vec![format!("{serving} of {} serve", servers.wanted)];
    if !servers.there {
        seen.push("their StatefulSet is not there".to_owned());
        return row(Plane::Servers, Condition::Broken, seen.join("; "));
    }
    let broken = servers.pods.iter().find(|pod| matches!(pod.state, PodState::Broken(_)));
    if let Some(pod) = broken.or_else(|| servers.pods.iter().find(|pod| !pod.state.serves())) {
        seen.push(format!("{}: {}", pod.name, pod.state.words().unwrap_or_default()));
        if pod.outdated && broken.is_some() {
            seen.push("it is of an older template, and the StatefulSet would wait for it for ever".to_owned());
        }
    }
    let condition = if broken.is_some() || servers.asked != servers.wanted {
        Condition::Broken
    } else if serving < servers.wanted {
        Condition::Coming
    } else {
        Condition::Sound
    };
    if servers.asked != servers.wanted {
        seen.push(format!("the StatefulSet asks for {}", servers.asked));
    }
    row(Plane::Servers, condition, seen.join("; "))
}

pub(super) fn webhook(facts: &Facts) -> Row {
    match &facts.webhook {
        None => row(Plane::Webhook, Condition::Sound, "a ClusterSPIFFEID can be written"),
        Some(why) => row(Plane::Webhook, Condition::Broken, why.clone()),
    }
}

pub(super) fn agents(facts: &Facts) -> Row {
    let agents = &facts.agents;
    let serving = agents.pods.iter().filter(|pod| pod.state.serves()).count();
    let all = format!("{serving} of {} serve the Workload API", agents.wanted.max(agents.pods.len()));
    if !agents.there {
        return row(Plane::Agents, Condition::Broken, format!("{all}; their DaemonSet is not there"));
    }
    let broken = agents.pods.iter().find(|pod| matches!(pod.state, PodState::Broken(_)));
    match broken.or_else(|| agents.pods.iter().find(|pod| !pod.state.serves())) {
        Some(pod) => {
            let condition = if broken.is_some() { Condition::Broken } else { Condition::Coming };
            row(Plane::Agents, condition, format!("{all}; {}: {}", pod.name, pod.state.words().unwrap_or_default()))
        }
        None if agents.pods.len() < agents.wanted.max(1) => row(Plane::Agents, Condition::Coming, all),
        None => row(Plane::Agents, Condition::Sound, all),
    }
}

pub(super) fn agents_trust(facts: &Facts) -> Row {
    let chart = facts.current.as_ref().and_then(|current| current.chart.as_ref());
    for agent in &facts.agents.pods {
        if let Some(why) = distrust(facts, agent) {
            let version = agent.version.as_ref().or(facts.agents.template.as_ref());
            let then = version.map_or("", |version| reaction(version, chart).words());
            return row(Plane::AgentsTrust, Condition::Broken, format!("{}: {why}; {then}", agent.name));
        }
    }
    let Some(bundle) = &facts.bundle else {
        return row(Plane::AgentsTrust, Condition::Unknown, "no server to trust");
    };
    match facts.agents.pods.iter().find(|agent| agent.state.serves() && agent.attested == Some(false)) {
        Some(agent) => {
            row(Plane::AgentsTrust, Condition::Coming, format!("the servers have no record of {} yet", agent.name))
        }
        None => {
            row(Plane::AgentsTrust, Condition::Sound, format!("none complains of the {} authorities", bundle.len()))
        }
    }
}

/// Why a workload pod is not as it should be.
#[must_use]
pub fn trouble(facts: &Facts, workload: &Workload) -> Option<(Condition, String)> {
    let Some(held) = &workload.held else {
        return Some((Condition::Coming, format!("{} has no SVID yet", workload.name)));
    };
    if held.not_after <= facts.at {
        return Some((Condition::Broken, format!("the SVID of {} expired at {:.0}", workload.name, held.not_after)));
    }
    let bundle = facts.bundle_ids()?;
    match &held.anchor {
        Some(anchor) if !bundle.contains(anchor) => Some((
            Condition::Broken,
            format!("{} holds an SVID of an authority that is trusted no more", workload.name),
        )),
        _ if !held.bundle.is_empty() && held.bundle.is_disjoint(&bundle) => {
            Some((Condition::Broken, format!("{} trusts nothing that the servers sign with", workload.name)))
        }
        _ => None,
    }
}

/// How the workloads are.
#[must_use]
pub fn workloads(facts: &Facts) -> Row {
    if facts.workloads_wanted == 0 {
        return row(Plane::WorkloadsTrust, Condition::Sound, "the lab's workload is not deployed");
    }
    let troubles: Vec<_> = facts.workloads.iter().filter_map(|workload| trouble(facts, workload)).collect();
    let good = facts.workloads.len() - troubles.len();
    let all = format!("{good} of {} hold a valid SVID", facts.workloads_wanted);
    let worst = troubles.iter().find(|(condition, _)| *condition == Condition::Broken).or_else(|| troubles.first());
    match worst {
        Some((condition, words)) => row(Plane::WorkloadsTrust, *condition, format!("{all}; {words}")),
        None if good < facts.workloads_wanted => row(Plane::WorkloadsTrust, Condition::Coming, all),
        None => row(Plane::WorkloadsTrust, Condition::Sound, all),
    }
}
