//! The controller manager: what `ClusterSPIFFEID`s make of the pods (facts, section 7).

use std::collections::BTreeSet;

use jiff::SignedDuration;
use serde_json::Value;

use super::config::Manager;
use super::{Entry, Pass, Server, Spire};
use crate::rehearsal::api::select;
use crate::rehearsal::identity::uid_from;
use crate::rehearsal::object::text;
use crate::rehearsal::pods;
use crate::rehearsal::store::Key;

/// It makes a pod's entry so long after the pod (facts, section 9).
pub(super) const ENTRY_DELAY: SignedDuration = SignedDuration::from_secs(1);

impl Spire {
    /// One entry per pod that an identity selects. Whoever leads is the manager beside the server that is up longest,
    /// and it does as it was told when it started.
    pub(super) fn entries(&mut self, pass: &mut Pass<'_>) {
        let all = pass.pods.clone();
        let up = pass.up.iter().filter_map(|life| self.servers.get(life));
        let Some(leader) = up.min_by_key(|server| server.up_since).cloned() else { return };
        let manager = &leader.settings.manager;
        let identities = pass.store.list_shared("spire.spiffe.io/v1alpha1", "ClusterSPIFFEID", None);
        // Each with what an entry remembers of where it comes from.
        let identities: Vec<(&Value, String)> = identities
            .iter()
            .filter(|identity| manager.minds(identity))
            .map(|identity| {
                (
                    &**identity,
                    format!("{} {} {}", pods::uid(identity), identity["metadata"]["generation"], manager.prefix),
                )
            })
            .collect();
        let mut wanted = BTreeSet::new();
        for pod in &all {
            let (namespace, node) = (pods::namespace(pod), text(pod, "/spec/nodeName"));
            if node.is_empty() || manager.ignored.iter().any(|ignored| ignored == namespace) {
                continue;
            }
            let home = pass.store.shared(&Key::new("v1", "Namespace", "", namespace)).unwrap_or_default();
            let selecting = |fallback: bool| {
                identities.iter().find(|(identity, _)| {
                    (identity["spec"]["fallback"] == true) == fallback && selects(identity, &home, pod)
                })
            };
            let Some((identity, origin)) = selecting(false).or_else(|| selecting(true)) else { continue };
            let uid = pods::uid(pod).to_owned();
            let Some(database) = self.databases.get_mut(&leader.database) else { return };
            let old = database.entries.get_mut(&uid);
            if old.as_ref().is_none_or(|old| old.origin != *origin) {
                let seen = *self.since.entry(format!("{uid}/entry")).or_insert(pass.now);
                let Some(node) = pass.store.shared(&Key::new("v1", "Node", "", node)) else { continue };
                let entry = Entry { origin: origin.clone(), created: pass.now, ..entry(&leader, identity, pod, &node) };
                match old {
                    None if !pass.due(seen + ENTRY_DELAY) => continue,
                    // Another id is another entry; all else is changed in place.
                    Some(old) if old.id == entry.id => *old = Entry { created: old.created, ..entry },
                    _ => drop(database.entries.insert(uid.clone(), entry)),
                }
            }
            wanted.insert(uid);
        }
        if let Some(database) = self.databases.get_mut(&leader.database) {
            database.entries.retain(|uid, _| wanted.contains(uid));
        }
    }
}

impl Manager {
    /// Whether it looks at an identity: one of its class, or any if it has none.
    fn minds(&self, identity: &Value) -> bool {
        match (&self.class, text(identity, "/spec/className")) {
            (None, _) => true,
            (Some(_), "") => self.classless,
            (Some(class), other) => class == other,
        }
    }
}

fn selects(identity: &Value, namespace: &Value, pod: &Value) -> bool {
    let by = |selector: &str, of: &Value| {
        identity["spec"].get(selector).is_none_or(|selector| select::selects(selector, of))
    };
    by("namespaceSelector", namespace) && by("podSelector", pod)
}

fn entry(leader: &Server, identity: &Value, pod: &Value, node: &Value) -> Entry {
    let settings = &leader.settings;
    let account = Some(text(pod, "/spec/serviceAccountName")).filter(|name| !name.is_empty()).unwrap_or("default");
    let id = [
        ("{{ .TrustDomain }}", settings.trust_domain.as_str()),
        ("{{ .ClusterName }}", &settings.cluster),
        ("{{ .PodMeta.Namespace }}", pods::namespace(pod)),
        ("{{ .PodMeta.Name }}", pods::name(pod)),
        ("{{ .PodSpec.ServiceAccountName }}", account),
    ]
    .into_iter()
    .fold(text(identity, "/spec/spiffeIDTemplate").to_owned(), |id, (field, value)| id.replace(field, value));
    let path = id.trim_start_matches("spiffe://").trim_start_matches(settings.trust_domain.as_str()).to_owned();
    Entry {
        id: format!("{}{}", settings.manager.prefix, uid_from(&format!("entry {} {path}", pods::uid(pod)))),
        path,
        parent: super::agent::path(&settings.cluster, node),
        hint: text(identity, "/spec/hint").to_owned(),
        origin: String::new(),
        created: jiff::Timestamp::UNIX_EPOCH,
    }
}
