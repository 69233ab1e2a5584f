//! What the server refuses before it stores: missing namespaces, invalid objects, and webhooks that do not answer.

use k8s_openapi::api::{apps::v1 as apps, core::v1 as core};
use kube::core::Status;
use serde_json::{Value, json};

use super::kinds::Served;
use super::{select, status};
use crate::rehearsal::object::{items, number, text};
use crate::rehearsal::store::{Key, Store};

/// A webhook's server answers this long after its pod is Ready: cert-manager's CA has to be injected first, and
/// kube-proxy and the API server have to see the endpoint.
const WEBHOOK_LAG_SECONDS: i64 = 3;

/// On a pod: the certificate of the webhook in it is of a CA that is revoked.
pub(in crate::rehearsal) const UNTRUSTED_WEBHOOK: &str = "/metadata/annotations/rehearsal~1webhook-untrusted";

/// Whether `object` may be stored in the place of `before`.
///
/// # Errors
/// The server's refusal.
pub fn admit(store: &Store, served: &Served, before: Option<&Value>, object: &Value) -> Result<(), Box<Status>> {
    let name = text(object, "/metadata/name");
    if before.is_none() {
        in_a_living_namespace(store, served, object)?;
    }
    if let Some(cause) = invalid_name(name) {
        return Err(status::invalid(served, name, &cause));
    }
    if let Some(cause) = before.and_then(|before| immutable(served, before, object)) {
        return Err(status::invalid(served, name, &cause));
    }
    if let Some(cause) = mismatched_selector(object) {
        return Err(status::invalid(served, name, &cause));
    }
    if served.kind == "Pod" && before.is_none() {
        pod(store, served, object)?;
    }
    webhooks(store, served, before.is_none(), object)
}

fn in_a_living_namespace(store: &Store, served: &Served, object: &Value) -> Result<(), Box<Status>> {
    let namespace = text(object, "/metadata/namespace");
    if !served.namespaced {
        return Ok(());
    }
    match store.get(&Key::new("v1", "Namespace", "", namespace)) {
        None => Err(status::no_namespace(namespace)),
        Some(found) if found.pointer("/metadata/deletionTimestamp").is_some() => {
            let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
            Err(status::forbidden(served, text(object, "/metadata/name"), &why))
        }
        Some(_) => Ok(()),
    }
}

fn invalid_name(name: &str) -> Option<String> {
    // Names of roles may hold colons; all others are DNS names.
    let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.:".contains(c);
    if name.is_empty() {
        return Some("metadata.name: Required value: name or generateName is required".into());
    }
    let ends = [name.chars().next(), name.chars().last()];
    let bad = !name.chars().all(fine) || ends.iter().flatten().any(|c| !c.is_ascii_alphanumeric());
    bad.then(|| {
        format!("metadata.name: Invalid value: \"{name}\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character")
    })
}

/// A field that may not change and does.
fn immutable(served: &Served, before: &Value, after: &Value) -> Option<String> {
    let changed = |field: &str| before.pointer(field) != after.pointer(field);
    match served.kind.as_str() {
        "Deployment" | "DaemonSet" | "ReplicaSet" if changed("/spec/selector") => {
            Some(format!("spec.selector: Invalid value: {}: field is immutable", after.pointer("/spec/selector")?))
        }
        "StatefulSet"
            if ["/spec/selector", "/spec/serviceName", "/spec/volumeClaimTemplates", "/spec/podManagementPolicy"]
                .into_iter()
                .any(changed) =>
        {
            Some("spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden".into())
        }
        "Job" if changed("/spec/template/spec") => {
            Some(format!("spec.template: Invalid value: {}: field is immutable", after.pointer("/spec/template")?))
        }
        "Secret" | "ConfigMap" if before.get("immutable") == Some(&json!(true)) && changed("/data") => {
            Some("data: Forbidden: field is immutable when `immutable` is set".into())
        }
        "Service" if !text(before, "/spec/clusterIP").is_empty() && changed("/spec/clusterIP") => {
            Some(format!("spec.clusterIP: Invalid value: \"{}\": field is immutable", text(after, "/spec/clusterIP")))
        }
        "PersistentVolumeClaim" if changed("/spec/storageClassName") || changed("/spec/accessModes") => Some(
            "spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims".into(),
        ),
        _ => None,
    }
}

fn mismatched_selector(object: &Value) -> Option<String> {
    let template = object.pointer("/spec/template")?;
    let selector = object.pointer("/spec/selector")?;
    (selector.get("matchLabels").is_some() && !select::selects(selector, template)).then(|| {
        format!(
            "spec.template.metadata.labels: Invalid value: {}: `selector` does not match template `labels`",
            template.pointer("/metadata/labels").cloned().unwrap_or_default()
        )
    })
}

