//! The machine and its tools.

mod cgroups;
mod docker;
mod docker_cpus;
mod docker_disk;
mod docker_memory;
mod files;
mod helm;
mod inotify_instances;
mod inotify_watches;
mod kind;
mod kubectl;
mod kubectl_skew;
mod memory;
mod ports;

use super::Check;
use super::evidence::{Evidence, Known};
use super::{Problem, Verdict, failed, passed, skipped};
use crate::tools::{CommandError, Tool, versions};

pub(super) const ALL: &[&Check] = &[
    &docker::CHECK,
    &docker_memory::CHECK,
    &docker_cpus::CHECK,
    &cgroups::CHECK,
    &kind::CHECK,
    &helm::CHECK,
    &kubectl::CHECK,
    &kubectl_skew::CHECK,
    &memory::CHECK,
    &docker_disk::CHECK,
    &ports::CHECK,
    &inotify_watches::CHECK,
    &inotify_instances::CHECK,
    &files::CHECK,
];

/// Whether the lab's wishes about a tool are met.
fn tool(evidence: &Evidence, tool: Tool) -> Known<Verdict> {
    let needed_for_kind = matches!(tool, Tool::Docker | Tool::Kind);
    if needed_for_kind && !evidence.lab.is_kind() {
        return skipped("the cluster is not kind's");
    }
    let found = evidence.tools.get(&tool).ok_or_else(|| format!("{tool} was not asked"))?;
    if let Err(error @ (CommandError::Interrupted { .. } | CommandError::TimedOut { .. })) = found {
        return Err(error.to_string());
    }
    let one = std::collections::BTreeMap::from([(tool, found.clone())]);
    match (versions::judge(&evidence.lab.tools, &one), found) {
        (Ok(()), Ok(version)) => {
            passed(format!("{tool} {version} (needed: {})", versions::requirement(&evidence.lab.tools, tool)))
        }
        (Ok(()), Err(error)) => Err(error.to_string()),
        (Err(failure), _) => Problem::from(failure).verdict(),
    }
}

/// A limit of inotify, which all nodes of a kind cluster share.
fn inotify(evidence: &Evidence, limit: Option<u64>, name: &str, least: u64) -> Known<Verdict> {
    if !evidence.lab.is_kind() {
        return skipped("the cluster is not kind's");
    }
    let limit = limit.ok_or("this operating system has no such limit, or does not tell it")?;
    if limit < least {
        failed(format!("fs.inotify.{name} is {limit}; kind asks for {least}")).verdict()
    } else {
        passed(format!("{limit}"))
    }
}

/// `3.5 GiB`.
fn gib(bytes: u64) -> String {
    let tenths = bytes / ((1 << 30) / 10);
    format!("{}.{} GiB", tenths / 10, tenths % 10)
}
