//! The real connector: a client for a named context of a given kubeconfig, never the ambient one.

use async_trait::async_trait;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};

use crate::error::{Failure, Kind};
use crate::world::Connector;

/// Connects over the network.
pub struct RealConnector;

#[async_trait]
impl Connector for RealConnector {
    async fn connect(&self, kubeconfig: &str, context: &str) -> Result<kube::Client, Failure> {
        let unusable = |error: &dyn std::fmt::Display| {
            Failure::new(Kind::Prerequisite, format!("the kubeconfig cannot be used for context `{context}`: {error}"))
        };
        let parsed = Kubeconfig::from_yaml(kubeconfig).map_err(|error| unusable(&error))?;
        let options = KubeConfigOptions { context: Some(context.to_owned()), ..KubeConfigOptions::default() };
        let mut config = Config::from_custom_kubeconfig(parsed, &options).await.map_err(|error| unusable(&error))?;
        config.connect_timeout = Some(std::time::Duration::from_secs(5));
        kube::Client::try_from(config).map_err(|error| unusable(&error))
    }
}
