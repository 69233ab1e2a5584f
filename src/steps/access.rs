//! The lab's pages: where each is inside the cluster, and how one logs in.

use clap::ValueEnum;
use k8s_openapi::api::core::v1::Secret;
use serde::Serialize;

use crate::config::Lab;
use crate::error::Failure;
use crate::kube::{Cluster, Destination, by_kubectl};
use crate::spire::names;
use crate::steps::monitoring;
use crate::tools::ports::Wish;

/// Tornjak's page asks for `localhost:10000` from inside the browser (`apiServerURL`), so its back end is there or nowhere.
pub const TORNJAK_BACK_END: u16 = 10000;

/// A page that a person looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Page {
    /// Dashboards
    Grafana,
    /// Metrics and targets
    Prometheus,
    /// SPIRE's entries and agents
    Tornjak,
}

impl Page {
    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Page::Grafana => "grafana",
            Page::Prometheus => "prometheus",
            Page::Tornjak => "tornjak",
        }
    }
}

/// One port of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Door {
    /// Of which page.
    pub page: Page,
    /// `grafana`, `prometheus`, `tornjak`, `tornjak-back-end`.
    pub name: &'static str,
    /// Where it is inside the cluster.
    pub destination: Destination,
    /// Where it is wanted on this machine.
    pub wish: Wish,
    /// Whether a person opens it; the others are opened by a page.
    pub is_page: bool,
}

/// The doors of a page, its own first.
///
/// # Errors
/// This lab does not have the page.
pub fn doors(lab: &Lab, page: Page) -> Result<Vec<Door>, Failure> {
    let spire = &lab.spire;
    let door = |name, namespace: &str, selector: String, port, wish| Door {
        page,
        name,
        destination: Destination { namespace: namespace.to_owned(), selector, port },
        wish,
        is_page: !matches!(wish, Wish::Exactly(_)),
    };
    let monitoring = || {
        lab.monitoring.as_ref().ok_or_else(|| {
            Failure::prerequisite(format!("this lab has no {}: monitoring is switched off", page.name()))
                .next("set `enabled = true` in [monitoring] of lab.toml, then `coastal prometheus-install`")
        })
    };
    Ok(match page {
        Page::Grafana => {
            let spec = monitoring()?;
            let selector = format!("app.kubernetes.io/name=grafana,app.kubernetes.io/instance={}", spec.release);
            // 8080 is kind's own port on this machine.
            vec![door("grafana", &spec.namespace, selector, 3000, Wish::Usual(8081))]
        }
        Page::Prometheus => {
            let spec = monitoring()?;
            vec![door("prometheus", &spec.namespace, monitoring::prometheus_selector(spec), 9090, Wish::Usual(9090))]
        }
        Page::Tornjak if !spire.tornjak => {
            return Err(Failure::prerequisite("this lab has no tornjak: it is switched off")
                .next("set `tornjak = true` in [spire] of lab.toml, then `coastal up`"));
        }
        Page::Tornjak => vec![
            door(
                "tornjak",
                &spire.server_namespace,
                "app.kubernetes.io/name=tornjak-frontend,app.kubernetes.io/component!=test".to_owned(),
                3000,
                Wish::Usual(3000),
            ),
            door(
                "tornjak-back-end",
                &spire.server_namespace,
                names::SERVER_SELECTOR.to_owned(),
                TORNJAK_BACK_END,
                Wish::Exactly(TORNJAK_BACK_END),
            ),
        ],
    })
}

/// The command that brings what a page needs.
#[must_use]
pub fn installed_by(page: Page) -> &'static str {
    match page {
        Page::Grafana | Page::Prometheus => "coastal prometheus-install",
        Page::Tornjak => "coastal spire-install",
    }
}

/// How one logs in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Login {
    /// Who.
    pub user: String,
    /// The password. For the person who asked, and nobody else.
    pub password: String,
}

/// The login of a page, from the Secret that the page itself reads; nothing for one that has none.
///
/// # Errors
/// The Secret is not there, may not be read, or holds something else.
pub async fn login(cluster: &Cluster, lab: &Lab, page: Page) -> Result<Option<Login>, Failure> {
    let (Page::Grafana, Some(spec)) = (page, &lab.monitoring) else { return Ok(None) };
    let name = format!("{}-grafana", spec.release);
    let shown = format!("Secret {}/{name}", spec.namespace);
    let secret = cluster.get::<Secret>(&spec.namespace, &name).await?;
    let secret = secret.ok_or_else(|| {
        Failure::prerequisite(format!("Grafana's login is not known: there is no {shown}")).next(
            "a values file of yours may name another (`grafana.admin.existingSecret`); `coastal prometheus-install` makes ours",
        )
    })?;
    let text = |key: &str| {
        let bytes = secret.data.as_ref().and_then(|data| data.get(key));
        let text = bytes.and_then(|bytes| String::from_utf8(bytes.0.clone()).ok());
        text.ok_or_else(|| {
            Failure::prerequisite(format!("Grafana's login is not known: {shown} has no text under `{key}`"))
                .next(by_kubectl(&format!("-n {} get secret {name} -o jsonpath='{{.data}}'", spec.namespace)))
        })
    };
    Ok(Some(Login { user: text("admin-user")?, password: text("admin-password")? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lab() -> Lab {
        crate::config::embedded().unwrap()
    }

    #[test]
    fn each_page_has_its_usual_port_and_tornjaks_back_end_no_other() {
        let lab = lab();
        let wishes = |page| doors(&lab, page).unwrap().iter().map(|door| door.wish).collect::<Vec<_>>();
        assert_eq!(wishes(Page::Grafana), [Wish::Usual(8081)]);
        assert_eq!(wishes(Page::Prometheus), [Wish::Usual(9090)]);
        assert_eq!(wishes(Page::Tornjak), [Wish::Usual(3000), Wish::Exactly(10000)]);
    }

    #[test]
    fn a_page_that_is_switched_off_is_said_so() {
        let mut lab = lab();
        lab.monitoring = None;
        lab.spire.tornjak = false;
        for page in [Page::Grafana, Page::Prometheus, Page::Tornjak] {
            let failure = doors(&lab, page).unwrap_err();
            assert!(failure.message.starts_with(&format!("this lab has no {}", page.name())), "{failure}");
        }
    }
}
