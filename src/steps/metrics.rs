//! What Prometheus knows of SPIRE: whether it sees the servers and agents at all, and the numbers that matter. Asked
//! through a forward of our own, so nothing has to be opened first.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use http::StatusCode;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::config::Lab;
use crate::engine::StepContext;
use crate::error::{Failure, Kind};
use crate::kube::{Cluster, Destination};
use crate::spire::metrics::{PANELS, Unit};
use crate::steps::access::{Page, doors, installed_by};
use crate::steps::reach;

/// One answer of Prometheus.
const LIMIT: Duration = Duration::from_secs(10);
/// How many points a series has.
const POINTS: i64 = 60;
/// Prometheus repeats the last value of a series for so long, in seconds, unless it saw the series end.
const STALE: f64 = 300.0;

/// What Prometheus knows.
#[derive(Debug, Clone, Serialize)]
pub struct Metrics {
    /// 1.
    pub schema: u32,
    /// Seconds that the series go back.
    pub window_s: i64,
    /// The pods that Prometheus was told to look at by SPIRE's PodMonitors.
    pub targets: Vec<Target>,
    /// Monitors of ours that select nothing.
    pub blind: Vec<String>,
    /// The numbers.
    pub panels: Vec<PanelValues>,
    /// What Prometheus remarked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
}

impl Metrics {
    /// Whether Prometheus sees everything that it should.
    #[must_use]
    pub fn sees_all(&self) -> bool {
        self.blind.is_empty() && self.targets.iter().all(|target| target.up)
    }
}

/// A pod that is asked for its metrics.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Target {
    /// The monitor, as `NAMESPACE/NAME`.
    pub monitor: String,
    /// The pod.
    pub pod: String,
    /// Where it is asked.
    pub url: String,
    /// Whether it answered the last time.
    pub up: bool,
    /// Why not.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub error: String,
}

/// The series of one panel.
#[derive(Debug, Clone, Serialize)]
pub struct PanelValues {
    /// The panel's id.
    pub id: &'static str,
    /// Its title.
    pub title: &'static str,
    /// How its values are read.
    pub unit: Unit,
    /// Any value but 0 is worth a look.
    pub is_trouble: bool,
    /// The query.
    pub query: String,
    /// Its series.
    pub series: Vec<Series>,
}

/// One series.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Series {
    /// What it is of: a pod, a status.
    pub of: String,
    /// Values in the order of time; where there was none, a gap is left out.
    pub values: Vec<f64>,
    /// Others have newer values: its pod is gone.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ended: bool,
}

/// Prometheus' envelope.
#[derive(Deserialize)]
struct Answer<T> {
    status: String,
    data: Option<T>,
    #[serde(default)]
    error: String,
    #[serde(default)]
    warnings: Vec<String>,
}

#[derive(Deserialize)]
struct Matrix {
    result: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    #[serde(default)]
    metric: BTreeMap<String, String>,
    values: Vec<(f64, String)>,
}

