//! From an HTTP request to an answer. What is not listed here is refused by name, never answered with nothing.

use std::collections::BTreeMap;
use std::io;

use futures::{Stream, StreamExt};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use kube::core::Status;
use serde_json::{Value, json};
use tokio::time::Duration;

use super::forward;
use super::kinds::{self, Served};
use super::read::{self, LogOptions, Scope, WatchOptions};
use super::select::Selection;
use super::status;
use super::write::{self, Part, PatchKind, WriteOptions};
use crate::rehearsal::nodes;
use crate::rehearsal::object::{set_default, text};
use crate::rehearsal::store::{Key, Store};

/// The body of an answer.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Query parameters that are understood, or that may be ignored without harm to what the client sees.
const PARAMETERS: &[&str] = &[
    "allowWatchBookmarks",
    "container",
    "continue",
    "dryRun",
    "fieldManager",
    "fieldSelector",
    "fieldValidation",
    "follow",
    "force",
    "labelSelector",
    "limit",
    "pretty",
    "previous",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "sinceSeconds",
    "sinceTime",
    "tailLines",
    "timeoutSeconds",
    "timestamps",
    "watch",
];

/// What a path leads to.
struct Target {
    served: Served,
    namespace: Option<String>,
    name: Option<String>,
    part: Option<String>,
}

struct Call {
    method: Method,
    path: String,
    query: BTreeMap<String, String>,
    accept: String,
    content_type: String,
    body: Bytes,
}

