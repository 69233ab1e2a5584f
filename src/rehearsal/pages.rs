//! What listens inside the pods of the lab's pages. A page says that it is a stand-in; an interface answers as the real
//! one does, for what `coastal` and a curious person ask of it, and says so where it has no answer.

use http::{Response, StatusCode, Uri, header};
use http_body_util::Full;
use hyper::body::Bytes;
use serde_json::{Value, json};

use super::object::text;
use super::prometheus;
use super::store::Store;

/// The answer to a request to `port` of `pod`.
pub fn answer(store: &Store, pod: &Value, port: u16, uri: &Uri) -> Response<Full<Bytes>> {
    let name = text(pod, "/metadata/labels/app.kubernetes.io~1name");
    let (code, body) = match (name, port, uri.path()) {
        ("grafana", 3000, "/api/health") => {
            (200, json!({"database": "ok", "version": "10.1.5", "commit": "rehearsal"}))
        }
        ("grafana", 3000, "/" | "/login") => return page(store, "Grafana", pod),
        ("prometheus", 9090, "/" | "/graph") => return page(store, "Prometheus", pod),
        ("prometheus", 9090, path) if path.starts_with("/api/") => prometheus::answer(store, uri),
        ("tornjak-frontend", 3000, "/") => return page(store, "Tornjak", pod),
        ("server", 10000, "/") => (200, json!("Welcome to the Tornjak Backend!")),
        _ => {
            (404, json!({"error": format!("the rehearsal has no answer for {} on port {port} of {name}", uri.path())}))
        }
    };
    respond(code, "application/json", body.to_string())
}

fn respond(code: u16, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

fn page(store: &Store, title: &str, pod: &Value) -> Response<Full<Bytes>> {
    let pod = format!("{}/{}", text(pod, "/metadata/namespace"), text(pod, "/metadata/name"));
    let body = format!(
        "<!doctype html>\n<title>{title} (rehearsal)</title>\n<h1>{title}</h1>\n\
         <p>A stand-in: this is the rehearsal's pod {pod}, at {}. The real page is in a real lab.</p>\n",
        store.timestamp()
    );
    respond(200, "text/html; charset=utf-8", body)
}
