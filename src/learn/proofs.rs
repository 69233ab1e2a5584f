//! By what each step is known to be done. Nothing here asks who did it.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::Stand;
use crate::checks::{Evidence, Known, There, Verdict, count, judge};
use crate::config::MaliciousSpec;
use crate::kube::{describe_pod, is_ready};
use crate::plan::{Finding, StepId};
use crate::spire::audit::Rule;
use crate::spire::names;
use crate::tools::helm::ReleaseStatus;

/// Works if every named check passes; else broken, with what they say.
fn by_checks(evidence: &Evidence, checks: &[&str], proof: impl Into<String>) -> Known<Stand> {
    let mut wrong = Vec::new();
    for id in checks {
        match judge(id, evidence)? {
            Verdict::Passed(_) | Verdict::Skipped(_) => {}
            Verdict::Failed(problem) => wrong.push((problem.message, problem.facts)),
        }
    }
    match wrong.split_first() {
        None => Ok(Stand::Works(proof.into())),
        Some(((message, _), _)) => {
            let facts = wrong.iter().flat_map(|(message, facts)| std::iter::once(message).chain(facts)).skip(1);
            Ok(Stand::Broken(message.clone(), facts.cloned().collect()))
        }
    }
}

#[expect(clippy::unnecessary_wraps, reason = "it ends a proof, which may also not know")]
fn missing(what: impl Into<String>) -> Known<Stand> {
    Ok(Stand::Missing(what.into()))
}

/// Without a cluster nothing inside it is there: that is no riddle.
fn is_running(evidence: &Evidence) -> Known<bool> {
    Ok(*evidence.there.as_ref()? == There::Running)
}

/// Pods of the namespace whose names begin so: those that are ready, and what the others say. Ended ones do not count.
fn pods(evidence: &Evidence, namespace: &str, prefix: &str) -> Known<(usize, Vec<String>)> {
    let ended = |pod: &Pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    };
    let of = evidence.pods.as_ref()?.iter().filter(|pod| {
        pod.namespace().as_deref() == Some(namespace) && pod.name_any().starts_with(prefix) && !ended(pod)
    });
    let (ready, others): (Vec<&Pod>, Vec<&Pod>) = of.partition(|pod| is_ready(pod));
    Ok((ready.len(), others.into_iter().map(describe_pod).collect()))
}

pub(super) fn cluster(evidence: &Evidence) -> Known<Stand> {
    match evidence.there.as_ref()? {
        There::Absent => return missing("there is no cluster"),
        There::HalfMade => {
            return Ok(Stand::Broken("the cluster is half-made: a run was interrupted".into(), Vec::new()));
        }
        There::Running => {}
    }
    let mut without = Vec::new();
    let addons = [
        ("cert-manager", "cert-manager", evidence.lab.cert_manager.is_some()),
        ("contour", "projectcontour", evidence.lab.contour.is_some()),
    ];
    for (name, namespace, wanted) in addons {
        let (ready, others) = pods(evidence, namespace, "")?;
        if wanted && (ready == 0 || !others.is_empty()) {
            without.push(if others.is_empty() { format!("{name} is not there") } else { others.join(", ") });
        }
    }
    if let Some(first) = without.first() {
        return Ok(Stand::Broken(first.clone(), without[1..].to_vec()));
    }
    let checks = ["cluster-version", "cluster-nodes", "cluster-pressure", "cluster-storage-class"];
    by_checks(evidence, &checks, format!("{} is up, with its add-ons", evidence.lab.cluster.context()))
}

pub(super) fn repos(evidence: &Evidence) -> Known<Stand> {
    if !is_running(evidence)? {
        return missing("do step cluster first");
    }
    let steps = evidence.drift.as_ref()?;
    match steps.iter().find(|(step, _)| *step == StepId::Repos) {
        None => Ok(Stand::Works("every chart of this lab is a file: no repository is needed".into())),
        Some((_, Finding::Satisfied(proof))) => Ok(Stand::Works(proof.clone())),
        Some((_, other)) => missing(other.detail()),
    }
}

