//! Pods: which entries are for them, and which of them nobody expects.

use std::collections::{BTreeMap, HashMap};

use super::{Facts, Finding, MOST, Rule};
use crate::spire::entries::Entry;
use crate::spire::id::Glob;

/// A new pod gets its entry within moments; before that it lacks nothing.
const TOO_YOUNG_S: i64 = 15;

/// A pod, as far as identities go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its uid, by which entries select it.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its service account.
    pub account: String,
    /// The node that it runs on; empty if none yet.
    pub node: String,
    /// Seconds since it was made.
    pub age_s: i64,
    /// Whether it runs: neither ended nor going.
    pub runs: bool,
    /// Whether it mounts the Workload API.
    pub mounts: bool,
}

impl Pod {
    /// As findings name it.
    #[must_use]
    pub fn describe(&self) -> String {
        match self.node.as_str() {
            "" => format!("{}/{}", self.namespace, self.name),
            node => format!("{}/{} on {node}", self.namespace, self.name),
        }
    }
}

/// All pods, found by what entries select them by.
pub struct Pods {
    all: Vec<Pod>,
    by_uid: HashMap<String, usize>,
    by_namespace: HashMap<String, Vec<usize>>,
    /// Whether an entry selects it.
    claimed: Vec<bool>,
}

impl Pods {
    /// These.
    #[must_use]
    pub fn new(pods: Vec<Pod>) -> Self {
        let by_uid = pods.iter().enumerate().map(|(at, pod)| (pod.uid.clone(), at)).collect();
        let mut by_namespace: HashMap<String, Vec<usize>> = HashMap::new();
        for (at, pod) in pods.iter().enumerate() {
            by_namespace.entry(pod.namespace.clone()).or_default().push(at);
        }
        let claimed = vec![false; pods.len()];
        Pods { all: pods, by_uid, by_namespace, claimed }
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether an entry's selectors are about pods that can be told from here: by uid, or by what a pod's manifest says.
    #[must_use]
    pub fn are_asked_for_by(entry: &Entry) -> bool {
        const KNOWN: [&str; 4] = ["pod-uid:", "ns:", "sa:", "pod-name:"];
        let known = |value: &str| KNOWN.iter().any(|known| value.starts_with(known));
        !entry.selectors.is_empty() && entry.selectors.iter().all(|s| s.kind == "k8s" && known(&s.value))
    }

    /// The pods that an entry is for, which from now on have one: whether there are any, and those that run.
    pub fn claim(&mut self, entry: &Entry) -> (bool, Vec<String>) {
        if !Pods::are_asked_for_by(entry) {
            return (false, Vec::new());
        }
        let all =
            |name: &'static str, of: &dyn Fn(&Pod) -> bool, pod: &Pod| entry.values(name).next().is_none() || of(pod);
        let matches = |pod: &Pod| {
            all("pod-uid", &|pod| entry.pod_uid().all(|uid| uid == pod.uid), pod)
                && all("ns", &|pod| entry.values("ns").all(|namespace| namespace == pod.namespace), pod)
                && all("sa", &|pod| entry.values("sa").all(|account| account == pod.account), pod)
                && all("pod-name", &|pod| entry.values("pod-name").all(|name| name == pod.name), pod)
        };
        let candidates: Vec<usize> = if let Some(uid) = entry.pod_uid().next() {
            self.by_uid.get(uid).copied().into_iter().collect()
        } else if let Some(namespace) = entry.values("ns").next() {
            self.by_namespace.get(namespace).cloned().unwrap_or_default()
        } else {
            (0..self.all.len()).collect()
        };
        let found: Vec<usize> = candidates.into_iter().filter(|at| matches(&self.all[*at])).collect();
        for at in &found {
            self.claimed[*at] = true;
        }
        // One that has ended keeps its entry for as long as it is there, and presents nothing any more.
        let running = found.iter().map(|at| &self.all[*at]).filter(|pod| pod.runs).map(Pod::describe).collect();
        (!found.is_empty(), running)
    }

    /// Pods that nobody expects, and pods that should have an identity and have none.
    pub(super) fn findings(&self, facts: &Facts) -> Vec<Finding> {
        let globs = |patterns: &[String]| patterns.iter().map(|pattern| Glob::new(pattern)).collect::<Vec<_>>();
        let (namespaces, accounts) = (globs(&facts.expected.namespaces), globs(&facts.expected.service_accounts));
        let matches = |globs: &[Glob], text: &str| globs.iter().any(|glob| glob.matches(text));
        let mut unexpected: BTreeMap<String, (Vec<&Pod>, bool)> = BTreeMap::new();
        let mut findings = Vec::new();
        for (pod, claimed) in self.all.iter().zip(&self.claimed).filter(|(pod, _)| pod.runs) {
            let owner = format!("{}/{}", pod.namespace, pod.account);
            let at_home = matches(&namespaces, &pod.namespace);
            if !at_home || !matches(&accounts, &owner) {
                unexpected.entry(owner).or_insert_with(|| (Vec::new(), at_home)).0.push(pod);
            }
            if pod.mounts && !claimed && pod.age_s >= TOO_YOUNG_S {
                let subject = format!("{}/{}", pod.namespace, pod.name);
                let message = "it mounts the Workload API, and no registration entry is for it";
                findings.push(Finding::new(Rule::PodWithoutEntry, subject, message));
            }
        }
        for (owner, (pods, at_home)) in unexpected {
            let what = if at_home { "service account" } else { "namespace" };
            let mounting = pods.iter().filter(|pod| pod.mounts).count();
            let count = pods.len();
            let run = if count == 1 { "1 pod runs there".to_owned() } else { format!("{count} pods run there") };
            let api = match (mounting, count) {
                (0, _) => String::new(),
                (1, 1) => "; it mounts the Workload API".to_owned(),
                (mounting, _) => format!("; {mounting} of them mount the Workload API"),
            };
            let message = format!("{run}, and its {what} is not on the allow-list{api}");
            let namespace = pods.first().map(|pod| pod.namespace.clone()).unwrap_or_default();
            findings.push(Finding {
                holders: pods.iter().take(MOST).map(|pod| pod.describe()).collect(),
                next: Some(format!("coastal contain {namespace}")),
                ..Finding::new(Rule::UnrecognisedPod, owner, message)
            });
        }
        findings
    }
}
