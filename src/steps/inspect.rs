//! Everything that has an identity, or could get one, as it is now: pods, nodes, agents, and what each server trusts
//! and holds.

use std::collections::BTreeMap;

use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use kube::ResourceExt;
use kube::api::ListParams;
use semver::Version;
use serde_json::Value;

use crate::engine::StepContext;
use crate::error::Failure;
use crate::kube::{Cluster, api_failure};
use crate::spire::audit::{self, Authority, AuthorityKind, Facts, Lifetimes, Trust};
use crate::spire::cli::{Agents, Bundle, LOCAL_AUTHORITY, LocalAuthorities, LocalAuthority, X509Authority};
use crate::spire::names;
use crate::steps::identity::server_json_of;
use crate::steps::live::{self, Live};
use crate::steps::{reach, registrations};

/// What one server trusts and holds.
pub struct ServerView {
    /// Its pod.
    pub pod: String,
    /// Its version, if it tells.
    pub version: Option<Version>,
    /// Its bundle, or why there is none.
    pub bundle: Result<Bundle, Failure>,
    /// Its own authorities, by kind; none if it cannot tell.
    pub own: BTreeMap<AuthorityKind, LocalAuthorities>,
    /// Why it does not tell them, if it should.
    pub silent: Option<String>,
}

/// Asks every server, through its own socket.
///
/// # Errors
/// The servers cannot be listed, or there is none.
pub async fn servers(cx: &StepContext) -> Result<Vec<ServerView>, Failure> {
    let mut versions = Live::look(cx).await?.servers;
    versions.sort();
    if versions.is_empty() {
        return Err(Failure::prerequisite("there is no SPIRE server")
            .fact(format!("no pod of {} carries its labels", cx.session.lab.spire.server_namespace))
            .next("`coastal spire-install`, or `coastal status` to see what is there"));
    }
    Ok(join_all(versions.into_iter().map(|(pod, version)| async move {
        let tells = version.as_ref().is_some_and(|version| *version >= LOCAL_AUTHORITY);
        let own = async |word| {
            if !tells {
                return None;
            }
            Some(server_json_of::<LocalAuthorities>(cx, &pod, &["localauthority", word, "show"]).await)
        };
        let (bundle, x509, jwt) = tokio::join!(server_json_of(cx, &pod, &["bundle", "show"]), own("x509"), own("jwt"));
        let mut view = ServerView { pod, version, bundle, own: BTreeMap::new(), silent: None };
        for (kind, told) in [(AuthorityKind::X509, x509), (AuthorityKind::Jwt, jwt)] {
            match told {
                Some(Ok(own)) => drop(view.own.insert(kind, own)),
                Some(Err(failure)) => view.silent = Some(failure.message),
                None => {}
            }
        }
        view
    }))
    .await)
}

/// All authorities of all servers' bundles, each with who trusts it and who holds it.
#[must_use]
pub fn authorities(servers: &[ServerView]) -> Vec<Authority> {
    let mut all: BTreeMap<(AuthorityKind, String), Authority> = BTreeMap::new();
    for server in servers {
        let Ok(bundle) = &server.bundle else { continue };
        let x509 = bundle.x509_authorities.iter().map(of_x509);
        let jwt = bundle.jwt_authorities.iter().map(of_jwt);
        for authority in x509.chain(jwt) {
            let key = (authority.kind, authority.id.clone());
            let known = all.entry(key).or_insert_with(|| authority.clone());
            known.tainted |= authority.tainted;
            known.seen_by.push(server.pod.clone());
        }
    }
    for server in servers {
        for (kind, own) in &server.own {
            let slots = [("active", Some(&own.active)), ("prepared", own.prepared.as_ref()), ("old", own.old.as_ref())];
            for (slot, LocalAuthority { authority_id, .. }) in slots.into_iter().filter_map(|(n, s)| Some((n, s?))) {
                if let Some(authority) = all.get_mut(&(*kind, authority_id.clone())) {
                    authority.held_by.push(format!("{} {slot}", server.pod));
                }
            }
        }
    }
    let mut all: Vec<Authority> = all.into_values().collect();
    all.sort_by(|a, b| (a.kind, a.expires_at, &a.id).cmp(&(b.kind, b.expires_at, &b.id)));
    all
}

fn of_x509(authority: &X509Authority) -> Authority {
    let facts = authority.facts();
    Authority {
        kind: AuthorityKind::X509,
        issued_at: facts.as_ref().map(|facts| facts.not_before),
        expires_at: facts.as_ref().map(|facts| facts.not_after),
        id: facts.map_or_else(|| "unreadable".to_owned(), |facts| facts.id),
        tainted: authority.tainted,
        held_by: Vec::new(),
        seen_by: Vec::new(),
    }
}

