//! Refusals in the API server's own words.

use kube::core::Status;
use serde_json::{Value, json};

use super::kinds::Served;
use crate::rehearsal::object::set;

fn failure(code: u16, reason: &str, message: &str) -> Box<Status> {
    Status::failure(message, reason).with_code(code).boxed()
}

/// A status as the server sends it.
#[must_use]
pub fn body(status: &Status) -> Value {
    let mut body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}});
    if let Ok(Value::Object(fields)) = serde_json::to_value(status) {
        for (field, value) in fields {
            set(&mut body, &format!("/{field}"), value);
        }
    }
    body
}

/// 404 of an object.
#[must_use]
pub fn not_found(served: &Served, name: &str) -> Box<Status> {
    failure(404, "NotFound", &format!("{} \"{name}\" not found", served.qualified()))
}

/// 404 of a namespace that something is to be created in.
#[must_use]
pub fn no_namespace(namespace: &str) -> Box<Status> {
    failure(404, "NotFound", &format!("namespaces \"{namespace}\" not found"))
}

/// What the server says, as text and not as a [`Status`], of a path that it does not serve.
const NO_PAGE: &str = "404 page not found";

/// 404 of a kind that no definition has added (yet), or that is gone.
#[must_use]
pub fn no_resource() -> Box<Status> {
    failure(404, "", NO_PAGE)
}

/// The refusal as text, where the server sends no [`Status`].
#[must_use]
pub fn page(status: &Status) -> Option<String> {
    (status.code == 404 && status.message == NO_PAGE).then(|| format!("{NO_PAGE}\n"))
}

/// 409 of a create.
#[must_use]
pub fn already_exists(served: &Served, name: &str) -> Box<Status> {
    failure(409, "AlreadyExists", &format!("{} \"{name}\" already exists", served.qualified()))
}

/// 409 of a write that is based on an old version.
#[must_use]
pub fn conflict(served: &Served, name: &str) -> Box<Status> {
    let message = format!(
        "Operation cannot be fulfilled on {} \"{name}\": the object has been modified; please apply your changes to the latest version and try again",
        served.qualified()
    );
    failure(409, "Conflict", &message)
}

/// 409 of a server-side apply without `force` to a field that another manager owns.
#[must_use]
pub fn owned_by(manager: &str, path: &str) -> Box<Status> {
    failure(409, "Conflict", &format!("Apply failed with 1 conflict: conflict with \"{manager}\": {path}"))
}

/// 410 of a watch from a version that is no longer in the log.
#[must_use]
pub fn expired(version: u64, oldest: u64) -> Box<Status> {
    failure(410, "Expired", &format!("too old resource version: {version} ({oldest})"))
}

/// 422 of an object that validation refuses; `cause` is `field: what is wrong`.
#[must_use]
pub fn invalid(served: &Served, name: &str, cause: &str) -> Box<Status> {
    failure(422, "Invalid", &format!("{} \"{name}\" is invalid: {cause}", served.qualified_kind()))
}

/// 403; `why` begins after `is forbidden: `.
#[must_use]
pub fn forbidden(served: &Served, name: &str, why: &str) -> Box<Status> {
    failure(403, "Forbidden", &format!("{} \"{name}\" is forbidden: {why}", served.qualified()))
}

/// 400.
#[must_use]
pub fn bad_request(message: impl Into<String>) -> Box<Status> {
    failure(400, "BadRequest", &message.into())
}

/// 500 of a webhook that does not answer.
#[must_use]
pub fn webhook_failed(webhook: &str, url: &str, why: &str) -> Box<Status> {
    let message = format!(
        "Internal error occurred: failed calling webhook \"{webhook}\": failed to call webhook: Post \"{url}\": {why}"
    );
    failure(500, "InternalError", &message)
}

/// 500 of what a node that does not answer would have to say.
#[must_use]
pub fn no_kubelet(words: &str) -> Box<Status> {
    failure(500, "InternalError", &format!("Internal error occurred: error sending request: {words}"))
}

/// 500 of a server-side apply of what does not fit the kind's schema.
#[must_use]
pub fn untyped(served: &Served, name: &str, why: &str) -> Box<Status> {
    let (api_version, kind) = (&served.api_version, &served.kind);
    failure(500, "", &format!("failed to create typed patch object ({name}; {api_version}, Kind={kind}): {why}"))
}

/// 501: no answer of a real server, but the admission that the rehearsal has no model of this.
#[must_use]
pub fn unknown(what: &str) -> Box<Status> {
    failure(501, "NotImplemented", &format!("the rehearsal does not know {what}"))
}
