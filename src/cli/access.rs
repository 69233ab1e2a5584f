//! `coastal access`: where the lab's pages are, as data. What `coastal open` prints, without opening anything.

use crate::cli::outside::Outside;
use crate::error::{ExitCode, Failure};
use crate::kube::Cluster;
use crate::observe;
use crate::session::Session;
use crate::steps::access::{Page, doors, login};
use crate::steps::reach;
use crate::tools::ports::Wish;
use crate::ui::{PageRow, Pages, Ui};

/// Looks, and shows every page that this lab has.
///
/// # Errors
/// There is no cluster, or it does not answer.
pub async fn run(ui: &Ui, outside: &Outside) -> Result<ExitCode, Failure> {
    let session = Session::new(outside.lab.clone(), outside.world.clone(), outside.paths.clone());
    let cx = observe::looking(&session, &outside.cancel);
    let cluster = reach::cluster(&cx).await?;
    let mut pages = Vec::new();
    for page in [Page::Grafana, Page::Prometheus, Page::Tornjak] {
        if let Some(row) = row(&cluster, outside, page).await {
            pages.push(row);
        }
    }
    ui.pages(&Pages { schema: 1, pages });
    Ok(ExitCode::Ok)
}

/// Nothing for a page that this lab does not have.
async fn row(cluster: &Cluster, outside: &Outside, page: Page) -> Option<PageRow> {
    let doors = doors(&outside.lab, page).ok()?;
    let door = doors.first()?;
    let (Wish::Usual(port) | Wish::Exactly(port)) = door.wish;
    let (pod, login) = tokio::join!(cluster.pod_of(&door.destination), login(cluster, &outside.lab, page));
    let mut troubles = Vec::new();
    let mut keep = |failure: Failure| troubles.push(failure.message);
    let pod = pod.map_err(&mut keep).ok();
    let login = login.map_err(&mut keep).ok().flatten();
    Some(PageRow {
        page: page.name(),
        url: format!("http://localhost:{port}"),
        command: format!("coastal open {}", page.name()),
        login,
        pod,
        troubles,
    })
}