pub(super) fn prometheus(evidence: &Evidence) -> Known<Stand> {
    let Some(monitoring) = &evidence.lab.monitoring else {
        return Ok(Stand::Works("monitoring is switched off in this lab".into()));
    };
    if !is_running(evidence)? {
        return missing("do step cluster first");
    }
    let release = evidence.releases.as_ref()?.iter().find(|release| release.name == monitoring.release);
    let Some(release) = release else { return missing(format!("there is no release {}", monitoring.release)) };
    if release.status != ReleaseStatus::Deployed {
        return Ok(Stand::Broken(format!("release {} is {}", release.name, release.status), Vec::new()));
    }
    let mut wrong = Vec::new();
    for prefix in [format!("{}-grafana", release.name), format!("prometheus-{}", release.name)] {
        let (ready, others) = pods(evidence, &monitoring.namespace, &prefix)?;
        if ready == 0 {
            wrong.push(format!("no pod {prefix}-… is ready"));
            wrong.extend(others);
        }
    }
    match wrong.split_first() {
        None => Ok(Stand::Works(format!("{}, Prometheus and Grafana are ready", release.chart))),
        Some((first, rest)) => Ok(Stand::Broken(first.clone(), rest.to_vec())),
    }
}

pub(super) fn namespaces(evidence: &Evidence) -> Known<Stand> {
    if !is_running(evidence)? {
        return missing("do step cluster first");
    }
    let spire = &evidence.lab.spire;
    let there: Vec<String> = evidence.namespaces.as_ref()?.iter().map(ResourceExt::name_any).collect();
    for name in [&spire.server_namespace, &spire.system_namespace] {
        if !there.contains(name) {
            return missing(format!("there is no namespace {name}"));
        }
    }
    // As the lab's text makes them they have no levels; that is worth a remark and no fault.
    Ok(Stand::Works(match judge("cluster-pod-security", evidence)? {
        Verdict::Failed(problem) => format!("both are there ({})", problem.message),
        _ => "both are there, with their Pod Security levels".into(),
    }))
}

pub(super) fn database(evidence: &Evidence) -> Known<Stand> {
    if !is_running(evidence)? {
        return missing("do step cluster first");
    }
    let (ready, others) = pods(evidence, &evidence.lab.spire.server_namespace, "spire-db-")?;
    if ready == 0 && others.is_empty() {
        return missing("there is no pod spire-db-0");
    }
    by_checks(evidence, &["lab-database"], "PostgreSQL accepts SPIRE's login")
}

pub(super) fn spire(evidence: &Evidence) -> Known<Stand> {
    if !is_running(evidence)? {
        return missing("do step cluster first");
    }
    let spire = &evidence.lab.spire;
    if !evidence.releases.as_ref()?.iter().any(|release| release.name == spire.release) {
        return missing(format!("there is no release {}", spire.release));
    }
    if evidence.live.as_ref()?.servers.is_empty() {
        return Ok(Stand::Broken("there is a release, and no server".into(), Vec::new()));
    }
    let checks = ["lab-pending-release", "spire-servers", "spire-agents", "spire-agents-attested", "spire-csi-driver"];
    let live = evidence.live.as_ref()?;
    let versions: Vec<String> = live.server_versions().iter().map(ToString::to_string).collect();
    let (servers, agents) = (count(live.servers.len(), "server"), count(live.agents.len(), "agent"));
    by_checks(evidence, &checks, format!("{servers} ({}) and {agents}, attested", versions.join(", ")))
}

pub(super) fn grafana(evidence: &Evidence) -> Known<Stand> {
    Ok(Stand::Look(matches!(prometheus(evidence)?, Stand::Works(_)) && evidence.lab.monitoring.is_some()))
}

pub(super) fn monitors(evidence: &Evidence) -> Known<Stand> {
    if !is_running(evidence)? {
        return missing("do step cluster first");
    }
    Ok(match judge("lab-monitors", evidence)? {
        Verdict::Passed(proof) | Verdict::Skipped(proof) => Stand::Works(proof),
        Verdict::Failed(problem) => Stand::Missing(problem.message),
    })
}

