//! How a rendered release has to be, so that no identity is lost by it.

use std::collections::BTreeSet;

use semver::Version;
use serde_json::Value;

use super::Rendered;
use super::objects::title;
use crate::config::{Lab, PullPolicy};
use crate::spire::names;
use crate::spire::values::lines::{HOLDS_AGENTS, Line};
use crate::spire::values::{Images, Phase};

/// Everything that is not as it has to be, one sentence each; nothing: the release may be installed.
#[must_use]
pub fn mismatches(lab: &Lab, chart: &Version, images: &Images, phase: Phase, rendered: &Rendered) -> Vec<String> {
    let mut found = Vec::new();
    versions(images, rendered, &mut found);
    servers(lab, rendered, &mut found);
    agents(lab, rendered, &mut found);
    bundle(rendered, &mut found);
    identities(lab, rendered, &mut found);
    pulls(lab, rendered, &mut found);
    held(Line::from(chart), phase, rendered, &mut found);
    found.extend(rendered.refused_pods.iter().cloned());
    found
}

fn versions(images: &Images, rendered: &Rendered, found: &mut Vec<String>) {
    for (who, image, wanted) in
        [("servers", &rendered.server_image, &images.server), ("agents", &rendered.agent_image, &images.agent)]
    {
        if tag(image) != Some(wanted.to_string().as_str()) {
            found.push(format!("the {who} would run the image {image}, not {wanted}"));
        }
    }
}

/// The tag of an image, if it has one; a digest behind it does not count.
fn tag(image: &str) -> Option<&str> {
    let named = image.split('@').next().unwrap_or(image);
    let last = named.rsplit('/').next().unwrap_or(named);
    last.split_once(':').map(|(_, tag)| tag)
}

fn servers(lab: &Lab, rendered: &Rendered, found: &mut Vec<String>) {
    let wanted = lab.spire.servers;
    if rendered.servers != u64::from(wanted) {
        found.push(format!("there would be {} servers, not {wanted}", rendered.servers));
    }
    for (who, domain) in [("servers", &rendered.server_trust_domain), ("agents", &rendered.agent_trust_domain)] {
        if *domain != lab.spire.trust_domain {
            found.push(format!("the {who} would be of trust domain {domain}, not {}", lab.spire.trust_domain));
        }
    }
}

fn agents(lab: &Lab, rendered: &Rendered, found: &mut Vec<String>) {
    if rendered.agents_dial_port != rendered.service_port {
        found.push(format!(
            "agents would dial port {}, but the servers' Service would serve {}",
            rendered.agents_dial_port, rendered.service_port
        ));
    }
    let host = format!("{}.{}", names::server(&lab.spire), lab.spire.server_namespace);
    if rendered.agents_dial != host && !rendered.agents_dial.starts_with(&format!("{host}.")) {
        found.push(format!("agents would dial {}, not {host}", rendered.agents_dial));
    }
    if !rendered.attestable.contains(&rendered.agent_account) {
        found.push(format!(
            "agents would attest as {}, but the servers would let in only {}",
            rendered.agent_account,
            rendered.attestable.join(", ")
        ));
    }
}

fn bundle(rendered: &Rendered, found: &mut Vec<String>) {
    let read = &rendered.bundle_read;
    let Some(written) = &rendered.bundle_written else {
        found.push(format!("agents would read the trust bundle from {read}, and no server would write it"));
        return;
    };
    if written != read {
        found.push(format!("servers would write the trust bundle to {written}, but agents read it from {read}"));
    }
    let place = (written.namespace.clone(), written.config_map.clone());
    if !rendered.bundle_roles.contains(&place) {
        found.push(format!("no Role would let the servers write ConfigMap {}/{}", place.0, place.1));
    }
}

fn identities(lab: &Lab, rendered: &Rendered, found: &mut Vec<String>) {
    // The release's own namespace is what charts leave out from 0.17.0 on.
    let namespaces = BTreeSet::from([&lab.workload.namespace, &lab.spire.release_namespace]);
    for namespace in namespaces {
        let heeds = &rendered.heeds;
        if heeds.ignored_namespaces.contains(namespace) {
            found.push(format!("the controller manager would ignore the namespace {namespace}"));
        } else if !rendered.identities.iter().any(|one| heeds.covers(one) && one.reaches_all_of(namespace)) {
            found.push(format!("no ClusterSPIFFEID would give the pods of the namespace {namespace} an identity"));
        }
    }
    let template = "spiffe://{{ .TrustDomain }}/ns/{{ .PodMeta.Namespace }}/sa/{{ .PodSpec.ServiceAccountName }}";
    let default = rendered.identities.iter().filter(|one| one.reaches_all_of(&lab.workload.namespace));
    for identity in default.filter(|identity| identity.template != template) {
        found.push(format!(
            "ClusterSPIFFEID {} would give every pod the identity {}, not {template}",
            identity.name, identity.template
        ));
    }
}

fn pulls(lab: &Lab, rendered: &Rendered, found: &mut Vec<String>) {
    if lab.images.pull == PullPolicy::Always {
        return;
    }
    for image in &rendered.images {
        let always = match image.pull_policy.as_deref() {
            Some(policy) => policy == "Always",
            // Kubernetes' default, which heeds the word `latest` even beside a digest.
            None => tag(&image.image).map_or(!image.image.contains('@'), |tag| tag == "latest"),
        };
        if always {
            found.push(format!("{} would pull {} at every start", image.user, image.image));
        }
    }
}

fn held(line: Line, phase: Phase, rendered: &Rendered, found: &mut Vec<String>) {
    let wanted = phase == Phase::Servers && line >= HOLDS_AGENTS;
    if rendered.agents_held && !wanted {
        found.push("agents would never be replaced: their update strategy is OnDelete".into());
    }
    if wanted && !rendered.agents_held {
        found.push("agents would be replaced while the servers still move".into());
    }
    if phase == Phase::Servers {
        found.extend(rendered.hook_jobs.iter().map(|job| format!("helm would wait for {job} while the servers move")));
    }
}

/// What Kubernetes lets nobody change in a StatefulSet, DaemonSet or Deployment, and what differs in it between the
/// live object and the rendered one. Where there is something, the live object must be deleted first.
#[must_use]
pub fn immutable_changes(live: &Value, rendered: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let name = title(rendered);
    let labels = |object: &Value| object["spec"]["selector"]["matchLabels"].clone();
    if labels(live) != labels(rendered) {
        found.push(format!("{name}: the selector is {} and would be {}", labels(live), labels(rendered)));
    }
    if rendered["kind"] == "StatefulSet" {
        for (field, default) in [("serviceName", ""), ("podManagementPolicy", "OrderedReady")] {
            let word = |object: &Value| object["spec"][field].as_str().unwrap_or(default).to_owned();
            if word(live) != word(rendered) {
                found.push(format!("{name}: {field} is {} and would be {}", word(live), word(rendered)));
            }
        }
        let claims = |object: &Value| {
            let templates = object["spec"]["volumeClaimTemplates"].as_array().into_iter().flatten();
            let mut claims: Vec<String> = templates
                .map(|claim| {
                    let size = claim.pointer("/spec/resources/requests/storage").unwrap_or(&Value::Null);
                    format!("{} ({})", claim["metadata"]["name"].as_str().unwrap_or("?"), size.as_str().unwrap_or("?"))
                })
                .collect();
            claims.sort();
            claims.join(", ")
        };
        if claims(live) != claims(rendered) {
            found.push(format!("{name}: its claims are {} and would be {}", claims(live), claims(rendered)));
        }
    }
    found
}
