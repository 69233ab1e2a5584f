//! The way down across a schema that the older servers refuse: servers stopped, database restored, servers started at
//! the older version.

use async_trait::async_trait;

use crate::engine::{Body, StepContext};
use crate::error::Failure;
use crate::plan::Finding;
use crate::spire::names;
use crate::spire::values::Images;
use crate::steps::dump::{self, Dump};
use crate::steps::live::Live;
use crate::steps::upgrade::aim::Aim;
use crate::steps::upgrade::{half, hop, source};
use crate::steps::{database, reach};

/// [`crate::plan::HopPart::Restore`].
pub(super) struct Restore(pub(super) u16);

impl Restore {
    /// The dump that the plan chose.
    fn dump(&self, cx: &StepContext) -> Result<Dump, Failure> {
        let directory = cx.session.paths.dumps();
        let restore = hop(cx, self.0)?.restore.as_ref();
        let name = restore.map(|restore| restore.backup.name.as_str()).unwrap_or_default();
        dump::list(&directory)?.into_iter().find(|dump| dump.file == name).ok_or_else(|| {
            Failure::refused(format!("the dump `{}` is not there any more", directory.join(name).display()))
                .next("run the same command again: it plans with the dumps that are there")
        })
    }
}

#[async_trait]
impl Body for Restore {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        let to = &hop(cx, self.0)?.to;
        let live = Live::look(cx).await?;
        let all = live.servers.len() == cx.session.lab.spire.servers as usize;
        if all && live.servers.iter().all(|(_, version)| version.as_ref() == Some(to)) {
            return Ok(Finding::Satisfied(format!("all servers run {to}")));
        }
        let dump = self.dump(cx)?;
        Ok(Finding::Differs(format!("the database goes back to {}, schema {}", dump.taken_at, dump.migrations)))
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        let spire = &cx.session.lab.spire;
        let to = hop(cx, self.0)?.to.clone();
        let dump = self.dump(cx)?;
        let live = Live::look(cx).await?;
        let chart = source::current(cx, &live)?;
        let agent = live.agent_template.clone().unwrap_or_else(|| to.clone());
        let cluster = reach::cluster(cx).await?;
        let (namespace, name) = (&spire.server_namespace, names::server(spire));

        cx.progress("stopping the servers");
        cluster.scale(namespace, &name, 0).await?;
        cluster.pods_gone(namespace, names::SERVER_SELECTOR, &cx.patience()).await?;

        cx.progress(format!("putting back the dump of {}", dump.taken_at));
        dump::put_back(cx, &dump).await.map_err(|failure| {
            failure.fact("the servers are stopped; workloads keep the SVIDs that they have until these expire")
        })?;
        cx.progress(format!("starting the servers at {to}"));
        let images = Images { server: to, agent };
        Aim::settled(chart, images).apply(cx).await?;
        Ok(())
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        let cluster = reach::cluster(cx).await?;
        let rolled = half::roll_servers(cx, &cluster).await?;
        let (schema, code) = database::migrations(cx).await?;
        Ok(format!("{rolled}; the database is at schema {schema}, written by SPIRE {code}"))
    }
}
