//! `coastal open`: pages of the lab on this machine, through forwards that outlive the pods behind them.

use clap::Args;
use futures::future::try_join_all;
use serde_json::json;
use tokio::time::Instant;

use crate::cli::outside::Outside;
use crate::error::{ExitCode, Failure, Kind};
use crate::kube::{Cluster, Link};
use crate::observe;
use crate::session::Session;
use crate::steps::access::{Door, Page, doors, installed_by, login};
use crate::steps::reach;
use crate::tools::browser;
use crate::tools::ports::{self, Taken, Wish};
use crate::ui::{Opened, Ui};

/// Arguments of `open`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  coastal open grafana                  its URL and login; Ctrl-C ends it
  coastal open grafana --browser        and the browser as well
  coastal open prometheus --port 9999   on that port, or not at all
  coastal open --all                    every page that this lab has

A forward goes on when its pod is replaced, and when the API server comes back.")]
pub struct OpenArgs {
    /// Which page
    #[arg(
        value_enum,
        value_name = "grafana|prometheus|tornjak",
        required_unless_present = "all",
        conflicts_with = "all"
    )]
    page: Option<Page>,
    /// Every page that this lab has
    #[arg(long)]
    all: bool,
    /// Open the browser as well
    #[arg(long)]
    browser: bool,
    /// Listen on this port and no other; 0 is any that is free
    #[arg(long, value_name = "PORT", conflicts_with = "all")]
    port: Option<u16>,
}

/// A door with its port on this machine.
struct Open {
    door: Door,
    taken: Taken,
}

/// Forwards until Ctrl-C, which is the good end.
///
/// # Errors
/// The lab has no such page, it is not installed, or its port is somebody else's.
pub async fn run(args: &OpenArgs, ui: &Ui, outside: &Outside) -> Result<ExitCode, Failure> {
    let session = Session::new(outside.lab.clone(), outside.world.clone(), outside.paths.clone());
    let cx = observe::looking(&session, &outside.cancel);
    let mut wanted = Vec::new();
    match args.page {
        Some(page) => wanted.extend(doors(&outside.lab, page)?),
        None => {
            for page in [Page::Grafana, Page::Prometheus, Page::Tornjak] {
                match doors(&outside.lab, page) {
                    Ok(doors) => wanted.extend(doors),
                    Err(failure) => ui.note(&failure.message),
                }
            }
        }
    }
    if let (Some(port), Some(door)) = (args.port, wanted.first_mut()) {
        door.wish = Wish::Exactly(port);
    }
    let cluster = reach::cluster(&cx).await?;
    for door in &wanted {
        installed(&cluster, door).await?;
    }
    let mut open = Vec::new();
    for door in wanted {
        let taken = ports::take(door.wish).await.map_err(|failure| {
            if door.is_page {
                return failure.next("or leave out `--port`: then a free one is taken");
            }
            let port = door.destination.port;
            failure.fact(format!("Tornjak's page asks for localhost:{port} from inside the browser"))
        })?;
        open.push(Open { door, taken });
    }
    for one in open.iter().filter(|one| one.door.is_page) {
        announce(one, &cluster, args, ui, outside).await;
    }
    let began = Instant::now();
    try_join_all(open.into_iter().map(|Open { door, taken }| {
        let cluster = &cluster;
        async move {
            let tell = |link: &Link| said(ui, door.name, link, began);
            let done = cluster.forward(&door.destination, taken.listeners, &outside.cancel, &tell).await;
            done.map_err(|failure| failure.context(door.name))
        }
    }))
    .await?;
    if !ui.is_json() {
        ui.note("closed");
    }
    Ok(ExitCode::Ok)
}

/// A page without a single pod is not on its way: nobody waits for it.
async fn installed(cluster: &Cluster, door: &Door) -> Result<(), Failure> {
    if cluster.has_pods(&door.destination).await? {
        return Ok(());
    }
    Err(Failure::new(
        Kind::Prerequisite,
        format!("{} is not installed: there is no pod in {}", door.name, door.destination),
    )
    .next(format!("`{}` brings it", installed_by(door.page))))
}

async fn announce(one: &Open, cluster: &Cluster, args: &OpenArgs, ui: &Ui, outside: &Outside) {
    let Open { door, taken } = one;
    if let Some((wanted, holder)) = &taken.instead_of {
        ui.note(&format!("{}: port {wanted} is taken by {holder}; it is on {} instead", door.name, taken.port));
    }
    // A page is worth opening without its login, too.
    let login = login(cluster, &outside.lab, door.page).await.unwrap_or_else(|failure| {
        ui.warning(&failure.message);
        ui.advice(&failure.next);
        None
    });
    let url = format!("http://localhost:{}", taken.port);
    ui.opened(&Opened { kind: "opened", page: door.page.name(), url: url.clone(), login });
    if args.browser && outside.is_harmless() {
        ui.note(&format!("rehearsal: the browser would be opened at {url}"));
    } else if args.browser
        && let Err(failure) = browser::open(&url)
    {
        ui.warning(&failure.message);
    }
}

/// Says where a forward stands: a line, with the seconds since the beginning.
fn said(ui: &Ui, name: &str, link: &Link, began: Instant) {
    if ui.is_json() {
        let (state, detail) = match link {
            Link::Through(pod) => ("through", pod),
            Link::Waiting(why) => ("waiting", why),
        };
        ui.record(&json!({"type": "link", "door": name, "state": state, "detail": detail}));
        return;
    }
    let words = match link {
        Link::Through(pod) => format!("through {pod}"),
        Link::Waiting(why) => format!("waits, and holds connections: {why}"),
    };
    ui.note(&format!("{:>6.1}s  {name:<16} {words}", began.elapsed().as_secs_f64()));
}
