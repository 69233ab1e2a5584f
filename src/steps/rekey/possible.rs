//! What has to be so before any key is taken away.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim};
use semver::Version;
use serde_json::Value;

use crate::engine::StepContext;
use crate::error::Failure;
use crate::kube::Cluster;
use crate::spire::names;
use crate::spire::render::members;
use crate::spire::rotation::FORCED_ROTATION;
use crate::steps::database;
use crate::steps::live::Live;

/// Whether it can be done here; and what to say of it.
///
/// # Errors
/// It cannot: why, and what can be done instead.
pub async fn possible(cx: &StepContext, cluster: &Cluster) -> Result<Vec<String>, Failure> {
    let spire = &cx.session.lab.spire;
    let (namespace, server) = (&spire.server_namespace, names::server(spire));
    let map = cluster.get::<ConfigMap>(namespace, &server).await?;
    let conf = map.and_then(|map| map.data?.remove("server.conf"));
    let conf: Value = conf.as_deref().and_then(|text| serde_json::from_str(text).ok()).ok_or_else(|| {
        Failure::refused("the servers' configuration cannot be read, so nobody knows where their keys are")
            .fact(format!("ConfigMap {namespace}/{server}, key `server.conf`"))
            .next("`coastal spire-install` installs SPIRE, `coastal recover` brings it back")
    })?;
    by_configuration(&conf)?;
    if cluster.get::<StatefulSet>(namespace, &server).await?.is_none() {
        return Err(Failure::refused("the servers' StatefulSet is not there").next("`coastal recover` brings it back"));
    }
    for claim in names::server_pods(spire).iter().map(|pod| names::server_claim(pod)) {
        if cluster.get::<PersistentVolumeClaim>(namespace, &claim).await?.is_none() {
            return Err(Failure::refused(format!("there is no claim {namespace}/{claim}: the keys are elsewhere"))
                .next("keys on an emptyDir or a hostPath have to be taken away by hand; `coastal rotate --rekey` tells how"));
        }
    }
    let live = Live::look(cx).await?;
    if !live.is_settled() || live.servers.len() != spire.servers as usize {
        let told = |(pod, version): &(String, Option<Version>)| {
            format!("{pod}: {}", version.as_ref().map_or_else(|| "does not answer".to_owned(), ToString::to_string))
        };
        return Err(Failure::refused(
            "not everything of SPIRE runs at the version that it should: new keys begin from a lab that is whole",
        )
        .facts(live.servers.iter().chain(&live.agents).map(told))
        .next("`coastal recover` first; or `coastal upgrade`, if a change of versions was cut off"));
    }
    database::migrations(cx).await.map_err(|failure| {
        failure
            .context("what is there cannot be kept aside: the data store does not answer")
            .next("`coastal recover` first")
    })?;
    let lighter =
        live.server_versions().iter().chain(&live.agent_versions()).all(|version| *version >= FORCED_ROTATION);
    let note =
        "these servers can rotate: `coastal rotate` revokes the old keys without an outage; this is the heavier way";
    Ok(lighter.then(|| note.to_owned()).into_iter().collect())
}

/// Whether the keys are where they can be taken away, and are the ones that matter.
fn by_configuration(conf: &Value) -> Result<(), Failure> {
    let names = |kind: &str| -> Vec<String> {
        let plugins = members(&conf["plugins"]).into_iter().filter(|(name, _)| *name == kind);
        plugins.flat_map(|(_, plugins)| members(plugins)).map(|(name, _)| name.to_owned()).collect()
    };
    if let Some(upstream) = names("UpstreamAuthority").first() {
        return Err(Failure::refused(format!(
            "the CAs are signed by the upstream authority `{upstream}`: new keys of the servers would leave it trusted"
        ))
        .next(
            "give the servers a new upstream authority; from SPIRE 1.11 on `coastal rotate` then revokes the old one",
        ));
    }
    match names("KeyManager").as_slice() {
        [only] if only == "disk" => Ok(()),
        [only] if only == "memory" => Err(Failure::refused(
            "the servers keep their keys in memory: each restart makes new ones, and there is nothing to take away",
        )
        .next(
            "`kubectl rollout restart` of the StatefulSet is method `new`; `coastal rotate --rekey` tells of the rest",
        )),
        others => Err(Failure::refused(format!(
            "the servers' keys are in the key manager `{}`, and not in files on their claims",
            others.join(", ")
        ))
        .next("take them away there, by that key manager's own means; `coastal rotate --rekey` tells of the rest")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::error::Kind;

    #[test]
    fn only_keys_on_disk_that_sign_for_themselves_can_be_taken_away() {
        let conf = |plugins: Value| by_configuration(&json!({"plugins": plugins}));
        conf(json!({"KeyManager": [{"disk": {}}], "Notifier": {"k8sbundle": {}}})).unwrap();
        conf(json!({"KeyManager": {"disk": {}}})).unwrap();
        for (plugins, words) in [
            (json!({"KeyManager": [{"disk": {}}], "UpstreamAuthority": [{"vault": {}}]}), "upstream authority `vault`"),
            (json!({"KeyManager": {"memory": {}}}), "in memory"),
            (json!({"KeyManager": [{"aws_kms": {}}]}), "key manager `aws_kms`"),
            (json!({}), "not in files"),
        ] {
            let refused = conf(plugins).unwrap_err();
            assert!(refused.kind == Kind::Refused && refused.message.contains(words), "{refused:?}");
        }
    }
}
