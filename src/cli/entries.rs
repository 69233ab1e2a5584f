//! `coastal entries`: who is registered for which identity.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::cli::Global;
use crate::cli::goal::lock;
use crate::cli::outside::Outside;
use crate::cli::watch::{Shown, Watch};
use crate::error::{ExitCode, Failure};
use crate::observe;
use crate::session::Session;
use crate::spire::audit::Pod;
use crate::spire::entries::{Entry, Selector};
use crate::spire::id::Glob;
use crate::steps::{inspect, reach, registrations};
use crate::ui::Ui;

/// Arguments of `entries`.
#[derive(Debug, Args)]
pub struct EntriesArgs {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    watch: Watch,
}

/// Which entries.
#[derive(Debug, Clone, Default, Args)]
struct Filter {
    /// Only ids, or paths, that this covers: `*` within a segment, `**` across, like `/ns/*/sa/web`
    #[arg(long, value_name = "GLOB", global = true)]
    id: Option<String>,
    /// Only what is for pods of this namespace
    #[arg(long, value_name = "NAMESPACE", global = true)]
    namespace: Option<String>,
    /// Only what has this selector, like `k8s:ns:default`; several times for several selectors
    #[arg(long = "selector", value_name = "TYPE:VALUE", value_parser = selector, global = true)]
    selectors: Vec<Selector>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show them (this is the default)
    Show,
    /// Only say how many there are
    Count,
    /// Delete entries by their own ids; what the controller manager made, it makes again
    Delete {
        /// Ids as `coastal entries` shows them
        #[arg(required = true, value_name = "ENTRY")]
        ids: Vec<String>,
    },
}

fn selector(text: &str) -> Result<Selector, String> {
    match text.split_once(':') {
        Some((kind, value)) if !kind.is_empty() && !value.is_empty() => {
            Ok(Selector { kind: kind.to_owned(), value: value.to_owned() })
        }
        _ => Err("expected TYPE:VALUE, like `k8s:ns:default`".to_owned()),
    }
}

const HEAD: &[&str] = &["spiffe id", "for", "node", "ttl", "flags", "entry"];

/// The result of `entries`.
#[derive(Serialize)]
struct Document {
    schema: u32,
    trust_domain: String,
    /// How many the servers have, whatever the filter.
    total: usize,
    count: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    entries: Option<Vec<Row>>,
}

/// An entry as it is shown.
#[derive(Serialize)]
struct Row {
    id: String,
    spiffe_id: String,
    parent_id: String,
    selectors: Vec<String>,
    /// `NAMESPACE/NAME` of the pods that it selects by uid.
    pods: Vec<String>,
    x509_svid_ttl_s: i64,
    jwt_svid_ttl_s: i64,
    admin: bool,
    downstream: bool,
    store_svid: bool,
    expires_at: Option<jiff::Timestamp>,
    dns_names: Vec<String>,
    federates_with: Vec<String>,
    hint: String,
}

/// Shows, counts or deletes.
///
/// # Errors
/// No server answers; there is no such entry.
pub async fn run(
    args: &EntriesArgs,
    global: &Global,
    ui: &Ui,
    line: &str,
    outside: &Outside,
) -> Result<ExitCode, Failure> {
    let session = Session::new(outside.lab.clone(), outside.world.clone(), outside.paths.clone());
    match &args.action {
        None | Some(Action::Show) => {
            args.watch.show(outside, ui, async || look(&session, &args.filter, true, ui, outside).await).await
        }
        Some(Action::Count) => {
            args.watch.show(outside, ui, async || look(&session, &args.filter, false, ui, outside).await).await
        }
        Some(Action::Delete { ids }) => delete(&session, ids, global, ui, line, outside).await,
    }
}

async fn look(
    session: &Arc<Session>,
    filter: &Filter,
    list: bool,
    ui: &Ui,
    outside: &Outside,
) -> Result<Shown, Failure> {
    let cx = observe::looking(session, &outside.cancel);
    let cluster = reach::cluster(&cx).await?;
    let pods = inspect::pods(&cx, &cluster).await?;
    let wanted = Wanted::new(filter, &session.lab.spire.trust_domain, pods);
    let found = Arc::new(Mutex::new((0_usize, Vec::new())));
    let into = Arc::clone(&found);
    let total = registrations::each(&cx, move |entry| {
        if wanted.covers(&entry) {
            let mut found = into.lock().unwrap_or_else(PoisonError::into_inner);
            found.0 += 1;
            if list {
                found.1.push(wanted.row(entry));
            }
        }
    })
    .await?;
    let (count, mut rows) = std::mem::take(&mut *found.lock().unwrap_or_else(PoisonError::into_inner));
    rows.sort_by(|a: &Row, b: &Row| (&a.spiffe_id, &a.pods, &a.id).cmp(&(&b.spiffe_id, &b.pods, &b.id)));
    if ui.is_json() {
        let trust_domain = session.lab.spire.trust_domain.clone();
        return Shown::document(&Document { schema: 1, trust_domain, total, count, entries: list.then_some(rows) });
    }
    if !list {
        return Ok(Shown::line(count.to_string()));
    }
    let sum = if count == total { format!("{total} entries") } else { format!("{count} of {total} entries") };
    Ok(Shown::table(HEAD, rows.iter().map(Row::cells).collect()).notes([sum]))
}