fn of_jwt(authority: &Value) -> Authority {
    let text = |field: &str| authority.get(field).and_then(Value::as_str).unwrap_or_default();
    let expires = text("expires_at").parse().ok().filter(|second| *second > 0);
    Authority {
        kind: AuthorityKind::Jwt,
        id: text("key_id").to_owned(),
        issued_at: None,
        expires_at: expires.and_then(|second| Timestamp::from_second(second).ok()),
        tainted: authority.get("tainted").and_then(Value::as_bool).unwrap_or_default(),
        held_by: Vec::new(),
        seen_by: Vec::new(),
    }
}

/// The authorities of one bundle, in the order in which they expire.
#[must_use]
pub fn in_bundle(bundle: &Bundle) -> Vec<Authority> {
    let x509 = bundle.x509_authorities.iter().map(of_x509);
    let mut all: Vec<Authority> = x509.chain(bundle.jwt_authorities.iter().map(of_jwt)).collect();
    all.sort_by(|a, b| (a.kind, a.expires_at, &a.id).cmp(&(b.kind, b.expires_at, &b.id)));
    all
}

/// Servers whose bundles do not hold the same as the first one's that answers.
#[must_use]
pub fn differing(servers: &[ServerView]) -> Vec<String> {
    let contents = |server: &ServerView| {
        let own = authorities(&[ServerView {
            pod: String::new(),
            version: None,
            bundle: server.bundle.clone(),
            own: BTreeMap::new(),
            silent: None,
        }]);
        own.into_iter().map(|authority| (authority.kind, authority.id, authority.tainted)).collect::<Vec<_>>()
    };
    let mut answering = servers.iter().filter(|server| server.bundle.is_ok());
    let Some(first) = answering.next().map(contents) else { return Vec::new() };
    answering.filter(|server| contents(server) != first).map(|server| server.pod.clone()).collect()
}

/// All attested agents, as a server that answers knows them.
///
/// # Errors
/// None answers.
pub async fn agents(cx: &StepContext) -> Result<Agents, Failure> {
    server_json_of(cx, &registrations::server(cx).await?, &["agent", "list"]).await
}

/// All pods.
///
/// # Errors
/// They cannot be listed.
pub async fn pods(cx: &StepContext, cluster: &Cluster) -> Result<Vec<audit::Pod>, Failure> {
    let list = cluster.all::<Pod>().list(&ListParams::default()).await;
    let list = list.map_err(|error| api_failure("could not list pods", &error))?;
    let now = cx.session.world.clock.now();
    Ok(list.items.iter().map(|pod| seen(pod, now)).collect())
}

/// A pod, as far as identities go.
#[must_use]
pub fn seen(pod: &Pod, now: Timestamp) -> audit::Pod {
    let spec = pod.spec.as_ref();
    let ended = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let made = pod.metadata.creation_timestamp.as_ref().map_or(now, |made| made.0);
    let volumes = spec.and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    audit::Pod {
        uid: pod.uid().unwrap_or_default(),
        namespace: pod.namespace().unwrap_or_default(),
        name: pod.name_any(),
        account: spec.and_then(|spec| spec.service_account_name.clone()).unwrap_or_else(|| "default".to_owned()),
        node: spec.and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
        age_s: now.duration_since(made).as_secs(),
        runs: pod.metadata.deletion_timestamp.is_none() && !matches!(ended, Some("Succeeded" | "Failed")),
        mounts: volumes.iter().any(|volume| volume.csi.as_ref().is_some_and(|csi| csi.driver == names::CSI_DRIVER)),
    }
}

/// Names of all nodes, by uid.
///
/// # Errors
/// They cannot be listed.
pub async fn nodes(cluster: &Cluster) -> Result<BTreeMap<String, String>, Failure> {
    let list = cluster.all::<Node>().list(&ListParams::default()).await;
    let list = list.map_err(|error| api_failure("could not list the nodes", &error))?;
    Ok(list.items.iter().filter_map(|node| Some((node.uid()?, node.name_any()))).collect())
}

/// How long SVIDs live by default, as the servers' configuration says.
///
/// # Errors
/// It cannot be read.
pub async fn lifetimes(cx: &StepContext, cluster: &Cluster) -> Result<Lifetimes, Failure> {
    let spire = &cx.session.lab.spire;
    let found: Option<ConfigMap> = cluster.get(&spire.server_namespace, &names::server(spire)).await?;
    let text = found.and_then(|found| found.data).and_then(|data| data.get("server.conf").cloned()).unwrap_or_default();
    Ok(lifetimes_in(&text))
}

