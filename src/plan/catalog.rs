//! What each step is for, in words, and the commands that a person would type instead.

use serde::{Deserialize, Serialize};

use crate::config::{ChartRef, Lab, MaliciousSpec, ManifestRef, Provider};
use crate::plan::StepId;
use crate::spire::names;

/// Why a step is there, and how it would be done by hand.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The reason, one or two sentences.
    pub why: String,
    /// The kubectl, helm, kind or spire-server commands that a person would type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by_hand: Vec<String>,
}

fn manifest(source: Option<&ManifestRef>) -> String {
    match source {
        Some(ManifestRef::Url(url)) => url.clone(),
        Some(ManifestRef::File(path)) => path.display().to_string(),
        None => "FILE".into(),
    }
}

fn chart(source: &ChartRef) -> (String, String) {
    match source {
        ChartRef::Repo { repo_name, chart, version, .. } => {
            (format!("{repo_name}/{chart}"), format!(" --version {version}"))
        }
        ChartRef::Path(path) => (path.display().to_string(), String::new()),
    }
}

/// The explanation of a step of this lab.
#[must_use]
#[expect(clippy::too_many_lines, reason = "one row per step; a table reads best in one piece")]
pub fn explain(step: StepId, lab: &Lab) -> Explanation {
    let spire = &lab.spire;
    let (kind_name, ports) = match &lab.cluster.provider {
        Provider::Kind { name, http_port, https_port, .. } => (name.clone(), format!("{http_port}, {https_port}")),
        Provider::Existing { .. } => (String::new(), String::new()),
    };
    let (server_ns, system_ns) = (&spire.server_namespace, &spire.system_namespace);
    let workload = &lab.workload;
    let (why, by_hand): (String, Vec<String>) = match step {
        StepId::Tools => (
            "Everything below rests on these programs; a version that is too old fails later in ways that are hard to read.".into(),
            vec!["docker version".into(), "kind version".into(), "helm version".into(), "kubectl version --client".into()],
        ),
        StepId::Repos => (
            "Helm finds charts by repository name. The lab keeps its own list, so yours stays as it is.".into(),
            lab.chart_repositories().into_iter().map(|(name, url)| format!("helm repo add {name} {url}")).collect(),
        ),
        StepId::FetchCertManager => (
            "Fetched while the nodes boot, so that nothing waits for the network later.".into(),
            vec![format!("curl -LO {}", manifest(lab.cert_manager.as_ref()))],
        ),
        StepId::FetchContour => (
            "Fetched while the nodes boot, so that nothing waits for the network later.".into(),
            vec![format!("curl -LO {}", manifest(lab.contour.as_ref()))],
        ),
        StepId::FetchPrometheus => {
            let by_hand = lab.monitoring.as_ref().map(|monitoring| {
                let (name, version) = chart(&monitoring.chart);
                format!("helm pull {name}{version}")
            });
            ("The chart is fetched once and kept; the run then uses exactly this file.".into(), by_hand.into_iter().collect())
        }
        StepId::FetchSpire => {
            let (name, version) = chart(&spire.chart);
            ("The chart is fetched once and kept; the run then uses exactly this file.".into(), vec![format!("helm pull {name}{version}")])
        }
        StepId::BuildWorkloadImage => (
            "The workload is coastal itself: this program and the libraries it has loaded, as an image, with no Dockerfile and no registry.".into(),
            vec![format!("docker build -t {} .", workload.image)],
        ),
        StepId::Cluster if lab.is_kind() => (
            format!("One control plane and one worker in containers; host ports {ports} lead to the worker's 80 and 443. The kubeconfig is the lab's own: your current context is never used or changed."),
            vec![format!("kind create cluster --name {kind_name} --config kind.yaml --kubeconfig LAB-KUBECONFIG")],
        ),
        StepId::Cluster => (
            "The named context is reached; nothing outside the lab's namespaces will be touched.".into(),
            vec![format!("kubectl --context {} get nodes", lab.cluster.context())],
        ),
        StepId::LoadImages => (
            "Images that are at hand as archives need no registry.".into(),
            lab.images.archives.iter().map(|a| format!("kind load image-archive {} --name {kind_name}", a.display())).collect(),
        ),
        StepId::LoadWorkloadImage => (
            "The workload's image is in no registry; the nodes get it from its archive.".into(),
            vec![format!("kind load image-archive workload.tar --name {kind_name}")],
        ),
        StepId::CertManager => (
            "Issues certificates inside the cluster. Its pods are Ready before its webhook answers, so the webhook itself is asked.".into(),
            vec![format!("kubectl apply --server-side -f {}", manifest(lab.cert_manager.as_ref()))],
        ),
        StepId::ClusterIssuer => (
            "A self-signed issuer that every namespace can use.".into(),
            vec!["kubectl apply --server-side -f cluster-issuer.yaml".into()],
        ),
        StepId::Contour => (
            "Brings traffic from the host's ports to services.".into(),
            vec![format!("kubectl apply --server-side -f {}", manifest(lab.contour.as_ref()))],
        ),
        StepId::Prometheus => {
            let by_hand = lab.monitoring.as_ref().map(|monitoring| {
                let (name, version) = chart(&monitoring.chart);
                format!("helm upgrade --install {} {name}{version} --namespace {} --values prometheus.yaml", monitoring.release, monitoring.namespace)
            });
            ("Prometheus, Grafana and Alertmanager. PodMonitors of every namespace are accepted, so SPIRE's are seen without a patch.".into(), by_hand.into_iter().collect())
        }
        StepId::Namespaces => (
            "Servers run under the `restricted` Pod Security level; agents and the CSI driver need host access, so they live apart under `privileged`.".into(),
            vec![format!("kubectl create namespace {server_ns}"), format!("kubectl create namespace {system_ns}")],
        ),
        StepId::Database => (
            "All SPIRE servers share this data store. Ready is when it accepts SPIRE's login, not when its pod says so.".into(),
            vec!["kubectl apply --server-side -f database.yaml".into(), format!("kubectl -n {server_ns} exec spire-db-0 -- psql -U {} -c 'select 1'", lab.database.username)],
        ),
        StepId::Spire => {
            let (name, version) = chart(&spire.chart);
            (
                "Servers, agents, CSI driver, controller manager and Tornjak as one release. The values are computed from lab.toml each time; nothing is reused from an earlier revision.".into(),
                vec![format!("helm upgrade --install {} {name}{version} --namespace {} --values spire.yaml", spire.release, spire.release_namespace)],
            )
        }
        StepId::SpireServers => (
            "Servers start one after the other. Each is asked whether it is healthy.".into(),
            vec![format!("kubectl -n {server_ns} exec {}-server-0 -c spire-server -- spire-server healthcheck", spire.release)],
        ),
        StepId::SpireAgents => (
            "An agent serves the Workload API up to a minute before its pod is Ready, so the agent itself is asked.".into(),
            vec![format!("kubectl -n {system_ns} exec daemonset/{}-agent -c spire-agent -- /opt/spire/bin/spire-agent healthcheck", spire.release)],
        ),
        StepId::Tornjak => (
            "A web page to look at entries and agents.".into(),
            vec![format!("kubectl -n {server_ns} rollout status deployment/{}-tornjak-frontend", spire.release)],
        ),
        StepId::Monitors => (
            "Tells Prometheus to scrape servers and agents. The monitors of chart 0.13.0 name an unknown field and see nothing, hence our own.".into(),
            vec!["kubectl apply --server-side -f monitors.yaml".into()],
        ),
        StepId::Workload => (
            format!("{} pods that follow the Workload API and log each SVID they receive.", workload.replicas),
            vec![
                "kubectl apply --server-side -f workload.yaml".into(),
                format!("kubectl -n {} logs deployment/{}", workload.namespace, workload.name),
            ],
        ),
        StepId::RemoveWorkload => (
            "Pods that mount the CSI driver go first: once the driver is gone they could not be unmounted and would stay Terminating.".into(),
            vec![format!("kubectl -n {} delete deployment/{} serviceaccount/{} --wait", workload.namespace, workload.name, workload.name)],
        ),
        StepId::Malicious => (
            format!("A pod that nobody expects, with the Workload API mounted. No key is stolen for it: the chart's default ClusterSPIFFEID gives every pod an identity, so SPIRE itself hands it an SVID of {}.", names::workload_id(&spire.trust_domain, MaliciousSpec::NAMESPACE, MaliciousSpec::NAME)),
            vec![
                "kubectl apply --server-side -f malicious.yaml".into(),
                format!("kubectl -n {server_ns} exec {}-server-0 -c spire-server -- /opt/spire/bin/spire-server entry show -spiffeID {}", spire.release, names::workload_id(&spire.trust_domain, MaliciousSpec::NAMESPACE, MaliciousSpec::NAME)),
            ],
        ),
        StepId::RemoveMalicious => (
            "With the pod goes its registration entry. An SVID that it was given stays valid until it expires: SPIRE has no revocation list.".into(),
            vec![format!("kubectl delete namespace {}", MaliciousSpec::NAMESPACE)],
        ),
        StepId::RemoveSpire => (
            "The release, and what Helm leaves behind: the servers' claims (they hold the CA keys) and the webhook's leftovers.".into(),
            vec![
                format!("helm uninstall {} --namespace {} --wait", spire.release, spire.release_namespace),
                format!("kubectl -n {server_ns} delete pvc -l app.kubernetes.io/instance={}", spire.release),
            ],
        ),
        StepId::RemoveMonitors => (
            "Removed before the release that brings their kind.".into(),
            vec![format!("kubectl -n {server_ns} delete podmonitor spire-server; kubectl -n {system_ns} delete podmonitor spire-agent")],
        ),
        StepId::RemovePrometheus => {
            let by_hand = lab.monitoring.as_ref().map(|m| format!("helm uninstall {} --namespace {}", m.release, m.namespace));
            ("The release, and the few objects that its operator leaves behind.".into(), by_hand.into_iter().collect())
        }
        StepId::RemoveDatabase => (
            "The data store goes only after the servers that use it; its claim goes with it.".into(),
            match &lab.database.manifest {
                Some(file) => vec![
                    format!("kubectl -n {server_ns} delete -f {}", file.display()),
                    format!("kubectl -n {server_ns} delete secret/spire-db pvc/data-spire-db-0"),
                ],
                None => vec![format!("kubectl -n {server_ns} delete statefulset/spire-db service/spire-db serviceaccount/spire-db configmap/spire-db secret/spire-db pvc/data-spire-db-0")],
            },
        ),
        StepId::RemoveNamespaces => (
            "Empty by now.".into(),
            vec![format!("kubectl delete namespace {server_ns} {system_ns}")],
        ),
        StepId::RemoveContour => (
            "Everything that its manifest brought.".into(),
            vec![format!("kubectl delete -f {}", manifest(lab.contour.as_ref()))],
        ),
        StepId::RemoveCertManager => (
            "Everything that its manifest brought, the issuer first.".into(),
            vec![format!("kubectl delete -f {}", manifest(lab.cert_manager.as_ref()))],
        ),
        StepId::RemoveCluster => (
            "The nodes are containers; with them everything inside is gone.".into(),
            vec![format!("kind delete cluster --name {kind_name}")],
        ),
        StepId::ChartTests => (
            "The chart's own test pods; watched, because one that cannot pull its image would hang until the time limit.".into(),
            vec![format!("helm test {} --namespace {}", spire.release, spire.release_namespace)],
        ),
        StepId::IdentityTest => (
            "The proof that counts: each workload pod holds a valid SVID that chains to the trust bundle.".into(),
            vec![format!("kubectl -n {} logs deployment/{}", workload.namespace, workload.name)],
        ),
        StepId::Continuity => (
            "The workload logs each SVID that it receives, and each time that it lost the Workload API: that is added up over the time of the change.".into(),
            vec![format!("kubectl -n {} logs deployment/{} --since 10m", workload.namespace, workload.name)],
        ),
        // What a hop does depends on the hop: the plan of the change says it. So does that of a rotation.
        StepId::Hop(_)
        | StepId::Rotate(_)
        | StepId::Rekey(_)
        // And what a containment does, on what is contained.
        | StepId::CutOff
        | StepId::EntriesGone
        | StepId::AgentsSynced
        | StepId::IncidentReport
        | StepId::UndoContainment
        // And a backup, and its way back.
        | StepId::Backup
        | StepId::BackupSchedule
        | StepId::Restore(_)
        // And a recovery on what is broken.
        | StepId::Recover(_)
        | StepId::Drill(_) => (String::new(), Vec::new()),
    };
    Explanation { why, by_hand }
}
