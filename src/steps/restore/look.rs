//! What a restore would begin from, and what would be lost by it.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use semver::Version;

use super::marker::{self, Marker};
use crate::backup::{Manifest, Slot};
use crate::engine::StepContext;
use crate::error::Failure;
use crate::spire::cli::{Bundle, Count, X509Authority};
use crate::spire::names;
use crate::steps::identity::server_json_of;
use crate::steps::live::Live;
use crate::steps::{database, reach, rekey};

/// What is there.
#[derive(Debug, Default)]
pub struct Present {
    /// The servers' StatefulSet.
    pub installed: bool,
    /// What its template asks for.
    pub template: Option<Version>,
    /// Servers that answer.
    pub answering: usize,
    /// Claims with keys of servers.
    pub claims: usize,
    /// The row of `migrations`, if the database answers and has one.
    pub row: Option<(u32, String)>,
    /// Registration entries, where a server tells.
    pub entries: Option<u64>,
    /// Ids of the authorities in the bundle, where a server tells.
    pub authorities: Option<BTreeSet<String>>,
    /// A restore that is under way.
    pub marker: Option<Marker>,
    /// New keys that are under way.
    pub rekey: Option<rekey::marker::Marker>,
}

impl Present {
    /// Looks.
    ///
    /// # Errors
    /// There is no cluster, or it is not the lab's.
    pub async fn look(cx: &StepContext) -> Result<Self, Failure> {
        let cluster = reach::cluster(cx).await?;
        let spire = &cx.session.lab.spire;
        let set = cluster.get::<StatefulSet>(&spire.server_namespace, &names::server(spire)).await?;
        let live = Live::look(cx).await?;
        let mut claims = 0;
        for server in names::server_pods(&cx.session.lab.spire) {
            let claim = names::server_claim(&server);
            let found = cluster.get::<PersistentVolumeClaim>(&spire.server_namespace, &claim).await?;
            claims += usize::from(found.is_some());
        }
        let answering: Vec<&String> =
            live.servers.iter().filter(|(_, version)| version.is_some()).map(|(pod, _)| pod).collect();
        let (mut entries, mut authorities) = (None, None);
        for pod in &answering {
            let bundle = server_json_of::<Bundle>(cx, pod, &["bundle", "show"]).await;
            if let (Ok(bundle), Ok(count)) = (bundle, server_json_of::<Count>(cx, pod, &["entry", "count"]).await) {
                authorities = Some(bundle.x509_authorities.iter().filter_map(X509Authority::key_id).collect());
                entries = Some(count.count);
                break;
            }
        }
        Ok(Present {
            installed: set.is_some(),
            template: live.server_template,
            answering: answering.len(),
            claims,
            row: database::migrations(cx).await.ok(),
            entries,
            authorities,
            marker: marker::read(cx, &cluster).await?,
            rekey: rekey::marker::read(cx, &cluster).await?,
        })
    }

    /// Whether there is nothing to lose.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.installed && self.claims == 0 && self.row.is_none()
    }

    /// What is there and not in the backup, in words.
    #[must_use]
    pub fn lost(&self, manifest: &Manifest) -> Vec<String> {
        let mut lost = Vec::new();
        match self.entries {
            Some(now) => lost.push(format!(
                "registration entries: {now} now, {} in the backup; what was made since {:.0} by hand is lost, the controller manager makes those of pods again",
                manifest.entries, manifest.taken_at
            )),
            None if self.row.is_some() => {
                lost.push(format!("everything that was written to the database since {:.0}", manifest.taken_at));
            }
            None => {}
        }
        let known: BTreeSet<&String> = manifest.authorities.iter().map(|authority| &authority.id).collect();
        let newer = self.authorities.iter().flatten().filter(|id| !known.contains(id));
        lost.extend(newer.map(|id| format!("CA {id}, made since: what it has signed will not be trusted any more")));
        if self.authorities.is_none() && self.claims > 0 {
            lost.push(format!("the keys on {} claims, if they are not those of the backup", self.claims));
        }
        lost
    }

    /// Whether agents and servers will not believe each other: they would not know the CAs that sign from then on, or
    /// hand out what those have signed that are gone.
    #[must_use]
    pub fn agents_begin_anew(&self, manifest: &Manifest) -> bool {
        if !self.installed {
            return false;
        }
        let Some(now) = &self.authorities else { return true };
        let ids = |wanted: fn(&crate::backup::Authority) -> bool| {
            manifest.authorities.iter().filter(move |one| wanted(one)).map(|one| &one.id)
        };
        let unknown = ids(|one| one.slot == Slot::Active).any(|id| !now.contains(id));
        unknown || now.iter().any(|id| !ids(|one| one.trusted).any(|known| known == id))
    }
}
