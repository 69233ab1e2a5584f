//! PostgreSQL: SPIRE's data store. It is there when it accepts SPIRE's login.

use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Secret};
use kube::core::DynamicObject;
use serde_json::json;

use crate::config::{DatabaseSpec, Lab};
use crate::engine::{Body, StepContext};
use crate::error::{Failure, Kind};
use crate::kube::{Cluster, Rollout, label};
use crate::plan::Finding;
use crate::spire::bundles::Keys;
use crate::steps::addons::{found_by, gone};
use crate::steps::{manifests, reach, release};

/// The database's pod.
pub(super) const POD: &str = "spire-db-0";
/// The container of PostgreSQL in it.
pub(super) const CONTAINER: &str = "postgres";
/// The claim of its volume.
pub(super) const CLAIM: &str = "data-spire-db-0";
/// As SPIRE logs in: by name, over the network, with the password (on its own loopback PostgreSQL asks for none).
const LOGIN: &str =
    r#"PGPASSWORD="$POSTGRES_PASSWORD" psql -h spire-db -U "$POSTGRES_USER" -d "$POSTGRES_DB" -tAc 'select 1'"#;

const MIGRATIONS: &str =
    r#"psql -U "$POSTGRES_USER" -d "$POSTGRES_DB" -tAc 'select version, code_version from migrations'"#;

const CONTENTS: &str = r#"psql -U "$POSTGRES_USER" -d "$POSTGRES_DB" -tAc 'select (select count(*) from bundles), (select count(*) from registered_entries)'"#;
/// What the data store holds of the trust domain's bundle: a message `spire.common.Bundle`.
///
/// # Errors
/// The database does not answer, or has no such row.
pub async fn bundle_row(cx: &StepContext) -> Result<Vec<u8>, Failure> {
    let spire = &cx.session.lab.spire;
    // The name of a trust domain has no quotes: lab.toml was checked.
    let script = format!(
        r#"psql -U "$POSTGRES_USER" -d "$POSTGRES_DB" -tAc "select encode(data, 'hex') from bundles where trust_domain = 'spiffe://{}'""#,
        spire.trust_domain
    );
    let output = reach::exec(cx, &spire.server_namespace, POD, CONTAINER, &["sh", "-c", &script]).await?;
    bytes_of(output.stdout.trim())
        .ok_or_else(|| Failure::tool(format!("the data store has no bundle of {}", spire.trust_domain)))
}

/// Takes the trust domain's bundle out of the data store. The servers must be down: one that runs would write it again.
///
/// # Errors
/// The database does not answer, or it is still there.
pub async fn drop_bundle(cx: &StepContext) -> Result<(), Failure> {
    let spire = &cx.session.lab.spire;
    // The name of a trust domain has no quotes: lab.toml was checked. Two statements are one transaction.
    let script = format!(
        r#"psql -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d "$POSTGRES_DB" -tAc "delete from bundles where trust_domain = 'spiffe://{0}'; select count(*) from bundles where trust_domain = 'spiffe://{0}'""#,
        spire.trust_domain
    );
    let output = reach::exec(cx, &spire.server_namespace, POD, CONTAINER, &["sh", "-c", &script]).await?;
    match output.stdout.trim().lines().last() {
        Some("0") => Ok(()),
        other => Err(Failure::tool(format!("the bundle of {} is still in the data store", spire.trust_domain))
            .fact(format!("psql said `{}`", other.unwrap_or_default()))),
    }
}

/// Out of hex; `None` if it is none, or empty.
fn bytes_of(hex: &str) -> Option<Vec<u8>> {
    let pairs = hex.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    pairs.collect::<Option<Vec<u8>>>().filter(|bytes| !bytes.is_empty())
}

