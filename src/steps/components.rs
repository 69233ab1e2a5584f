//! The lab's components by the names that people use, and where their pods are.

use clap::ValueEnum;

use crate::config::Lab;
use crate::spire::names;

/// A component that has a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Component {
    /// The SPIRE servers
    Server,
    /// The SPIRE agents
    Agent,
    /// The controller manager, which makes entries for pods
    ControllerManager,
    /// Tornjak's back end
    Tornjak,
    /// Tornjak's page
    TornjakFrontend,
    /// The CSI driver
    CsiDriver,
    /// PostgreSQL
    Database,
    /// The workload
    Workload,
    /// Prometheus
    Prometheus,
    /// Grafana
    Grafana,
    /// Contour
    Contour,
    /// cert-manager
    CertManager,
}

/// Where pods are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Their namespace.
    pub namespace: String,
    /// Their labels.
    pub selector: String,
    /// The container that speaks, where there are several.
    pub container: Option<&'static str>,
}

impl Component {
    /// Where its pods are in this lab.
    #[must_use]
    pub fn place(self, lab: &Lab) -> Place {
        let spire = &lab.spire;
        let monitoring = lab.monitoring.as_ref().map_or("default", |monitoring| &monitoring.namespace);
        let (namespace, selector, container): (&str, String, _) = match self {
            Component::Server => {
                (&spire.server_namespace, names::SERVER_SELECTOR.into(), Some(names::SERVER_CONTAINER))
            }
            Component::ControllerManager => {
                (&spire.server_namespace, names::SERVER_SELECTOR.into(), Some(names::MANAGER_CONTAINER))
            }
            Component::Tornjak => (&spire.server_namespace, names::SERVER_SELECTOR.into(), Some("tornjak")),
            Component::TornjakFrontend => (
                &spire.server_namespace,
                "app.kubernetes.io/name=tornjak-frontend,app.kubernetes.io/component!=test".into(),
                None,
            ),
            Component::Agent => (&spire.system_namespace, names::AGENT_SELECTOR.into(), Some(names::AGENT_CONTAINER)),
            Component::CsiDriver => {
                (&spire.system_namespace, "app.kubernetes.io/name=spiffe-csi-driver".into(), Some("spiffe-csi-driver"))
            }
            Component::Database => (&spire.server_namespace, "app=spire-db".into(), None),
            Component::Workload => (&lab.workload.namespace, format!("app={}", lab.workload.name), None),
            Component::Prometheus => (monitoring, "app.kubernetes.io/name=prometheus".into(), Some("prometheus")),
            Component::Grafana => (monitoring, "app.kubernetes.io/name=grafana".into(), Some("grafana")),
            Component::Contour => ("projectcontour", "app=contour".into(), None),
            Component::CertManager => ("cert-manager", "app.kubernetes.io/component=controller".into(), None),
        };
        Place { namespace: namespace.to_owned(), selector, container }
    }
}