/// Answers one request.
pub async fn answer(store: Store, request: Request<Incoming>) -> Response<Body> {
    if let Some((pod, ports)) = forward::wanted(&request) {
        return forward::answer(&store, &pod, &ports, request).unwrap_or_else(|refusal| refused(&refusal));
    }
    let (head, body) = request.into_parts();
    let header = |name| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let query = form_urlencoded::parse(head.uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
    let call = Call {
        method: head.method.clone(),
        path: head.uri.path().to_owned(),
        query,
        accept: header(header::ACCEPT),
        content_type: header(header::CONTENT_TYPE),
        body: body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default(),
    };
    call.answer(&store).unwrap_or_else(|refusal| refused(&refusal))
}

fn refused(refusal: &Status) -> Response<Body> {
    let code = StatusCode::from_u16(refusal.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    match status::page(refusal) {
        Some(text) => respond(code, "text/plain; charset=utf-8", whole(text)),
        None => json_response(code, &status::body(refusal)),
    }
}

/// A body that is known.
pub(super) fn whole(text: String) -> Body {
    Full::from(text).map_err(|never| match never {}).boxed_unsync()
}

fn respond(code: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}

fn json_response(code: StatusCode, value: &Value) -> Response<Body> {
    respond(code, "application/json", whole(value.to_string()))
}

fn stream_response(
    content_type: &'static str,
    pieces: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
) -> Response<Body> {
    respond(StatusCode::OK, content_type, StreamBody::new(pieces.map(|piece| piece.map(Frame::data))).boxed_unsync())
}

impl Call {
    fn unknown(&self) -> Box<Status> {
        status::unknown(&format!("{} {}", self.method, self.path))
    }

    fn parameter(&self, name: &str) -> &str {
        self.query.get(name).map(String::as_str).unwrap_or_default()
    }

    fn flag(&self, name: &str) -> bool {
        ["true", "1"].contains(&self.parameter(name))
    }

    fn answer(&self, store: &Store) -> Result<Response<Body>, Box<Status>> {
        if let Some(strange) = self.query.keys().find(|key| !PARAMETERS.contains(&key.as_str())) {
            return Err(status::unknown(&format!("the query parameter {strange} of {} {}", self.method, self.path)));
        }
        if self.accept.contains("as=PartialObjectMetadata") || self.accept.contains("as=Table") {
            return Err(status::unknown(&format!("the representation {} of {}", self.accept, self.path)));
        }
        let steps: Vec<&str> = self.path.split('/').filter(|step| !step.is_empty()).collect();
        let aggregated = self.accept.contains("g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");
        match (self.method.as_str(), steps.as_slice()) {
            ("GET", ["version"]) => Ok(json_response(StatusCode::OK, &version(store))),
            ("GET", ["api"]) if aggregated => {
                Ok(json_response(StatusCode::OK, &kinds::discovery(&store.kinds(), true)))
            }
            ("GET", ["apis"]) if aggregated => {
                Ok(json_response(StatusCode::OK, &kinds::discovery(&store.kinds(), false)))
            }
            (_, ["api", version, rest @ ..]) if !rest.is_empty() => self.resource(store, version, rest),
            (_, ["apis", group, version, rest @ ..]) if !rest.is_empty() => {
                self.resource(store, &format!("{group}/{version}"), rest)
            }
            _ => Err(self.unknown()),
        }
    }

    fn target(&self, store: &Store, api_version: &str, steps: &[&str]) -> Result<Target, Box<Status>> {
        let (namespace, plural, rest) = match steps {
            ["namespaces", name, "status" | "finalize"] if api_version == "v1" => {
                (None, "namespaces", [*name, steps[2]].to_vec())
            }
            ["namespaces", namespace, plural, rest @ ..] => (Some(*namespace), *plural, rest.to_vec()),
            [plural, rest @ ..] => (None, *plural, rest.to_vec()),
            [] => return Err(self.unknown()),
        };
        let own = kinds::BUILT_IN.iter().find(|served| served.0 == api_version && served.2 == plural);
        let added = || store.kinds().into_iter().find(|s| s.api_version == api_version && s.plural == plural);
        let known = own.map(Served::from).or_else(added);
        let served = known.ok_or_else(|| {
            // A group that only a definition could add is one the server may really lack; its own it always has.
            let own = !api_version.contains('.') || api_version.contains(".k8s.io/");
            if own { self.unknown() } else { status::no_resource() }
        })?;
        let owned = |step: &&str| (*step).to_owned();
        match rest.as_slice() {
            [] | [_] | [_, _] => Ok(Target {
                served,
                namespace: namespace.map(str::to_owned),
                name: rest.first().map(owned),
                part: rest.get(1).map(owned),
            }),
            _ => Err(self.unknown()),
        }
    }

    fn resource(&self, store: &Store, api_version: &str, steps: &[&str]) -> Result<Response<Body>, Box<Status>> {
        let target = self.target(store, api_version, steps)?;
        let served = &target.served;
        let scope = || {
            let selection =
                Selection::parse(&served.kind, self.parameter("labelSelector"), self.parameter("fieldSelector"))?;
            Ok::<_, Box<Status>>(Scope { served: served.clone(), namespace: target.namespace.clone(), selection })
        };
        let ok = |value: &Value| Ok(json_response(StatusCode::OK, value));
        let Some(name) = &target.name else {
            return match self.method.as_str() {
                "GET" if self.flag("watch") => self.watch(store, scope()?),
                "GET" => ok(&scope()?.list(store)),
                "POST" => {
                    let created = write::create(store, self.object(&target)?, self.options())?;
                    Ok(json_response(StatusCode::CREATED, &created))
                }
                "DELETE" => {
                    let list = scope()?.list(store);
                    let body = self.json()?;
                    for object in scope()?.objects(store) {
                        write::delete(store, served, &Key::of(&object), &body)?;
                    }
                    ok(&list)
                }
                _ => Err(self.unknown()),
            };
        };
        let key = Key::new(&served.api_version, &served.kind, target.namespace.as_deref().unwrap_or_default(), name);
        match (self.method.as_str(), target.part.as_deref()) {
            ("GET", None | Some("status")) => ok(&store.get(&key).ok_or_else(|| status::not_found(served, name))?),
            ("GET", Some("log")) if served.kind == "Pod" => {
                if let Some(words) = store.get(&key).and_then(|pod| nodes::unreachable(store, &pod)) {
                    return Err(status::no_kubelet(&words));
                }
                Ok(stream_response("text/plain", read::logs(store, served, &key, self.log_options()?)?))
            }
            ("DELETE", None) => ok(&write::delete(store, served, &key, &self.json()?)?),
            ("PUT", None) => ok(&write::replace(store, self.object(&target)?, Part::Main, self.options())?),
            ("PUT", Some("status")) => ok(&write::replace(store, self.object(&target)?, Part::Status, self.options())?),
            ("PATCH", None) => self.patch(store, &target, &key, Part::Main),
            ("PATCH", Some("status")) => self.patch(store, &target, &key, Part::Status),
            _ => Err(self.unknown()),
        }
    }

    fn patch(&self, store: &Store, target: &Target, key: &Key, part: Part) -> Result<Response<Body>, Box<Status>> {
        let kind = match self.content_type.split(';').next().unwrap_or_default() {
            "application/apply-patch+yaml" => {
                let existed = store.get(key).is_some();
                let result = write::apply(store, &self.object(target)?, part, self.options())?;
                return Ok(json_response(if existed { StatusCode::OK } else { StatusCode::CREATED }, &result));
            }
            "application/merge-patch+json" | "application/strategic-merge-patch+json" => PatchKind::Merge,
            "application/json-patch+json" => PatchKind::Json,
            other => return Err(status::unknown(&format!("the patch format {other}"))),
        };
        let result = write::patch(store, &target.served, key, (kind, &self.json()?), part, self.options())?;
        Ok(json_response(StatusCode::OK, &result))
    }

    fn watch(&self, store: &Store, scope: Scope) -> Result<Response<Body>, Box<Status>> {
        let number = |name: &str| self.parameter(name).parse::<u64>().ok();
        let version = self.parameter("resourceVersion");
        let after = number("resourceVersion").filter(|version| *version != 0);
        if after.is_none() && !["", "0"].contains(&version) {
            return Err(status::bad_request(format!("Invalid value: \"{version}\": resourceVersion")));
        }
        let mark_initial = self.flag("sendInitialEvents");
        let options = WatchOptions {
            after: if mark_initial { None } else { after },
            mark_initial,
            bookmarks: self.flag("allowWatchBookmarks"),
            timeout: Duration::from_secs(number("timeoutSeconds").unwrap_or(1800)),
        };
        Ok(stream_response("application/json", read::watch(store, scope, &options)))
    }

    fn log_options(&self) -> Result<LogOptions, Box<Status>> {
        let unreadable =
            |name: &str| status::bad_request(format!("Invalid value: \"{}\": {name}", self.parameter(name)));
        let since = Some(self.parameter("sinceTime")).filter(|text| !text.is_empty()).map(str::parse).transpose();
        Ok(LogOptions {
            container: self.query.get("container").cloned(),
            previous: self.flag("previous"),
            tail: self.query.get("tailLines").map(|n| n.parse()).transpose().map_err(|_| unreadable("tailLines"))?,
            since: since.map_err(|_| unreadable("sinceTime"))?,
            since_seconds: self
                .query
                .get("sinceSeconds")
                .map(|n| n.parse())
                .transpose()
                .map_err(|_| unreadable("sinceSeconds"))?,
            timestamps: self.flag("timestamps"),
            follow: self.flag("follow"),
        })
    }

    fn options(&self) -> WriteOptions<'_> {
        WriteOptions {
            manager: self.parameter("fieldManager"),
            force: self.flag("force"),
            dry_run: self.parameter("dryRun") == "All",
        }
    }

    fn json(&self) -> Result<Value, Box<Status>> {
        if self.body.is_empty() {
            return Ok(json!({}));
        }
        // JSON is YAML too, but only applies may be YAML.
        let yaml = self.content_type.contains("yaml");
        let parsed = serde_json::from_slice(&self.body).map_err(|error| error.to_string());
        let parsed = if yaml {
            parsed.or_else(|_| serde_yaml::from_slice(&self.body).map_err(|error| error.to_string()))
        } else {
            parsed
        };
        parsed.map_err(|error| status::bad_request(format!("error decoding: {error}")))
    }

    /// The object in the body, which must be the one that the path names.
    fn object(&self, target: &Target) -> Result<Value, Box<Status>> {
        let mut object = self.json()?;
        if !object.get("metadata").is_none_or(Value::is_object) || !object.is_object() {
            return Err(status::bad_request("the object provided is unrecognized"));
        }
        let served = &target.served;
        set_default(&mut object, "/apiVersion", served.api_version.as_str());
        set_default(&mut object, "/kind", served.kind.as_str());
        if let Some(namespace) = &target.namespace {
            set_default(&mut object, "/metadata/namespace", namespace.as_str());
        }
        if let Some(name) = &target.name {
            set_default(&mut object, "/metadata/name", name.as_str());
        }
        let expected = [
            ("/apiVersion", Some(&served.api_version), "API version"),
            ("/kind", Some(&served.kind), "kind"),
            ("/metadata/namespace", target.namespace.as_ref(), "namespace"),
            ("/metadata/name", target.name.as_ref(), "name"),
        ];
        for (pointer, expected, what) in expected {
            let given = text(&object, pointer);
            if let Some(expected) = expected.filter(|expected| *expected != given) {
                let message =
                    format!("the {what} of the object ({given}) does not match the {what} on the URL ({expected})");
                return Err(status::bad_request(message));
            }
        }
        Ok(object)
    }
}

/// `/version`: as the nodes' kubelets.
fn version(store: &Store) -> Value {
    let nodes = store.list_shared("v1", "Node", None);
    let version = nodes.first().map_or("v1.32.3", |node| text(node, "/status/nodeInfo/kubeletVersion"));
    let mut numbers = version.trim_start_matches('v').split('.');
    json!({
        "major": numbers.next(), "minor": numbers.next(), "gitVersion": version, "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "2025-03-11T19:52:21Z", "goVersion": "go1.23.6", "compiler": "gc", "platform": "linux/amd64",
    })
}