/// What all servers share, of one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shared {
    /// Schema version.
    pub schema: u32,
    /// The newest SPIRE version that wrote to the data store.
    pub code_version: String,
    /// How many registration entries there are.
    pub entries: u64,
    /// How many agents are attested.
    pub attested_agents: usize,
    /// The trust domain's bundle; why it cannot be read, if it cannot.
    pub bundle: Result<Keys, String>,
}

impl Shared {
    /// Out of a row of psql.
    fn read(row: &str) -> Option<Self> {
        let mut columns = row.split('|').map(str::trim);
        let mut next = || columns.next();
        let (schema, code_version) = (next()?.parse().ok()?, next()?.to_owned());
        let (entries, attested_agents) = (next()?.parse().ok()?, next()?.parse().ok()?);
        let bundle = bytes_of(next()?).ok_or_else(|| "the data store has no bundle yet".to_owned());
        Some(Shared {
            schema,
            code_version,
            entries,
            attested_agents,
            bundle: bundle.and_then(|row| Keys::of_row(&row)),
        })
    }
}

/// Reads what all servers share, with one question: asking a server for each of these takes four.
///
/// # Errors
/// The database does not answer, or SPIRE has not written to it yet.
pub async fn shared(cx: &StepContext) -> Result<Shared, Failure> {
    let spire = &cx.session.lab.spire;
    let script = format!(
        r#"psql -U "$POSTGRES_USER" -d "$POSTGRES_DB" -tAc "select version, code_version, (select count(*) from registered_entries), (select count(*) from attested_node_entries), (select encode(data, 'hex') from bundles where trust_domain = 'spiffe://{}') from migrations""#,
        spire.trust_domain
    );
    let output = reach::exec(cx, &spire.server_namespace, POD, CONTAINER, &["sh", "-c", &script]).await?;
    Shared::read(output.stdout.trim()).ok_or_else(|| {
        Failure::tool("the data store does not say what SPIRE has written to it")
            .next("`coastal logs server` shows whether SPIRE has written to it yet")
    })
}

/// [`crate::plan::StepId::Database`].
pub struct Up;

#[async_trait]
impl Body for Up {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        let cluster = reach::cluster(cx).await?;
        let found = found_by(cluster.difference(&manifests::database(&cx.session.lab)?).await?, String::new);
        if !found.is_satisfied() {
            return Ok(found);
        }
        if secret(cx, &cluster).await?.is_none() {
            return Ok(Finding::Missing(format!("Secret {} is not there", DatabaseSpec::SECRET)));
        }
        Ok(match login(cx).await {
            Ok(()) => Finding::Satisfied("accepts SPIRE's login".into()),
            Err(failure) => Finding::Differs(failure.message),
        })
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        let cluster = reach::cluster(cx).await?;
        // A password that exists is kept: the claim may hold a database that knows it.
        if secret(cx, &cluster).await?.is_none() {
            cluster.apply(&[new_secret(&cx.session.lab)?], &cx.patience()).await?;
        }
        cluster.apply(&manifests::database(&cx.session.lab)?, &cx.patience()).await
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        let cluster = reach::cluster(cx).await?;
        let namespace = &cx.session.lab.spire.server_namespace;
        cluster.rolled_out(Rollout::StatefulSet, namespace, DatabaseSpec::NAME, &cx.patience()).await?;
        loop {
            match login(cx).await {
                Ok(()) => return Ok("accepts SPIRE's login".into()),
                Err(failure) if failure.kind == Kind::Interrupted => return Err(failure),
                Err(failure) if cx.remaining() < Duration::from_secs(2) => {
                    let refused = failure.facts.iter().any(|fact| fact.contains("password authentication failed"));
                    let failure = failure.context("the data store does not accept SPIRE's login");
                    return Err(if refused {
                        failure
                            .fact("its volume holds a database that was made with another password")
                            .next("`coastal tear-down` removes the volume (and the data on it); then `coastal deploy-database`")
                    } else {
                        cluster
                            .explain(failure, namespace, "app=spire-db")
                            .await
                            .first("`coastal logs database` shows what PostgreSQL says")
                    });
                }
                Err(failure) => {
                    cx.progress(format!("waiting for a login: {}", failure.facts.last().unwrap_or(&failure.message)));
                    cx.sleep(Duration::from_millis(500)).await?;
                }
            }
        }
    }
}