/// Whether a pod may be created: its service account must exist, and its namespace's Pod Security level must allow it.
///
/// # Errors
/// The server's refusal, as the pod's controller reports it in a `FailedCreate` event.
pub fn pod(store: &Store, served: &Served, pod: &Value) -> Result<(), Box<Status>> {
    let (namespace, name) = (text(pod, "/metadata/namespace"), text(pod, "/metadata/name"));
    in_a_living_namespace(store, served, pod)?;
    let account = Some(text(pod, "/spec/serviceAccountName")).filter(|name| !name.is_empty()).unwrap_or("default");
    if store.get(&Key::new("v1", "ServiceAccount", namespace, account)).is_none() {
        let why =
            format!("error looking up service account {namespace}/{account}: serviceaccount \"{account}\" not found");
        return Err(status::forbidden(served, name, &why));
    }
    let level = store
        .get(&Key::new("v1", "Namespace", "", namespace))
        .map(|namespace| text(&namespace, "/metadata/labels/pod-security.kubernetes.io~1enforce").to_owned())
        .unwrap_or_default();
    let violations = if level == "restricted" { violations_of_restricted(pod) } else { Vec::new() };
    if violations.is_empty() {
        return Ok(());
    }
    Err(status::forbidden(
        served,
        name,
        &format!("violates PodSecurity \"restricted:latest\": {}", violations.join(", ")),
    ))
}

/// The rules of the level `restricted` that the lab's manifests could break.
fn violations_of_restricted(pod: &Value) -> Vec<String> {
    let spec = &pod["spec"];
    let containers: Vec<&Value> = items(spec, "/initContainers").chain(items(spec, "/containers")).collect();
    let offending = |wrong: &dyn Fn(&Value) -> bool| {
        let names: Vec<String> =
            containers.iter().filter(|c| wrong(c)).map(|c| format!("\"{}\"", text(c, "/name"))).collect();
        (!names.is_empty())
            .then(|| format!("{} {}", if names.len() == 1 { "container" } else { "containers" }, names.join(", ")))
    };
    // A container's own setting wins over the pod's.
    let effective = |container: &Value, field: &str| {
        container
            .pointer(&format!("/securityContext/{field}"))
            .or_else(|| spec.pointer(&format!("/securityContext/{field}")))
            .cloned()
    };
    let mut violations = Vec::new();
    let host: Vec<&str> =
        ["hostNetwork", "hostPID", "hostIPC"].into_iter().filter(|field| spec[*field] == json!(true)).collect();
    if !host.is_empty() {
        violations.push(format!(
            "host namespaces ({})",
            host.iter().map(|f| format!("{f}=true")).collect::<Vec<_>>().join(", ")
        ));
    }
    if let Some(who) = offending(&|c| c.pointer("/securityContext/privileged") == Some(&json!(true))) {
        violations.push(format!("privileged ({who} must not set securityContext.privileged=true)"));
    }
    if let Some(who) = offending(&|c| c.pointer("/securityContext/allowPrivilegeEscalation") != Some(&json!(false))) {
        violations.push(format!(
            "allowPrivilegeEscalation != false ({who} must set securityContext.allowPrivilegeEscalation=false)"
        ));
    }
    let drops_all = |c: &Value| items(c, "/securityContext/capabilities/drop").any(|drop| drop == "ALL");
    if let Some(who) = offending(&|c| !drops_all(c)) {
        violations
            .push(format!("unrestricted capabilities ({who} must set securityContext.capabilities.drop=[\"ALL\"])"));
    }
    for volume in items(spec, "/volumes").filter(|volume| volume.get("hostPath").is_some()) {
        violations.push(format!(
            "restricted volume types (volume \"{}\" uses restricted volume type \"hostPath\")",
            text(volume, "/name")
        ));
    }
    if let Some(who) = offending(&|c| effective(c, "runAsNonRoot") != Some(json!(true))) {
        violations.push(format!("runAsNonRoot != true (pod or {who} must set securityContext.runAsNonRoot=true)"));
    }
    let profiled = |c: &Value| {
        effective(c, "seccompProfile/type").is_some_and(|kind| kind == "RuntimeDefault" || kind == "Localhost")
    };
    if let Some(who) = offending(&|c| !profiled(c)) {
        violations.push(format!(
            "seccompProfile (pod or {who} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
        ));
    }
    violations
}

/// Asks every webhook that covers the object: whether it can be reached, and so whether the write fails.
fn webhooks(store: &Store, served: &Served, new: bool, object: &Value) -> Result<(), Box<Status>> {
    for kind in ["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"] {
        for configuration in store.list_shared("admissionregistration.k8s.io/v1", kind, None) {
            for webhook in items(&configuration, "/webhooks") {
                if !covers(store, webhook, served, new, object) || text(webhook, "/failurePolicy") == "Ignore" {
                    continue;
                }
                if let Err(why) = reach(store, webhook) {
                    return Err(status::webhook_failed(text(webhook, "/name"), &url(webhook), &why));
                }
            }
        }
    }
    Ok(())
}

