//! Reading and writing Kubernetes objects that are plain JSON, by pointer (`/metadata/name`).

use std::borrow::Cow;

use serde_json::{Map, Value};

/// A step of a pointer as the key that it means.
fn key(step: &str) -> Cow<'_, str> {
    if step.contains('~') { step.replace("~1", "/").replace("~0", "~").into() } else { step.into() }
}

/// What is at `pointer`. As [`Value::pointer`], which copies each step twice; this is where a rehearsal's time goes.
#[must_use]
pub fn at<'a>(object: &'a Value, pointer: &str) -> Option<&'a Value> {
    pointer.split('/').skip(1).try_fold(object, |value, step| match value {
        Value::Object(map) => map.get(&*key(step)),
        Value::Array(list) => list.get(step.parse::<usize>().ok()?),
        _ => None,
    })
}

/// The text at `pointer`, or the empty text.
#[must_use]
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    at(object, pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The number at `pointer`, or `otherwise`.
#[must_use]
pub fn number(object: &Value, pointer: &str, otherwise: i64) -> i64 {
    at(object, pointer).and_then(Value::as_i64).unwrap_or(otherwise)
}

/// The items of the list at `pointer`; none if there is no list.
pub fn items<'a>(object: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    at(object, pointer).and_then(Value::as_array).into_iter().flatten()
}

/// The entries of the map at `pointer` whose values are text, such as labels.
pub fn texts<'a>(object: &'a Value, pointer: &str) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
    let map = at(object, pointer).and_then(Value::as_object);
    map.into_iter().flatten().filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
}

/// Puts `value` at `pointer`, making the maps on the way. What is in the way and no map is replaced.
pub fn set(object: &mut Value, pointer: &str, value: impl Into<Value>) {
    let mut place = object;
    for step in pointer.split('/').skip(1) {
        place = map_of(place).entry(key(step).into_owned()).or_insert(Value::Null);
    }
    *place = value.into();
}

/// Puts `value` at `pointer` unless something is there.
pub fn set_default(object: &mut Value, pointer: &str, value: impl Into<Value>) {
    if at(object, pointer).is_none_or(Value::is_null) {
        set(object, pointer, value);
    }
}

/// Takes away what is at `pointer`.
pub fn unset(object: &mut Value, pointer: &str) -> Option<Value> {
    let (parent, last) = pointer.rsplit_once('/')?;
    object.pointer_mut(parent)?.as_object_mut()?.shift_remove(&*key(last))
}

/// `value` as a map; if it is none, it becomes an empty one.
pub fn map_of(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("made a map just now"),
    }
}

/// Whether the condition `kind` of `/status/conditions` is `True`.
#[must_use]
pub fn condition(object: &Value, kind: &str) -> bool {
    items(object, "/status/conditions").any(|c| text(c, "/type") == kind && text(c, "/status") == "True")
}

/// Sets a condition of `/status/conditions`; its `lastTransitionTime` moves only when its status does.
pub fn set_condition(object: &mut Value, kind: &str, status: bool, reason: &str, message: &str, now: &str) {
    let status = if status { "True" } else { "False" };
    let since = items(object, "/status/conditions")
        .find(|c| text(c, "/type") == kind && text(c, "/status") == status)
        .map_or(now, |c| text(c, "/lastTransitionTime"))
        .to_owned();
    let mut condition = serde_json::json!({"type": kind, "status": status, "lastTransitionTime": since});
    for (pointer, words) in [("/reason", reason), ("/message", message)] {
        if !words.is_empty() {
            set(&mut condition, pointer, words);
        }
    }
    let mut all: Vec<Value> = items(object, "/status/conditions").cloned().collect();
    match all.iter_mut().find(|c| text(c, "/type") == kind) {
        Some(old) => *old = condition,
        None => all.push(condition),
    }
    set(object, "/status/conditions", all);
}
