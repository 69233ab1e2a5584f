//! `--explain` for commands that only look: what a person would type, and what to look at there. Commands that change
//! something explain each step of their plan when they come to it.

use crate::cli::Command;
use crate::config::Lab;
use crate::plan::Explanation;
use crate::spire::names;

/// What the command does, in the words of `kubectl`, `helm` and `spire-server`.
pub(super) fn of(command: &Command, lab: &Lab) -> Option<Explanation> {
    let spire = &lab.spire;
    let (server_ns, system_ns) = (&spire.server_namespace, &spire.system_namespace);
    let inside = |words: &str| {
        let pod = format!("{}-0", names::server(spire));
        format!(
            "kubectl -n {server_ns} exec {pod} -c {} -- /opt/spire/bin/spire-server {words}",
            names::SERVER_CONTAINER
        )
    };
    let (why, by_hand) = match command {
        Command::Status(_) => (
            "Versions are asked of the processes, for a tag is only a wish; how old an SVID is, of the workload's own log.",
            vec![
                format!("helm list --all --namespace {}", spire.release_namespace),
                inside("--version"),
                inside("entry count"),
                inside("bundle show"),
                format!(
                    "kubectl -n {server_ns} exec spire-db-0 -- psql -U {} -d {} -c 'select version, code_version from migrations'",
                    lab.database.username, lab.database.database
                ),
            ],
        ),
        Command::Plan(_) => (
            "Each step of `up` is looked at; what is not so is shown, and nothing is changed.",
            vec![
                "kubectl get pods --all-namespaces".into(),
                format!("helm get values {} --namespace {}", spire.release, spire.release_namespace),
            ],
        ),
        Command::Check(_) => (
            "Everything is looked at once and side by side, then judged: docs/checks.md says what is judged, and why.",
            vec![
                "docker info".into(),
                "kubectl get nodes,storageclasses; kubectl get pods --all-namespaces".into(),
                format!("helm get values {} --namespace {}", spire.release, spire.release_namespace),
                inside("agent list"),
                "kubectl get clusterspiffeids -o yaml".into(),
            ],
        ),
        Command::Learn(_) => (
            "A step is done when what it is for works, whoever made it.",
            vec!["kubectl get pods --all-namespaces".into(), "helm list --all-namespaces".into()],
        ),
        Command::Audit(_) => (
            "Entries say who can get an identity, pods who does; what neither the allow-list nor a server knows is reported.",
            vec![
                inside("entry show"),
                inside("agent list"),
                inside("bundle show"),
                "kubectl get pods --all-namespaces -o wide".into(),
            ],
        ),
        Command::Entries(_) => (
            "One entry a pod, made by the controller manager from a ClusterSPIFFEID; those without are made by hand.",
            vec![inside("entry show"), "kubectl get clusterspiffeids -o yaml".into()],
        ),
        Command::Bundle(_) => (
            "Each server is asked through its own socket: which authorities are whose only it can tell, and servers may differ for a second.",
            vec![inside("bundle show -output json"), inside("localauthority x509 show")],
        ),
        Command::Agents(_) => (
            "An agent gets every SVID of its node. A ban lasts until it is evicted; one that is evicted may attest again.",
            vec![inside("agent list"), format!("kubectl -n {system_ns} get pods -l {}", names::AGENT_SELECTOR)],
        ),
        Command::Rotate(_) => (
            "On each server: a new authority is prepared and activated, the old one tainted, and revoked once nobody needs it.",
            ["prepare", "activate -authorityID ID", "taint -authorityID ID", "revoke -authorityID ID"]
                .map(|words| inside(&format!("localauthority x509 {words}")))
                .into(),
        ),
        Command::Logs(_) => (
            "Logs of all pods of a component, in the order in which they were written.",
            vec![format!(
                "kubectl -n {server_ns} logs -l {} -c {} --prefix",
                names::SERVER_SELECTOR,
                names::SERVER_CONTAINER
            )],
        ),
        Command::Env => (
            "kubectl and helm then go to the lab's cluster and use the lab's helm home, and nothing of yours.",
            vec!["eval \"$(coastal env)\"".into()],
        ),
        _ => return None,
    };
    Some(Explanation { why: why.to_owned(), by_hand })
}