fn lifetimes_in(configuration: &str) -> Lifetimes {
    // The charts write it as JSON; what is not there is SPIRE's default.
    let configuration: Value = serde_json::from_str(configuration).unwrap_or_default();
    let time = |field: &str| configuration["server"][field].as_str()?.parse::<SignedDuration>().ok();
    let default = Lifetimes::default();
    Lifetimes {
        x509: time("default_x509_svid_ttl").unwrap_or(default.x509),
        jwt: time("default_jwt_svid_ttl").unwrap_or(default.jwt),
    }
}

/// Who has an identity, or could get one, but for the entries.
///
/// # Errors
/// The cluster, or every server, does not answer.
pub async fn facts(cx: &StepContext) -> Result<Facts, Failure> {
    let lab = &cx.session.lab;
    let cluster = reach::cluster(cx).await?;
    let (agents, pods, nodes, lifetimes) =
        tokio::try_join!(agents(cx), pods(cx, &cluster), nodes(&cluster), lifetimes(cx, &cluster))?;
    Ok(Facts {
        now: cx.session.world.clock.now(),
        trust_domain: lab.spire.trust_domain.clone(),
        expected: lab.identities.clone(),
        pods,
        nodes,
        agents: agents.agents,
        lifetimes,
    })
}

/// What the servers trust and hold. What cannot be seen of it is said.
///
/// # Errors
/// The servers cannot be listed, or there is none.
pub async fn trust(cx: &StepContext) -> Result<Trust, Failure> {
    let servers = servers(cx).await?;
    let mut unknown = Vec::new();
    for server in &servers {
        if let Err(failure) = &server.bundle {
            unknown.push(format!("the bundle of {}: {}", server.pod, failure.message));
        }
        match (&server.version, &server.silent) {
            (None, _) => unknown.push(format!("the version of {}: it does not answer", server.pod)),
            (Some(_), Some(silent)) => unknown.push(format!("the authorities of {}: {silent}", server.pod)),
            (Some(version), None) if *version < LOCAL_AUTHORITY => {
                unknown
                    .push(format!("which authorities are {}'s own: SPIRE {version} cannot tell, 1.11 can", server.pod));
            }
            _ => {}
        }
    }
    let knows = |server: &ServerView| server.own.len() == 2 && server.silent.is_none();
    Ok(Trust {
        authorities: authorities(&servers),
        servers: servers.iter().filter(|server| server.bundle.is_ok()).count(),
        holders_known: servers.iter().all(knows),
        differing: differing(&servers),
        unknown,
    })
}

/// The pods of a namespace that run.
///
/// # Errors
/// They cannot be listed.
pub async fn running(cluster: &Cluster, namespace: &str) -> Result<Vec<Pod>, Failure> {
    let pods = live::pods(cluster, namespace, "").await?;
    Ok(pods.into_iter().filter(|pod| seen(pod, Timestamp::UNIX_EPOCH).runs).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_are_those_of_the_configuration() {
        let lifetimes = lifetimes_in(r#"{"server": {"default_x509_svid_ttl": "4h", "default_jwt_svid_ttl": "1h30m"}}"#);
        assert_eq!(lifetimes.x509, SignedDuration::from_hours(4));
        assert_eq!(lifetimes.jwt, SignedDuration::from_mins(90));
        for other in ["", "server {}", "{}", r#"{"server": {"default_x509_svid_ttl": "soon"}}"#] {
            assert_eq!(lifetimes_in(other), Lifetimes::default(), "{other}");
        }
    }

    #[test]
    fn servers_that_hold_other_bundles_are_named() {
        let view = |pod: &str, keys: &[&str]| {
            let keys: Vec<Value> =
                keys.iter().map(|key| serde_json::json!({"key_id": key, "expires_at": "1700000000"})).collect();
            let bundle = Bundle { trust_domain: "td".into(), x509_authorities: Vec::new(), jwt_authorities: keys };
            ServerView { pod: pod.into(), version: None, bundle: Ok(bundle), own: BTreeMap::new(), silent: None }
        };
        let servers = [view("0", &["a", "b"]), view("1", &["b", "a"]), view("2", &["a"])];
        assert_eq!(differing(&servers), ["2"]);
        let all = authorities(&servers);
        assert_eq!(all.iter().map(|authority| authority.seen_by.len()).collect::<Vec<_>>(), [3, 2]);
    }
}