fn covers(store: &Store, webhook: &Value, served: &Served, new: bool, object: &Value) -> bool {
    let operation = if new { "CREATE" } else { "UPDATE" };
    let holds = |rule: &Value, list: &str, value: &str| {
        items(rule, list).any(|item| item == "*" || item == value || item == "*/*")
    };
    let by_rule = items(webhook, "/rules").any(|rule| {
        holds(rule, "/apiGroups", served.group())
            && holds(rule, "/apiVersions", served.version())
            && holds(rule, "/operations", operation)
            && holds(rule, "/resources", &served.plural)
    });
    let by_selector =
        |selector: &str, of: &Value| webhook.get(selector).is_none_or(|selector| select::selects(selector, of));
    let namespace = store.get(&Key::new("v1", "Namespace", "", text(object, "/metadata/namespace")));
    by_rule
        && by_selector("objectSelector", object)
        && namespace.is_none_or(|namespace| by_selector("namespaceSelector", &namespace))
}

fn url(webhook: &Value) -> String {
    let service = |field: &str| text(webhook, &format!("/clientConfig/service/{field}"));
    let port = number(webhook, "/clientConfig/service/port", 443);
    let timeout = number(webhook, "/timeoutSeconds", 10);
    format!("https://{}.{}.svc:{port}{}?timeout={timeout}s", service("name"), service("namespace"), service("path"))
}

fn reach(store: &Store, webhook: &Value) -> Result<(), String> {
    let (namespace, name) =
        (text(webhook, "/clientConfig/service/namespace"), text(webhook, "/clientConfig/service/name"));
    let Some(service) = store.get(&Key::new("v1", "Service", namespace, name)) else {
        return Err(format!("service \"{name}\" not found"));
    };
    let settled = |pod: &Value| {
        items(pod, "/status/conditions").any(|condition| {
            let since: Option<jiff::Timestamp> = text(condition, "/lastTransitionTime").parse().ok();
            text(condition, "/type") == "Ready"
                && text(condition, "/status") == "True"
                && since.is_some_and(|since| store.now().as_second() - since.as_second() >= WEBHOOK_LAG_SECONDS)
        })
    };
    let pods = store.list_shared("v1", "Pod", Some(namespace));
    let mut answering =
        pods.iter().filter(|pod| select::selects_plainly(&service["spec"]["selector"], pod) && settled(pod)).peekable();
    if answering.peek().is_some() {
        // The API server may be led to any of them.
        let trusted = answering.all(|pod| pod.pointer(UNTRUSTED_WEBHOOK).is_none());
        let why = "tls: failed to verify certificate: x509: certificate signed by unknown authority";
        return if trusted { Ok(()) } else { Err(why.to_owned()) };
    }
    // kube-proxy rejects connections to a service that has no endpoint.
    let port = number(webhook, "/clientConfig/service/port", 443);
    Err(format!("dial tcp {}:{port}: connect: connection refused", text(&service, "/spec/clusterIP")))
}

/// A value of the wrong type, such as the text `0644` where a number belongs: what is wrong with it. Checked for the
/// kinds whose fields the lab's manifests fill in.
#[must_use]
pub fn mistyped(object: &Value) -> Option<String> {
    fn read<T: serde::de::DeserializeOwned>(object: &Value) -> Result<(), serde_json::Error> {
        T::deserialize(object).map(drop)
    }
    let read = match text(object, "/kind") {
        "ConfigMap" => read::<core::ConfigMap>,
        "DaemonSet" => read::<apps::DaemonSet>,
        "Deployment" => read::<apps::Deployment>,
        "Job" => read::<k8s_openapi::api::batch::v1::Job>,
        "Pod" => read::<core::Pod>,
        "Secret" => read::<core::Secret>,
        "Service" => read::<core::Service>,
        "StatefulSet" => read::<apps::StatefulSet>,
        // Every other object has metadata at least.
        _ => read::<kube::core::PartialObjectMeta>,
    };
    read(object).err().map(|error| error.to_string())
}

/// A top-level field that the kind does not have. Only kinds with few fields are checked.
#[must_use]
pub fn undeclared_field(served: &Served, object: &Value) -> Option<String> {
    let own: &[&str] = match served.kind.as_str() {
        "ConfigMap" => &["data", "binaryData", "immutable"],
        "Secret" => &["data", "stringData", "type", "immutable"],
        "ServiceAccount" => &["automountServiceAccountToken", "imagePullSecrets", "secrets"],
        "DaemonSet"
        | "Deployment"
        | "Job"
        | "Namespace"
        | "PersistentVolumeClaim"
        | "Pod"
        | "Service"
        | "StatefulSet" => &["spec", "status"],
        _ => return None,
    };
    let known = |field: &str| ["apiVersion", "kind", "metadata"].contains(&field) || own.contains(&field);
    object.as_object()?.keys().find(|field| !known(field)).cloned()
}