impl Row {
    /// When its last value was, in seconds since 1970.
    fn last(&self) -> Option<f64> {
        self.values.last().map(|(time, _)| *time)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Targets {
    active_targets: Vec<ActiveTarget>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ActiveTarget {
    scrape_pool: String,
    scrape_url: String,
    #[serde(default)]
    last_error: String,
    health: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

/// Asks for everything, as of the last `window`.
///
/// # Errors
/// There is no Prometheus in this lab, it is not installed, does not answer, or says something else.
pub async fn look(cx: &StepContext, window: Duration) -> Result<Metrics, Failure> {
    let lab = &cx.session.lab;
    let Some(door) = doors(lab, Page::Prometheus)?.into_iter().next() else {
        return Err(Failure::unexpected("Prometheus has no door"));
    };
    let cluster = reach::cluster(cx).await?;
    if !cluster.has_pods(&door.destination).await? {
        return Err(Failure::prerequisite(format!(
            "Prometheus is not installed: there is no pod in {}",
            door.destination
        ))
        .next(format!("`{}` brings it", installed_by(Page::Prometheus))));
    }
    let prometheus = Prometheus { cluster, destination: door.destination };
    let mut remarks = Vec::new();
    let targets = targets_of(&prometheus, lab, &mut remarks).await?;
    let wanted = [monitor(&lab.spire.server_namespace), monitor(&lab.spire.system_namespace)];
    let blind =
        wanted.into_iter().filter(|prefix| !targets.iter().any(|target| target.monitor.starts_with(prefix.as_str())));
    let blind: Vec<String> = blind.map(|prefix| prefix.trim_end_matches('/').to_owned()).collect();
    let end = cx.session.world.clock.now().as_second();
    let window_s = i64::try_from(window.as_secs()).unwrap_or(i64::MAX).max(POINTS);
    let answers = join_all(PANELS.iter().map(|panel| {
        let query = panel.query(lab);
        let prometheus = &prometheus;
        async move {
            let path = range(&query, end - window_s, end);
            (panel, query, prometheus.ask::<Matrix>(&path).await)
        }
    }))
    .await;
    let mut matrices = Vec::new();
    for (panel, query, answer) in answers {
        let (matrix, said) = answer?;
        for remark in said {
            if !remarks.contains(&remark) {
                remarks.push(remark);
            }
        }
        matrices.push((panel, query, matrix.result));
    }
    let newest = matrices.iter().flat_map(|(_, _, rows)| rows).filter_map(Row::last).fold(f64::MIN, f64::max);
    let panels = matrices
        .into_iter()
        .map(|(panel, query, rows)| {
            let (id, title, unit, is_trouble) = (panel.id, panel.title, panel.unit, panel.is_trouble);
            PanelValues { id, title, unit, is_trouble, query, series: series(rows, panel.by, newest) }
        })
        .collect();
    Ok(Metrics { schema: 1, window_s, targets, blind, panels, remarks })
}

fn monitor(namespace: &str) -> String {
    format!("{namespace}/")
}

/// The path of a range query.
fn range(query: &str, start: i64, end: i64) -> String {
    let step = ((end - start) / POINTS).max(1);
    let pairs = form_urlencoded::Serializer::new(String::new())
        .append_pair("query", query)
        .append_pair("start", &start.to_string())
        .append_pair("end", &end.to_string())
        .append_pair("step", &step.to_string())
        .finish();
    format!("/api/v1/query_range?{pairs}")
}

/// The rows of each value of the label `by` as one series: a pod that came back at another address begins a new row.
/// Where two have a value for the same time, it is the younger row's. `newest` is the time of the newest value of all.
fn series(mut rows: Vec<Row>, by: &str, newest: f64) -> Vec<Series> {
    rows.sort_by(|one, other| one.last().partial_cmp(&other.last()).unwrap_or(Ordering::Equal));
    let mut merged: BTreeMap<String, BTreeMap<i64, f64>> = BTreeMap::new();
    for row in rows {
        let values = row.values.iter().filter_map(|(time, text)| Some((*time, text.parse::<f64>().ok()?)));
        let points = merged.entry(row.metric.get(by).cloned().unwrap_or_default()).or_default();
        // Whole seconds: so are the steps of a range.
        #[expect(clippy::cast_possible_truncation, reason = "a time of day in seconds")]
        points.extend(values.filter(|(_, value)| value.is_finite()).map(|(time, value)| (time as i64, value)));
    }
    #[expect(clippy::cast_precision_loss, reason = "a time of day in seconds")]
    let ended = |last: i64| newest - last as f64 > STALE;
    merged
        .into_iter()
        .map(|(of, points)| Series {
            of,
            ended: points.keys().next_back().copied().is_none_or(ended),
            values: points.into_values().collect(),
        })
        .collect()
}

/// The targets of PodMonitors in SPIRE's namespaces. Their pools are called `podMonitor/NAMESPACE/NAME/NUMBER`.
async fn targets_of(prometheus: &Prometheus, lab: &Lab, remarks: &mut Vec<String>) -> Result<Vec<Target>, Failure> {
    let (targets, said) = prometheus.ask::<Targets>("/api/v1/targets?state=active").await?;
    remarks.extend(said);
    let ours = [monitor(&lab.spire.server_namespace), monitor(&lab.spire.system_namespace)];
    let mut found: Vec<Target> = targets
        .active_targets
        .into_iter()
        .filter_map(|target| {
            let pool = target.scrape_pool.strip_prefix("podMonitor/")?;
            let monitor = pool.rsplit_once('/')?.0.to_owned();
            ours.iter().any(|prefix| monitor.starts_with(prefix.as_str())).then(|| Target {
                monitor,
                pod: target.labels.get("pod").cloned().unwrap_or_default(),
                url: target.scrape_url,
                up: target.health == "up",
                error: if target.health == "unknown" { "not asked yet".into() } else { target.last_error },
            })
        })
        .collect();
    found.sort_by(|one, other| (&one.monitor, &one.pod, &one.url).cmp(&(&other.monitor, &other.pod, &other.url)));
    Ok(found)
}

struct Prometheus {
    cluster: Cluster,
    destination: Destination,
}

impl Prometheus {
    async fn ask<T: DeserializeOwned>(&self, path: &str) -> Result<(T, Vec<String>), Failure> {
        let (status, body) = self.cluster.http_get(&self.destination, path, LIMIT).await?;
        read(status, &body)
    }
}

fn read<T: DeserializeOwned>(status: StatusCode, body: &[u8]) -> Result<(T, Vec<String>), Failure> {
    let next = "`coastal open prometheus` shows its own page; `coastal logs prometheus` what it says";
    let answer: Answer<T> = serde_json::from_slice(body).map_err(|error| {
        Failure::new(Kind::Tool, format!("what Prometheus answered ({status}) is not its JSON: {error}")).next(next)
    })?;
    match answer.data {
        Some(data) if answer.status == "success" => Ok((data, answer.warnings)),
        _ => Err(Failure::tool(format!("Prometheus refused a question ({status}): {}", answer.error)).next(next)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_and_refusals_are_told() {
        let body = br#"{"status":"success","data":{"resultType":"matrix","result":[
            {"metric":{"pod":"spire-server-0"},"values":[[1,"5"],[61,"NaN"],[121,"7.5"]]}]},"warnings":["w"]}"#;
        let (matrix, warnings) = read::<Matrix>(StatusCode::OK, body).unwrap();
        let all = series(matrix.result, "pod", 121.0);
        assert_eq!(all, [Series { of: "spire-server-0".into(), values: vec![5.0, 7.5], ended: false }]);
        assert_eq!(warnings, ["w"]);
        let refused = br#"{"status":"error","errorType":"bad_data","error":"parse error"}"#;
        let failure = read::<Matrix>(StatusCode::BAD_REQUEST, refused).err().unwrap();
        assert!(failure.message.ends_with("400 Bad Request): parse error"), "{failure}");
        let page = read::<Matrix>(StatusCode::BAD_GATEWAY, b"<html>").err().unwrap();
        assert!(page.message.contains("is not its JSON"), "{page}");
    }

    #[test]
    fn a_pod_that_came_back_is_one_series_and_one_that_is_gone_has_ended() {
        let row = |pod: &str, values: &[(f64, &str)]| Row {
            metric: [("pod".to_owned(), pod.to_owned())].into(),
            values: values.iter().map(|(time, text)| (*time, (*text).to_owned())).collect(),
        };
        let rows = vec![
            row("a", &[(600.0, "3"), (660.0, "4")]),
            row("a", &[(540.0, "1"), (600.0, "1")]),
            row("b", &[(60.0, "9")]),
        ];
        let of = |of: &str, values: &[f64], ended| Series { of: of.into(), values: values.to_vec(), ended };
        assert_eq!(series(rows, "pod", 660.0), [of("a", &[1.0, 3.0, 4.0], false), of("b", &[9.0], true)]);
    }

    #[test]
    fn a_question_is_put_into_its_path_whole() {
        let path = range("sum(rate(x{a=\"b\"}[5m])) * 60", 0, 3600);
        assert_eq!(
            path,
            "/api/v1/query_range?query=sum%28rate%28x%7Ba%3D%22b%22%7D%5B5m%5D%29%29+*+60&start=0&end=3600&step=60"
        );
    }
}