/// [`crate::plan::StepId::RemoveDatabase`].
pub struct Down;

#[async_trait]
impl Body for Down {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        let Some(cluster) = reach::cluster_if_any(cx).await? else {
            return Ok(Finding::Satisfied("there is no cluster".into()));
        };
        let spire = &cx.session.lab.spire;
        let left = cluster.those_of(&objects(&cx.session.lab)?, &cx.session.lab).await?;
        let claim: Option<PersistentVolumeClaim> = cluster.get(&spire.server_namespace, CLAIM).await?;
        Ok(match (left.first(), claim) {
            (None, None) => Finding::Satisfied("nothing of it is there".into()),
            (Some(first), _) => Finding::Differs(format!("{first} is there")),
            (None, Some(_)) => Finding::Differs(format!("its claim {CLAIM} is there")),
        })
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        let spire = &cx.session.lab.spire;
        // It was not there when the run began; the data would be gone for good.
        if release::current(cx, &spire.release, &spire.release_namespace).await?.is_some() {
            return Err(Failure::refused("SPIRE still uses the data store; without it every server would stop")
                .fact(format!("release {} is installed", spire.release))
                .next("`coastal spire-uninstall` first, or `coastal down --keep-cluster` for everything"));
        }
        let cluster = reach::cluster(cx).await?;
        cluster.delete(&objects(&cx.session.lab)?, &cx.session.lab, &cx.patience()).await?;
        let namespace = &spire.server_namespace;
        cluster.pods_gone(namespace, "app=spire-db", &cx.patience()).await?;
        let claims = cluster.namespaced::<PersistentVolumeClaim>(namespace);
        cluster.delete_named(claims, CLAIM, &format!("claim {namespace}/{CLAIM}"), &cx.patience()).await
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        gone(self.check(cx).await?)
    }
}

/// The row of `migrations`: schema version, and the newest SPIRE version that wrote to the database.
///
/// # Errors
/// The database does not answer, or SPIRE has not written to it yet.
pub async fn migrations(cx: &StepContext) -> Result<(u32, String), Failure> {
    let namespace = &cx.session.lab.spire.server_namespace;
    let output = reach::exec(cx, namespace, POD, CONTAINER, &["sh", "-c", MIGRATIONS]).await?;
    let row = output.stdout.trim();
    row.split_once('|')
        .and_then(|(schema, code)| Some((schema.trim().parse().ok()?, code.trim().to_owned())))
        .ok_or_else(|| {
            Failure::tool(format!("the row of `migrations` reads `{row}`"))
                .next("`coastal logs server` shows whether SPIRE has written to the data store yet")
        })
}

/// What is in the data store: whether it has a bundle, and how many registration entries.
///
/// # Errors
/// The database does not answer, or SPIRE has not written to it yet.
pub async fn contents(cx: &StepContext) -> Result<(bool, u64), Failure> {
    let namespace = &cx.session.lab.spire.server_namespace;
    let output = reach::exec(cx, namespace, POD, CONTAINER, &["sh", "-c", CONTENTS]).await?;
    let row = output.stdout.trim();
    row.split_once('|')
        .and_then(|(bundles, entries)| Some((bundles.trim().parse::<u64>().ok()? > 0, entries.trim().parse().ok()?)))
        .ok_or_else(|| Failure::tool(format!("the numbers of bundles and entries read `{row}`")))
}

async fn secret(cx: &StepContext, cluster: &Cluster) -> Result<Option<Secret>, Failure> {
    cluster.get(&cx.session.lab.spire.server_namespace, DatabaseSpec::SECRET).await
}

