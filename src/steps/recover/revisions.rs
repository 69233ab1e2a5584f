//! What helm remembers of the release: which images each revision had.

use futures::future::try_join_all;
use semver::Version;
use serde::Deserialize;
use serde_json::Value;

use crate::engine::StepContext;
use crate::error::Failure;
use crate::spire::names;
use crate::spire::recovery::Revision;
use crate::steps::reach;
use crate::tools::helm::{self, HistoryRow, ReleaseStatus};

/// The revisions, oldest first. helm keeps ten.
///
/// # Errors
/// helm cannot tell.
pub async fn revisions(cx: &StepContext) -> Result<Vec<Revision>, Failure> {
    let spire = &cx.session.lab.spire;
    let helm = reach::helm(cx);
    let rows = match cx.run(&helm.history(&spire.release, &spire.release_namespace)).await {
        Ok(output) => helm::parse_history(&output)?,
        Err(error) if helm::is_release_not_found(&error) => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    try_join_all(rows.into_iter().map(|row| async move {
        let command = reach::helm(cx).get_manifest(&spire.release, &spire.release_namespace, row.revision);
        let output = cx.run(&command).await?;
        Ok::<_, Failure>(revision(&row, &output.stdout))
    }))
    .await
}

fn revision(row: &HistoryRow, manifest: &str) -> Revision {
    // After what is no YAML the deserializer hands out errors for ever.
    let documents = serde_yaml::Deserializer::from_str(manifest);
    let objects: Vec<Value> = documents.map_while(|document| Value::deserialize(document).ok()).collect();
    let image = |kind: &str, container: &str| {
        objects.iter().filter(|object| object["kind"] == kind).find_map(|object| {
            let containers = object.pointer("/spec/template/spec/containers")?.as_array()?;
            let image = containers.iter().find(|found| found["name"] == container)?["image"].as_str()?;
            Version::parse(image.split('@').next()?.rsplit('/').next()?.split_once(':')?.1).ok()
        })
    };
    Revision {
        number: row.revision,
        deployed: matches!(row.status, ReleaseStatus::Deployed | ReleaseStatus::Superseded),
        chart: row.chart.strip_prefix("spire-").and_then(|version| Version::parse(version).ok()),
        server: image("StatefulSet", names::SERVER_CONTAINER),
        agent: image("DaemonSet", names::AGENT_CONTAINER),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_tells_its_images() {
        let manifest = "---\nkind: StatefulSet\nspec:\n  template:\n    spec:\n      containers:\n      - {name: spire-server, image: 'ghcr.io/spiffe/spire-server:1.11.3'}\n---\n\n---\nkind: DaemonSet\nspec:\n  template:\n    spec:\n      containers:\n      - {name: spire-agent, image: 'r:5000/spire-agent:1.11.2@sha256:00'}\n";
        let row = HistoryRow { revision: 4, status: ReleaseStatus::Superseded, chart: "spire-0.24.2".into() };
        let found = revision(&row, manifest);
        let text = |version: &Option<Version>| version.as_ref().map(ToString::to_string).unwrap_or_default();
        assert_eq!(
            (text(&found.server), text(&found.agent), text(&found.chart)),
            ("1.11.3".into(), "1.11.2".into(), "0.24.2".into())
        );
        assert!(found.deployed);
        let failed = HistoryRow { revision: 5, status: ReleaseStatus::Failed, chart: "other-1".into() };
        assert_eq!(revision(&failed, "\u{fffd}: [").server, None);
    }
}
