//! How the lines of the chart `spire` differ in what they call a value and in what they need said: from 0.13, whose
//! names our own values have, to 0.30. Found by rendering our values on every chart from 0.13.0 to 0.30.0 and by
//! reading the charts' values and templates.

use std::fmt;

use semver::Version;
use serde_json::{Value, json};

use super::path;

/// A chart version without what follows its three numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Line(pub u64, pub u64, pub u64);

impl From<&Version> for Line {
    fn from(version: &Version) -> Self {
        Line(version.major, version.minor, version.patch)
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// The first chart with `image.tag`, by which versions are pinned. An older chart would install its own version.
pub const OLDEST: Line = Line(0, 8, 0);

/// A key that got another name. Of a values file that has the one name, a chart that knows only the other is given
/// that. Some charts fail at the name they do not know, others ignore it without a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renamed {
    /// The first chart with the new name.
    pub since: Line,
    /// Path of the name until then.
    pub old: &'static str,
    /// Path of the name from then on.
    pub new: &'static str,
    /// Whether charts before `since` know only the old name; else they know both.
    pub both_ways: bool,
}

const fn renamed(since: Line, old: &'static str, new: &'static str) -> Renamed {
    Renamed { since, old, new, both_ways: true }
}

const fn superseded(since: Line, old: &'static str, new: &'static str) -> Renamed {
    Renamed { since, old, new, both_ways: false }
}

/// In order of `since`; a path is as the renamings before have made it.
pub const RENAMED: &[Renamed] = &[
    // 0.16: several identities, each with a name. The old keys are ignored there.
    renamed(
        Line(0, 16, 0),
        "spire-server.controllerManager.identities.enabled",
        "spire-server.controllerManager.identities.clusterSPIFFEIDs.default.enabled",
    ),
    renamed(
        Line(0, 16, 0),
        "spire-server.controllerManager.identities.spiffeIDTemplate",
        "spire-server.controllerManager.identities.clusterSPIFFEIDs.default.spiffeIDTemplate",
    ),
    renamed(
        Line(0, 16, 0),
        "spire-server.controllerManager.identities.podSelector",
        "spire-server.controllerManager.identities.clusterSPIFFEIDs.default.podSelector",
    ),
    renamed(
        Line(0, 16, 0),
        "spire-server.controllerManager.identities.namespaceSelector",
        "spire-server.controllerManager.identities.clusterSPIFFEIDs.default.namespaceSelector",
    ),
    renamed(
        Line(0, 16, 0),
        "spire-server.controllerManager.identities.dnsNameTemplates",
        "spire-server.controllerManager.identities.clusterSPIFFEIDs.default.dnsNameTemplates",
    ),
    renamed(
        Line(0, 16, 0),
        "spire-server.controllerManager.identities.federatesWith",
        "spire-server.controllerManager.identities.clusterSPIFFEIDs.default.federatesWith",
    ),
    // 0.17: `version` is ignored from here on; 0.8 to 0.16 know both.
    superseded(
        Line(0, 17, 0),
        "spire-server.controllerManager.image.version",
        "spire-server.controllerManager.image.tag",
    ),
    superseded(Line(0, 17, 0), "spire-server.tornjak.image.version", "spire-server.tornjak.image.tag"),
    superseded(Line(0, 17, 0), "spiffe-csi-driver.image.version", "spiffe-csi-driver.image.tag"),
    superseded(Line(0, 17, 0), "tornjak-frontend.image.version", "tornjak-frontend.image.tag"),
    // 0.24: camel case. The charts fail at the old names.
    renamed(Line(0, 24, 0), "spire-server.nodeAttestor.k8sPsat", "spire-server.nodeAttestor.k8sPSAT"),
    renamed(Line(0, 24, 0), "spire-server.nodeAttestor.externalK8sPsat", "spire-server.nodeAttestor.externalK8sPSAT"),
    renamed(Line(0, 24, 0), "spire-server.notifier.k8sbundle", "spire-server.notifier.k8sBundle"),
    renamed(Line(0, 24, 0), "spire-server.ca_subject", "spire-server.caSubject"),
    renamed(Line(0, 24, 0), "spire-server.caSubject.common_name", "spire-server.caSubject.commonName"),
    renamed(
        Line(0, 24, 0),
        "spire-server.federation.bundleEndpoint.refresh_hint",
        "spire-server.federation.bundleEndpoint.refreshHint",
    ),
    renamed(
        Line(0, 24, 0),
        "spire-server.upstreamAuthority.certManager.issuer_name",
        "spire-server.upstreamAuthority.certManager.issuerName",
    ),
    renamed(
        Line(0, 24, 0),
        "spire-server.upstreamAuthority.certManager.issuer_kind",
        "spire-server.upstreamAuthority.certManager.issuerKind",
    ),
    renamed(
        Line(0, 24, 0),
        "spire-server.upstreamAuthority.certManager.issuer_group",
        "spire-server.upstreamAuthority.certManager.issuerGroup",
    ),
    renamed(
        Line(0, 24, 0),
        "spire-server.upstreamAuthority.certManager.kube_config_file",
        "spire-server.upstreamAuthority.certManager.kubeConfigFile",
    ),
    renamed(Line(0, 24, 0), "spire-agent.nodeAttestor.k8sPsat", "spire-agent.nodeAttestor.k8sPSAT"),
    renamed(Line(0, 24, 0), "spire-agent.sds.defaultSvidName", "spire-agent.sds.defaultSVIDName"),
    renamed(
        Line(0, 24, 0),
        "spire-agent.sds.disableSpiffeCertValidation",
        "spire-agent.sds.disableSPIFFECertValidation",
    ),
    // 0.26: a bundle publisher takes the notifier's place. Left where it was, the namespace decides only for whom
    // there is a Role, and the bundle goes to the servers' own namespace, where no agent looks.
    renamed(
        Line(0, 26, 0),
        "spire-server.notifier.k8sBundle.namespace",
        "spire-server.bundlePublisher.k8sConfigMap.namespace",
    ),
];

/// What our values need besides, on some charts.
#[derive(Debug, Clone, Copy)]
struct Needed {
    since: Line,
    /// The first chart that does not need it any more.
    until: Option<Line>,
    what: What,
}

#[derive(Debug, Clone, Copy)]
enum What {
    /// This boolean.
    Flag(&'static str, bool),
    /// This word.
    Word(&'static str, &'static str),
    /// This port.
    Port(&'static str, u16),
    /// The first path's value at the second, too.
    Copied(&'static str, &'static str),
    /// The lab's pull policy in this image's table.
    Pull(&'static str),
    /// Nothing of this: the chart does not know it any more.
    Gone(&'static str),
}

const fn from(since: Line, what: What) -> Needed {
    Needed { since, until: None, what }
}

const fn between(since: Line, until: Line, what: What) -> Needed {
    Needed { since, until: Some(until), what }
}

/// The port at which servers serve and which agents dial, on every chart. From 0.20 on the charts say 443 unless told
/// otherwise, and while the two sides move, the one would dial where the other does not serve yet, or no more.
pub const SERVER_PORT: u16 = 8081;

const NEEDED: &[Needed] = &[
    // A custom resource that names no class would be ignored, and its entries deleted; those written for older charts
    // name none.
    from(Line(0, 15, 0), What::Flag("spire-server.controllerManager.watchClassless", true)),
    // The type `base` leaves out the release's namespace, where the lab's workload is.
    from(Line(0, 17, 0), What::Word("spire-server.controllerManager.identities.clusterSPIFFEIDs.default.type", "raw")),
    // Until here Tornjak's container took the controller manager's; left without, level `restricted` refuses the pod.
    from(
        Line(0, 17, 0),
        What::Copied("spire-server.controllerManager.securityContext", "spire-server.tornjak.securityContext"),
    ),
    // The agents' container takes its securityContext from 0.17.1 on, and until 0.23 its data lie in the image's own
    // directory, which it may write.
    between(Line(0, 17, 1), Line(0, 23, 0), What::Flag("spire-agent.securityContext.readOnlyRootFilesystem", false)),
    // An init container that comes with `Always`.
    from(Line(0, 17, 2), What::Pull("spire-agent.socketAlternate.image")),
    from(Line(0, 19, 1), What::Gone("spire-agent.waitForIt")),
    from(Line(0, 20, 0), What::Port("spire-server.service.port", SERVER_PORT)),
    from(Line(0, 20, 0), What::Port("spire-agent.server.port", SERVER_PORT)),
    // The registrar takes the driver's.
    from(Line(0, 27, 1), What::Gone("spiffe-csi-driver.nodeDriverRegistrar.resources")),
];

/// The first chart whose agents can be told to stay as they are while their release moves (`OnDelete`).
pub const HOLDS_AGENTS: Line = Line(0, 18, 0);

/// Our values as the chart `line` calls them, and with what it needs besides. `pull` is the pull policy in
/// Kubernetes' spelling.
#[must_use]
pub(super) fn ours(values: Value, line: Line, pull: &str) -> Value {
    let mut values = named_for(values, line);
    for needed in NEEDED {
        if line < needed.since || needed.until.is_some_and(|until| line >= until) {
            continue;
        }
        match needed.what {
            What::Flag(path, flag) => path::set(&mut values, path, json!(flag)),
            What::Word(path, word) => path::set(&mut values, path, json!(word)),
            What::Port(path, port) => path::set(&mut values, path, json!(port)),
            What::Copied(from, to) => {
                if let Some(value) = path::get(&values, from).cloned() {
                    path::set(&mut values, to, value);
                }
            }
            What::Pull(image) => path::set(&mut values, &format!("{image}.pullPolicy"), json!(pull)),
            What::Gone(path) => drop(path::take(&mut values, path)),
        }
    }
    values
}

/// Values with the names that the chart `line` knows, whichever they had. Where a file has both, both stay: the chart
/// is to say which it takes.
#[must_use]
pub fn named_for(mut values: Value, line: Line) -> Value {
    for rename in RENAMED.iter().filter(|rename| line >= rename.since) {
        put(&mut values, rename.old, rename.new);
    }
    for rename in RENAMED.iter().rev().filter(|rename| rename.both_ways && line < rename.since) {
        put(&mut values, rename.new, rename.old);
    }
    values
}

fn put(values: &mut Value, from: &str, to: &str) {
    if path::get(values, from).is_some()
        && path::get(values, to).is_none()
        && let Some(value) = path::take(values, from)
    {
        path::set(values, to, value);
        prune(values, from);
    }
}

/// Takes out the tables on the way to `path` that became empty.
fn prune(values: &mut Value, path: &str) {
    let mut path = path;
    while let Some((parent, _)) = path.rsplit_once('.') {
        if path::get(values, parent).and_then(Value::as_object).is_none_or(|table| !table.is_empty()) {
            return;
        }
        path::take(values, parent);
        path = parent;
    }
}

/// If `path` (or a table around it) is a name that the chart `line` does not know: the name that it does, and the
/// chart at which it changed.
#[must_use]
pub fn other_name(path: &str, line: Line) -> Option<(String, Line)> {
    RENAMED.iter().find_map(|rename| {
        let (unknown, known) = if line >= rename.since {
            (rename.old, rename.new)
        } else if rename.both_ways {
            (rename.new, rename.old)
        } else {
            return None;
        };
        let rest = path.strip_prefix(unknown)?;
        (rest.is_empty() || rest.starts_with('.')).then(|| (format!("{known}{rest}"), rename.since))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_in_order() {
        assert!(RENAMED.is_sorted_by_key(|rename| rename.since));
        assert!(NEEDED.is_sorted_by_key(|needed| needed.since));
        for rename in RENAMED {
            assert_ne!(rename.old, rename.new);
            assert_eq!(rename.old.split('.').next(), rename.new.split('.').next(), "a subchart's values are its own");
        }
    }

    #[test]
    fn names_follow_the_chart_up_and_down() {
        let old = json!({"spire-server": {
            "ca_subject": {"country": "UK", "common_name": "c"},
            "notifier": {"k8sbundle": {"namespace": "spire-system"}},
            "controllerManager": {"identities": {"enabled": false}},
        }});
        let at_24 = json!({"spire-server": {
            "caSubject": {"country": "UK", "commonName": "c"},
            "notifier": {"k8sBundle": {"namespace": "spire-system"}},
            "controllerManager": {"identities": {"clusterSPIFFEIDs": {"default": {"enabled": false}}}},
        }});
        let at_26 = json!({"spire-server": {
            "caSubject": {"country": "UK", "commonName": "c"},
            "bundlePublisher": {"k8sConfigMap": {"namespace": "spire-system"}},
            "controllerManager": {"identities": {"clusterSPIFFEIDs": {"default": {"enabled": false}}}},
        }});
        let lines = [(Line(0, 13, 0), &old), (Line(0, 25, 0), &at_24), (Line(0, 26, 0), &at_26)];
        for (_, written) in lines {
            for (line, wanted) in lines {
                assert_eq!(&named_for(written.clone(), line), wanted, "{written} for {line}");
            }
        }
    }

    #[test]
    fn a_pinned_image_stays_pinned_where_version_is_ignored() {
        let written = json!({"tornjak-frontend": {"image": {"version": "v1.2.2"}}});
        assert_eq!(named_for(written.clone(), Line(0, 16, 0)), written);
        let named = json!({"tornjak-frontend": {"image": {"tag": "v1.2.2"}}});
        assert_eq!(named_for(written, Line(0, 17, 0)), named);
        assert_eq!(named_for(named.clone(), Line(0, 16, 0)), named, "0.16 knows both");
    }

    #[test]
    fn two_names_at_once_are_left_to_the_chart() {
        let both = json!({"spire-server": {"ca_subject": {"country": "UK"}, "caSubject": {"country": "FR"}}});
        assert_eq!(named_for(both.clone(), Line(0, 30, 0)), both);
        assert_eq!(named_for(both.clone(), Line(0, 13, 0)), both);
    }

    #[test]
    fn the_other_name_is_known() {
        let name = |path: &str, line| other_name(path, line).map(|(name, since)| (name, since.to_string()));
        assert_eq!(
            name("spire-server.ca_subject.country", Line(0, 24, 1)),
            Some(("spire-server.caSubject.country".into(), "0.24.0".into()))
        );
        assert_eq!(
            name("spire-agent.nodeAttestor.k8sPSAT", Line(0, 23, 0)),
            Some(("spire-agent.nodeAttestor.k8sPsat".into(), "0.24.0".into()))
        );
        assert_eq!(name("spire-server.ca_subjects", Line(0, 24, 0)), None);
        assert_eq!(name("spiffe-csi-driver.image.tag", Line(0, 16, 0)), None);
    }
}