/// Logs in as SPIRE does.
///
/// # Errors
/// The login is refused, or nobody answers.
pub async fn login(cx: &StepContext) -> Result<(), Failure> {
    let namespace = &cx.session.lab.spire.server_namespace;
    let output = reach::exec(cx, namespace, POD, CONTAINER, &["sh", "-c", LOGIN]).await?;
    match output.stdout.trim() {
        "1" => Ok(()),
        other => {
            Err(Failure::tool("the data store does not answer `select 1` with 1")
                .fact(format!("it answered `{other}`")))
        }
    }
}

fn objects(lab: &Lab) -> Result<Vec<DynamicObject>, Failure> {
    let mut objects = manifests::database(lab)?;
    objects.push(secret_object(lab, "")?);
    Ok(objects)
}

fn new_secret(lab: &Lab) -> Result<DynamicObject, Failure> {
    let mut bytes = [0_u8; 24];
    getrandom::fill(&mut bytes).map_err(|error| Failure::unexpected(format!("no random numbers: {error}")))?;
    secret_object(lab, &base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes))
}

fn secret_object(lab: &Lab, password: &str) -> Result<DynamicObject, Failure> {
    let mut object: DynamicObject = serde_json::from_value(json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": { "name": DatabaseSpec::SECRET, "namespace": lab.spire.server_namespace },
        "type": "Opaque",
        "stringData": { "username": lab.database.username, "database": lab.database.database, "password": password },
    }))
    .map_err(|error| Failure::unexpected(error.to_string()))?;
    label(&mut object, lab);
    Ok(object)
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::config::embedded;
    use crate::kube::name_of;
    use crate::plan::{StepId, explain};
    use crate::spire::records;

    #[test]
    fn what_servers_share_is_read_from_one_row() {
        let row = records::Bundle {
            jwt_keys: vec![records::PublicKey { id: "k".into(), tainted: true, ..Default::default() }],
            ..Default::default()
        };
        let shared = Shared::read(&format!("23|1.11.3|29|2|{}", crate::spire::hex(&row.encode_to_vec()))).unwrap();
        assert_eq!((shared.schema, shared.code_version.as_str()), (23, "1.11.3"));
        assert_eq!((shared.entries, shared.attested_agents), (29, 2));
        assert_eq!(shared.bundle.unwrap().jwt.unwrap().into_keys().collect::<Vec<_>>(), ["k"]);
        assert!(Shared::read("22|1.7.2|0|0|").unwrap().bundle.unwrap_err().contains("no bundle"));
        assert!(Shared::read("22|1.7.2|0|0|0aff").unwrap().bundle.is_err());
        for torn in ["", "22|1.7.2", "22|1.7.2|x|0|", "psql: warning"] {
            assert_eq!(Shared::read(torn), None, "{torn}");
        }
    }

    #[test]
    fn what_a_person_would_delete_is_what_is_deleted() {
        let mut lab = embedded().unwrap();
        let by_hand = explain(StepId::RemoveDatabase, &lab).by_hand.join(" ");
        let mut all: Vec<String> = objects(&lab).unwrap().iter().map(name_of).collect();
        all.push(format!("PVC {}/{CLAIM}", lab.spire.server_namespace));
        for object in all {
            let (kind, name) = object.split_once(' ').unwrap();
            let (namespace, name) = name.split_once('/').unwrap();
            assert!(by_hand.contains(&format!("-n {namespace} ")), "{object}: {by_hand}");
            assert!(by_hand.contains(&format!(" {}/{name}", kind.to_lowercase())), "{object}: {by_hand}");
        }
        lab.database.manifest = Some("mine.yaml".into());
        let by_hand = explain(StepId::RemoveDatabase, &lab).by_hand.join(" ");
        assert!(by_hand.contains("delete -f mine.yaml"), "{by_hand}");
        assert!(by_hand.contains(" secret/spire-db ") && !by_hand.contains("statefulset"), "{by_hand}");
    }
}
