//! Values for the chart `kube-prometheus-stack`.

use serde_json::Value;

use super::{merge, parse, policy_tree};
use crate::assets;
use crate::config::Lab;
use crate::error::Failure;

/// Tables of `kube-prometheus-stack` that hold a `pullPolicy`. Prometheus and Alertmanager themselves take none.
const PROMETHEUS_IMAGES: &[&str] = &[
    "prometheusOperator.image",
    "prometheusOperator.admissionWebhooks.patch.image",
    "kube-state-metrics.image",
    "kube-state-metrics.kubeRBACProxy.image",
    "prometheus-node-exporter.image",
    "prometheus-node-exporter.kubeRBACProxy.image",
    "grafana.image",
    "grafana.initChownData.image",
    "grafana.downloadDashboardsImage",
    "grafana.imageRenderer.image",
];

/// Tables of `kube-prometheus-stack` that spell it `imagePullPolicy`.
const PROMETHEUS_SIDECARS: &[&str] = &["grafana.sidecar", "grafana.testFramework"];

/// Our values for the chart `kube-prometheus-stack`.
///
/// # Errors
/// None, unless the program was built around a values file that is wrong.
pub fn prometheus_values(lab: &Lab) -> Result<Value, Failure> {
    let policies = policy_tree(lab, PROMETHEUS_IMAGES, "pullPolicy");
    let sidecars = policy_tree(lab, PROMETHEUS_SIDECARS, "imagePullPolicy");
    Ok(merge(merge(parse(assets::PROMETHEUS_VALUES)?, policies), sidecars))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::{PullPolicy, embedded};
    use crate::spire::values::path;

    #[test]
    fn monitors_of_every_namespace_count() {
        let values = prometheus_values(&embedded().unwrap()).unwrap();
        for kind in ["podMonitor", "serviceMonitor", "rule", "probe"] {
            let path = format!("prometheus.prometheusSpec.{kind}SelectorNilUsesHelmValues");
            assert_eq!(path::get(&values, &path), Some(&json!(false)), "{path}");
        }
    }

    #[test]
    fn the_pull_policy_reaches_every_image_and_none_is_latest() {
        for (pull, word) in [(PullPolicy::IfNotPresent, "IfNotPresent"), (PullPolicy::Always, "Always")] {
            let mut lab = embedded().unwrap();
            lab.images.pull = pull;
            let leaves = path::leaves(&prometheus_values(&lab).unwrap());
            let policies: Vec<_> =
                leaves.iter().filter(|(path, _)| path.to_lowercase().ends_with("pullpolicy")).collect();
            assert_eq!(policies.len(), PROMETHEUS_IMAGES.len() + PROMETHEUS_SIDECARS.len());
            assert!(policies.iter().all(|(_, policy)| policy == word), "{policies:?}");
            for (path, text) in leaves {
                assert!(!path.to_lowercase().ends_with("password") && !text.contains("latest"), "{path}: {text}");
            }
        }
    }
}
