//! Prometheus' HTTP interface, as far as the rehearsal has something true to say: the targets that its PodMonitors
//! select, and of SPIRE's metrics those that follow from the pods. Of any other metric it has no data, and says why.

use http::Uri;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::object::{condition, items, text, texts};
use super::store::Store;

/// SPIRE's `ca_ttl` where its configuration has none.
const CA_TTL_S: i64 = 24 * 3600;

/// Status and body of the answer to a request under `/api/`.
pub(super) fn answer(store: &Store, uri: &Uri) -> (u16, Value) {
    let query = uri.query().unwrap_or_default();
    let parameter = |name: &str| {
        form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    };
    let number = |name: &str| parameter(name).and_then(|text| text.parse::<i64>().ok());
    match uri.path() {
        "/api/v1/targets" => success(&json!({"activeTargets": targets(store), "droppedTargets": []}), None),
        "/api/v1/query_range" => match (parameter("query"), number("start"), number("end"), number("step")) {
            (Some(query), Some(start), Some(end), Some(step))
                if step > 0 && start <= end && (end - start) / step <= 11_000 =>
            {
                let (result, known) = series(store, &query, (start, end, step));
                let remark =
                    (!known).then_some("the rehearsal has no data of metrics that do not follow from its pods");
                success(&json!({"resultType": "matrix", "result": result}), remark)
            }
            _ => {
                (400, json!({"status": "error", "errorType": "bad_data", "error": "invalid parameter of query_range"}))
            }
        },
        path => {
            (404, json!({"status": "error", "errorType": "not_found", "error": format!("the rehearsal has no {path}")}))
        }
    }
}

fn success(data: &Value, remark: Option<&str>) -> (u16, Value) {
    let mut answer = json!({"status": "success", "data": data});
    if let Some(remark) = remark {
        answer["warnings"] = json!([remark]);
    }
    (200, answer)
}

/// The pods that the PodMonitors select, once for each of their endpoints whose port the pod has.
fn targets(store: &Store) -> Vec<Value> {
    let mut targets = Vec::new();
    for monitor in store.list_shared("monitoring.coreos.com/v1", "PodMonitor", None) {
        let (namespace, name) = (text(&monitor, "/metadata/namespace"), text(&monitor, "/metadata/name"));
        let wanted: Vec<(&str, &str)> = texts(&monitor, "/spec/selector/matchLabels").collect();
        for (index, endpoint) in items(&monitor, "/spec/podMetricsEndpoints").enumerate() {
            for pod in store.list_shared("v1", "Pod", Some(namespace)) {
                let labels: Vec<(&str, &str)> = texts(&pod, "/metadata/labels").collect();
                let ports = items(&pod, "/spec/containers").flat_map(|container| items(container, "/ports"));
                let port = ports
                    .filter(|port| text(port, "/name") == text(endpoint, "/port"))
                    .find_map(|port| port["containerPort"].as_i64());
                let Some(port) = port.filter(|_| wanted.iter().all(|label| labels.contains(label))) else { continue };
                let up = condition(&pod, "ContainersReady");
                targets.push(json!({
                    "scrapePool": format!("podMonitor/{namespace}/{name}/{index}"),
                    "scrapeUrl": format!("http://{}:{port}/metrics", text(&pod, "/status/podIP")),
                    "lastError": if up { "" } else { "connection refused" },
                    "health": if up { "up" } else { "down" },
                    "labels": {"namespace": namespace, "pod": text(&pod, "/metadata/name"), "endpoint": endpoint["port"]},
                }));
            }
        }
    }
    targets
}

/// A value of a pod at a moment.
type Law = fn(age_s: i64) -> i64;

/// The series of a query that is understood; and whether it is.
fn series(store: &Store, query: &str, (start, end, step): (i64, i64, i64)) -> (Vec<Value>, bool) {
    let laws: [(&str, &str, Law); 3] = [
        ("spire_server_manager_x509_ca_rotate_ttl{", "server", |_| CA_TTL_S),
        ("spire_server_uptime_in_ms{", "server", |age| age * 1000),
        ("spire_agent_uptime_in_ms{", "agent", |age| age * 1000),
    ];
    let Some((_, component, law)) = laws.into_iter().find(|(metric, ..)| query.starts_with(metric)) else {
        return (Vec::new(), false);
    };
    let scraped = targets(store);
    let of = |pod: &Value| {
        let (namespace, name) = (text(pod, "/metadata/namespace"), text(pod, "/metadata/name"));
        let is_scraped =
            scraped.iter().any(|t| text(t, "/labels/pod") == name && text(t, "/labels/namespace") == namespace);
        let began: Timestamp = text(pod, "/status/startTime").parse().ok().filter(|_| is_scraped)?;
        let began = began.as_second();
        let moments = (0..).map(|n| start + n * step).take_while(|at| *at <= end).filter(|at| *at >= began);
        let values: Vec<Value> = moments.map(|at| json!([at, law(at - began).to_string()])).collect();
        Some(json!({"metric": {"pod": name, "namespace": namespace}, "values": values}))
    };
    let pods = store.list_shared("v1", "Pod", None);
    let result = pods
        .iter()
        .filter(|pod| text(pod, "/metadata/labels/app.kubernetes.io~1name") == component)
        .filter_map(|pod| of(pod));
    (result.collect(), true)
}
