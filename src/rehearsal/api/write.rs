//! Requests that change objects: create, apply, patch, replace, delete.

use kube::core::Status;
use serde_json::{Value, json};

use super::kinds::Served;
use super::merge::{Schema, json_patch, merge_patch};
use super::{admission, kinds, status};
use crate::rehearsal::object::{set, set_default, text, unset};
use crate::rehearsal::store::{Key, Propagation, Store, short_hash};

/// How a write is to be done.
#[derive(Debug, Clone, Copy, Default)]
pub struct WriteOptions<'a> {
    /// Who writes; counts for server-side apply only.
    pub manager: &'a str,
    /// Take over fields that another manager applied.
    pub force: bool,
    /// Do everything but store.
    pub dry_run: bool,
}

/// The part of an object that a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All but the status.
    Main,
    /// The status alone.
    Status,
}

/// A patch of an object that is there already.
#[derive(Debug, Clone, Copy)]
pub enum PatchKind {
    /// RFC 7386; strategic merge patches as well.
    Merge,
    /// RFC 6902.
    Json,
}

/// How the store serves the kind of `object`.
///
/// # Errors
/// 404: it does not.
pub fn served(store: &Store, object: &Value) -> Result<Served, Box<Status>> {
    store.kind(text(object, "/apiVersion"), text(object, "/kind")).ok_or_else(status::no_resource)
}

/// Creates an object.
///
/// # Errors
/// The server's refusal.
pub fn create(store: &Store, mut object: Value, options: WriteOptions<'_>) -> Result<Value, Box<Status>> {
    let served = served(store, &object)?;
    let prefix = text(&object, "/metadata/generateName").to_owned();
    if !prefix.is_empty() && text(&object, "/metadata/name").is_empty() {
        let suffix = short_hash(&format!("{prefix}{}", store.revision()), 5);
        set(&mut object, "/metadata/name", format!("{prefix}{suffix}"));
    }
    let name = text(&object, "/metadata/name");
    if store.get(&Key::of(&object)).is_some() {
        return Err(status::already_exists(&served, name));
    }
    if let Some(field) = admission::undeclared_field(&served, &object) {
        let message = format!(
            "{kind} in version \"{}\" cannot be handled as a {kind}: strict decoding error: unknown field \"{field}\"",
            served.version(),
            kind = served.kind,
        );
        return Err(status::bad_request(message));
    }
    unset(&mut object, "/status");
    write(store, &served, (None, object), Part::Main, None, options)
}

/// Server-side apply: creates the object, or makes it as given where it says something.
///
/// # Errors
/// The server's refusal.
pub fn apply(store: &Store, object: &Value, part: Part, options: WriteOptions<'_>) -> Result<Value, Box<Status>> {
    let served = served(store, object)?;
    let key = Key::of(object);
    if options.manager.is_empty() {
        return Err(status::bad_request(
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
        ));
    }
    let qualified = key.namespace.iter().map(String::as_str).chain([key.name.as_str()]).collect::<Vec<_>>().join("/");
    if let Some(field) = admission::undeclared_field(&served, object) {
        return Err(status::untyped(&served, &qualified, &format!(".{field}: field not declared in schema")));
    }
    if let Some(why) = admission::mistyped(object) {
        return Err(status::untyped(&served, &qualified, &why));
    }
    let mut wanted = object.clone();
    unset(&mut wanted, "/metadata/managedFields");
    if part == Part::Main {
        unset(&mut wanted, "/status");
    }
    let before = store.get(&key);
    let Some(live) = before.as_ref() else {
        let bare = Schema { keyed_lists: true }.apply(&json!({}), &wanted, None, &[]);
        return write(store, &served, (None, bare), Part::Main, Some(&wanted), options);
    };
    let schema =
        Schema { keyed_lists: kinds::BUILT_IN.iter().any(|(api_version, ..)| *api_version == served.api_version) };
    let mut others = store.applied(&key);
    let prior = others.remove(options.manager);
    if let Some((manager, path)) = schema.conflict(&wanted, &others).filter(|_| !options.force) {
        return Err(status::owned_by(&manager, &path));
    }
    let merged = schema.apply(live, &wanted, prior.as_ref(), &others.values().collect::<Vec<_>>());
    let merged = limited_to(part, live, merged);
    write(store, &served, (before.as_ref(), merged), part, Some(&wanted), options)
}