/// The filter, with what is known of pods.
struct Wanted {
    id: Option<Glob>,
    namespace: Option<String>,
    selectors: Vec<Selector>,
    pods: BTreeMap<String, Pod>,
}

impl Wanted {
    fn new(filter: &Filter, trust_domain: &str, pods: Vec<Pod>) -> Self {
        Wanted {
            id: filter.id.as_ref().map(|glob| Glob::of_id(glob, trust_domain)),
            namespace: filter.namespace.clone(),
            selectors: filter.selectors.clone(),
            pods: pods.into_iter().map(|pod| (pod.uid.clone(), pod)).collect(),
        }
    }

    fn covers(&self, entry: &Entry) -> bool {
        self.id.as_ref().is_none_or(|glob| glob.matches(&entry.spiffe_id.to_string()))
            && self.selectors.iter().all(|selector| entry.selectors.contains(selector))
            && self.namespace.as_ref().is_none_or(|namespace| self.is_in(entry, namespace))
    }

    fn is_in(&self, entry: &Entry, namespace: &str) -> bool {
        let mut pods = entry.pod_uid().filter_map(|uid| self.pods.get(uid));
        pods.any(|pod| pod.namespace == namespace)
            || entry.values("ns").any(|selected| selected == namespace)
            // Of a pod that is gone, the name alone is left.
            || entry.spiffe_id.path.starts_with(&format!("/ns/{namespace}/"))
    }

    fn row(&self, entry: Entry) -> Row {
        let pods = entry.pod_uid().filter_map(|uid| self.pods.get(uid));
        Row {
            pods: pods.map(|pod| format!("{}/{}", pod.namespace, pod.name)).collect(),
            spiffe_id: entry.spiffe_id.to_string(),
            parent_id: entry.parent_id.to_string(),
            selectors: entry.selectors.iter().map(ToString::to_string).collect(),
            x509_svid_ttl_s: entry.x509_svid_ttl,
            jwt_svid_ttl_s: entry.jwt_svid_ttl,
            admin: entry.admin,
            downstream: entry.downstream,
            store_svid: entry.store_svid,
            expires_at: (entry.expires_at > 0).then(|| jiff::Timestamp::from_second(entry.expires_at).ok()).flatten(),
            id: entry.id,
            dns_names: entry.dns_names,
            federates_with: entry.federates_with,
            hint: entry.hint,
        }
    }
}

impl Row {
    fn cells(&self) -> Vec<String> {
        let flags = [("admin", self.admin), ("downstream", self.downstream), ("store", self.store_svid)];
        let flags: Vec<&str> = flags.into_iter().filter(|(_, set)| *set).map(|(name, _)| name).collect();
        let who = if self.pods.is_empty() { &self.selectors } else { &self.pods };
        let ttl = if self.x509_svid_ttl_s > 0 { format!("{} s", self.x509_svid_ttl_s) } else { "default".to_owned() };
        let node = self.parent_id.rsplit('/').next().unwrap_or_default().to_owned();
        vec![self.spiffe_id.clone(), who.join(" "), node, ttl, flags.join(" "), self.id.clone()]
    }
}

async fn delete(
    session: &Arc<Session>,
    ids: &[String],
    global: &Global,
    ui: &Ui,
    line: &str,
    outside: &Outside,
) -> Result<ExitCode, Failure> {
    ui.warning(
        "what the controller manager made for a pod is back within some ten seconds: `coastal contain` takes away what \
         it makes entries for",
    );
    let noun = if ids.len() == 1 { "entry" } else { "entries" };
    if global.dry_run {
        ui.note(&format!("would delete {noun} {}; nothing was done", ids.join(", ")));
        return Ok(ExitCode::Ok);
    }
    ui.confirm(&format!("delete {noun} {}?", ids.join(", ")), global.yes || outside.is_harmless())?;
    let _lock = lock(outside, line)?;
    let cx = observe::looking(session, &outside.cancel);
    for id in ids {
        registrations::delete(&cx, id).await?;
        ui.note(&format!("deleted {id}"));
    }
    if ui.is_json() {
        ui.document(&serde_json::json!({"schema": 1, "deleted": ids}));
    }
    ui.next(&["coastal entries".to_owned(), "coastal contain ID".to_owned()]);
    Ok(ExitCode::Ok)
}