pub(super) fn workload(evidence: &Evidence) -> Known<Stand> {
    if !is_running(evidence)? {
        return missing("do step cluster first");
    }
    let svids = evidence.svids.as_ref()?;
    if svids.is_empty() {
        return missing("no workload pod is there");
    }
    // A workload of the student's own may log certificates only; that it has an entry is then all that can be seen.
    if svids.iter().all(|svid| svid.update.is_none()) {
        let workload = &evidence.lab.workload;
        let (ready, others) = pods(evidence, &workload.namespace, &workload.name)?;
        let audit = &evidence.audited.as_ref()?.audit;
        let nameless = audit.findings.iter().filter(|finding| finding.rule == Rule::PodWithoutEntry).count();
        if ready >= workload.replicas as usize && others.is_empty() && nameless == 0 {
            let id = names::workload_id(&evidence.lab.spire.trust_domain, &workload.namespace, &workload.name);
            return Ok(Stand::Works(format!("{ready} pods run, each with an entry of {id}; their logs tell no more")));
        }
    }
    by_checks(evidence, &["lab-workload"], format!("{} hold valid SVIDs", count(svids.len(), "pod")))
}

pub(super) fn tornjak(evidence: &Evidence) -> Known<Stand> {
    let name = names::tornjak_frontend(&evidence.lab.spire);
    let (ready, _) = if is_running(evidence)? {
        pods(evidence, &evidence.lab.spire.server_namespace, &name)?
    } else {
        (0, Vec::new())
    };
    Ok(Stand::Look(ready > 0))
}

/// The version with which the lab begins, chart 0.13.0's.
const BEGINS_WITH: semver::Version = semver::Version::new(1, 7, 2);

pub(super) fn upgrade(evidence: &Evidence) -> Known<Stand> {
    if !matches!(spire(evidence)?, Stand::Works(_)) {
        return missing("do step spire first");
    }
    let live = evidence.live.as_ref()?;
    let versions: Vec<String> = live.server_versions().iter().map(ToString::to_string).collect();
    // The database keeps the newest version that ever wrote to it.
    let written: semver::Version = match evidence.row.as_ref()?.1.parse() {
        Ok(version) => version,
        Err(_) => return Err("the database does not tell by which version it was written".into()),
    };
    if written <= BEGINS_WITH {
        return missing(format!("SPIRE has always been {}", versions.join(", ")));
    }
    let now = versions.join(", ");
    by_checks(evidence, &["spire-skew", "spire-schema"], format!("SPIRE {written} has run here; now {now} does"))
}

pub(super) fn disaster(evidence: &Evidence) -> Known<Stand> {
    if !is_running(evidence)? {
        return missing("do step spire first");
    }
    let installed = evidence.releases.as_ref()?.iter().any(|release| release.name == evidence.lab.spire.release);
    if installed && evidence.server_set.as_ref()?.is_none() {
        let message = "the servers are gone: this is the disaster; bring them back";
        return Ok(Stand::Broken(message.into(), Vec::new()));
    }
    if !matches!(spire(evidence)?, Stand::Works(_)) {
        return missing("do step spire first");
    }
    Ok(Stand::Traceless("servers that were brought back look like servers that never went".into()))
}

pub(super) fn compromise(evidence: &Evidence) -> Known<Stand> {
    if !is_running(evidence)? {
        return missing("do step spire first");
    }
    let (ready, others) = pods(evidence, MaliciousSpec::NAMESPACE, "")?;
    if ready + others.len() > 0 {
        return Ok(Stand::Broken("the pirate ship is in the bay: find it, and cut it off".into(), Vec::new()));
    }
    if !matches!(spire(evidence)?, Stand::Works(_)) {
        return missing("do step spire first");
    }
    by_checks(evidence, &["lab-allow-list"], "").map(|stand| match stand {
        Stand::Works(_) => Stand::Traceless("the coast is clear".into()),
        other => other,
    })
}

pub(super) fn cleanup(evidence: &Evidence) -> Known<Stand> {
    Ok(match evidence.there.as_ref()? {
        There::Absent => Stand::Missing("there is nothing to clean up".into()),
        There::HalfMade | There::Running => Stand::Missing("the cluster is still there".into()),
    })
}