/// Changes an object by a patch.
///
/// # Errors
/// The server's refusal; 404 if the object is not there.
pub fn patch(
    store: &Store,
    served: &Served,
    key: &Key,
    (kind, patch): (PatchKind, &Value),
    part: Part,
    options: WriteOptions<'_>,
) -> Result<Value, Box<Status>> {
    let live = store.get(key).ok_or_else(|| status::not_found(served, &key.name))?;
    let mut object = live.clone();
    match kind {
        PatchKind::Merge => merge_patch(&mut object, patch),
        PatchKind::Json => json_patch(&mut object, patch).map_err(|why| status::invalid(served, &key.name, &why))?,
    }
    let object = limited_to(part, &live, object);
    write(store, served, (Some(&live), object), part, None, options)
}

/// Puts an object in the place of the one that is there.
///
/// # Errors
/// The server's refusal: 409 if it is based on an old version, 404 if there is none.
pub fn replace(store: &Store, object: Value, part: Part, options: WriteOptions<'_>) -> Result<Value, Box<Status>> {
    let served = served(store, &object)?;
    let key = Key::of(&object);
    let live = store.get(&key).ok_or_else(|| status::not_found(&served, &key.name))?;
    let object = limited_to(part, &live, object);
    write(store, &served, (Some(&live), object), part, None, options)
}

/// `after`, with the part that the request is not about as it is in `live`.
fn limited_to(part: Part, live: &Value, mut after: Value) -> Value {
    let mut live = live.clone();
    match part {
        Part::Main => match unset(&mut live, "/status") {
            Some(status) => set(&mut after, "/status", status),
            None => drop(unset(&mut after, "/status")),
        },
        Part::Status => {
            let version = text(&after, "/metadata/resourceVersion").to_owned();
            set(&mut live, "/status", unset(&mut after, "/status").unwrap_or_default());
            set(&mut live, "/metadata/resourceVersion", version);
            after = live;
        }
    }
    after
}

fn write(
    store: &Store,
    served: &Served,
    (before, object): (Option<&Value>, Value),
    part: Part,
    applied: Option<&Value>,
    options: WriteOptions<'_>,
) -> Result<Value, Box<Status>> {
    let name = text(&object, "/metadata/name").to_owned();
    let version = text(&object, "/metadata/resourceVersion");
    let current = before.map_or("", |before| text(before, "/metadata/resourceVersion"));
    if !version.is_empty() && version != current {
        return Err(status::conflict(served, &name));
    }
    if let Some(why) = admission::mistyped(&object) {
        let message = format!(
            "{kind} in version \"{}\" cannot be handled as a {kind}: {why}",
            served.version(),
            kind = served.kind
        );
        return Err(status::bad_request(message));
    }
    let object = store.preview(object);
    // Webhooks and rules about what is asked for do not concern the status.
    if part == Part::Main {
        admission::admit(store, served, before, &object)?;
    }
    if options.dry_run {
        return Ok(object);
    }
    Ok(store.put(object, applied.map(|applied| (options.manager, applied))))
}

/// Deletes an object as `body` (`DeleteOptions`) says. Returns what the server answers: the object if it is still
/// there, else a status.
///
/// # Errors
/// 404, or 409 if a precondition does not hold.
pub fn delete(store: &Store, served: &Served, key: &Key, body: &Value) -> Result<Value, Box<Status>> {
    let live = store.get(key).ok_or_else(|| status::not_found(served, &key.name))?;
    let mut expected = body.get("preconditions").cloned().unwrap_or_default();
    set_default(&mut expected, "/uid", live["metadata"]["uid"].clone());
    set_default(&mut expected, "/resourceVersion", live["metadata"]["resourceVersion"].clone());
    if expected["uid"] != live["metadata"]["uid"] || expected["resourceVersion"] != live["metadata"]["resourceVersion"]
    {
        return Err(status::conflict(served, &key.name));
    }
    let propagation = match text(body, "/propagationPolicy") {
        "Foreground" => Propagation::Foreground,
        "Orphan" => Propagation::Orphan,
        // For compatibility, jobs leave their pods behind unless told otherwise.
        "" if served.kind == "Job" => Propagation::Orphan,
        "" | "Background" => Propagation::Background,
        other => return Err(status::bad_request(format!("invalid propagationPolicy \"{other}\""))),
    };
    if body.get("dryRun").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        store.delete_within(key, propagation, body.get("gracePeriodSeconds").and_then(Value::as_i64));
    }
    Ok(store.get(key).filter(|object| object["metadata"]["uid"] == live["metadata"]["uid"]).unwrap_or_else(|| {
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
            "details": {"name": key.name, "group": served.group(), "kind": served.plural, "uid": live["metadata"]["uid"]},
        })
    }))
}
