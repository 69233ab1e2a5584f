//! What the server fills in where an object says nothing, and how it spells what it is told.
//! Only defaults that `coastal`, its charts' pods or the controllers read.

use serde_json::{Value, json};

use crate::rehearsal::object::{map_of, number, set, set_default, text};
use crate::rehearsal::store::Key;

/// Fills in the defaults.
pub fn fill(object: &mut Value) {
    let key = Key::of(object);
    match key.kind.as_str() {
        "Pod" => pod_spec(object, "/spec"),
        "Deployment" => {
            set_default(object, "/spec/replicas", 1);
            set_default(object, "/spec/revisionHistoryLimit", 10);
            set_default(object, "/spec/progressDeadlineSeconds", 600);
            set_default(object, "/spec/strategy/type", "RollingUpdate");
            pod_spec(object, "/spec/template/spec");
        }
        "ReplicaSet" => {
            set_default(object, "/spec/replicas", 1);
            pod_spec(object, "/spec/template/spec");
        }
        "StatefulSet" => {
            set_default(object, "/spec/replicas", 1);
            set_default(object, "/spec/podManagementPolicy", "OrderedReady");
            set_default(object, "/spec/updateStrategy/type", "RollingUpdate");
            pod_spec(object, "/spec/template/spec");
        }
        "DaemonSet" => {
            set_default(object, "/spec/updateStrategy/type", "RollingUpdate");
            pod_spec(object, "/spec/template/spec");
        }
        "Job" => {
            set_default(object, "/spec/backoffLimit", 6);
            set_default(object, "/spec/completions", 1);
            set_default(object, "/spec/parallelism", 1);
            pod_spec(object, "/spec/template/spec");
        }
        "Namespace" => {
            set_default(object, "/metadata/labels/kubernetes.io~1metadata.name", key.name.as_str());
            if object.pointer("/metadata/deletionTimestamp").is_none() {
                set_default(object, "/spec/finalizers", json!(["kubernetes"]));
                set_default(object, "/status/phase", "Active");
            }
        }
        "PersistentVolumeClaim" => {
            set_default(object, "/spec/storageClassName", "standard");
            set_default(object, "/spec/volumeMode", "Filesystem");
            set_default(object, "/status/phase", "Pending");
        }
        "Service" => service(object, &key),
        "Secret" => secret(object),
        _ => {}
    }
}

/// Spells a secret's `stringData` as `data`, as the server does.
fn secret(object: &mut Value) {
    use base64::Engine as _;
    set_default(object, "/type", "Opaque");
    let Some(Value::Object(plain)) = map_of(object).shift_remove("stringData") else { return };
    for (name, value) in plain {
        let encoded = base64::engine::general_purpose::STANDARD.encode(value.as_str().unwrap_or_default());
        set(object, &format!("/data/{}", name.replace('~', "~0").replace('/', "~1")), encoded);
    }
}

fn service(object: &mut Value, key: &Key) {
    set_default(object, "/spec/type", "ClusterIP");
    set_default(object, "/spec/sessionAffinity", "None");
    if text(object, "/spec/type") != "ExternalName" {
        set_default(object, "/spec/clusterIP", address(10, 96, key));
    }
    for port in list_mut(object, "/spec/ports") {
        set_default(port, "/protocol", "TCP");
        if let Some(number) = port.get("port").cloned() {
            set_default(port, "/targetPort", number);
        }
    }
}

/// An address that follows from what it is for: `a.b.x.y`.
#[must_use]
pub fn address(a: u8, b: u8, key: &Key) -> String {
    let hash = key
        .namespace()
        .bytes()
        .chain(key.name.bytes())
        .fold(5381_u32, |hash, byte| hash.wrapping_mul(33) ^ u32::from(byte));
    format!("{a}.{b}.{}.{}", (hash >> 8) % 256, 1 + hash % 254)
}

fn pod_spec(object: &mut Value, at: &str) {
    let Some(spec) = object.pointer_mut(at) else { return };
    set_default(spec, "/restartPolicy", "Always");
    set_default(spec, "/terminationGracePeriodSeconds", 30);
    set_default(spec, "/dnsPolicy", "ClusterFirst");
    set_default(spec, "/schedulerName", "default-scheduler");
    set_default(spec, "/serviceAccountName", "default");
    set_default(spec, "/securityContext", json!({}));
    for list in ["/initContainers", "/containers"] {
        for container in list_mut(spec, list) {
            // A tag that moves is pulled each time; so is an image without a tag.
            let image = text(container, "/image").split('@').next().unwrap_or_default().to_owned();
            let name = image.rsplit('/').next().unwrap_or_default();
            let moving = name.ends_with(":latest") || !name.contains(':');
            set_default(container, "/imagePullPolicy", if moving { "Always" } else { "IfNotPresent" });
            set_default(container, "/resources", json!({}));
            set_default(container, "/terminationMessagePath", "/dev/termination-log");
            set_default(container, "/terminationMessagePolicy", "File");
            for port in list_mut(container, "/ports") {
                set_default(port, "/protocol", "TCP");
            }
            for which in ["/resources/requests/cpu", "/resources/limits/cpu"] {
                if let Some(cpu) = container.pointer_mut(which) {
                    *cpu = canonical_cpu(cpu);
                }
            }
            for probe in ["/readinessProbe", "/livenessProbe", "/startupProbe"] {
                if container.pointer(probe).is_some_and(Value::is_object) {
                    set_default(container, &format!("{probe}/periodSeconds"), 10);
                    set_default(container, &format!("{probe}/failureThreshold"), 3);
                    set_default(container, &format!("{probe}/timeoutSeconds"), 1);
                    set_default(container, &format!("{probe}/successThreshold"), 1);
                }
            }
        }
    }
    for volume in list_mut(spec, "/volumes") {
        for source in ["/configMap", "/secret"] {
            if volume.pointer(source).is_some() {
                set_default(volume, &format!("{source}/defaultMode"), 420);
            }
        }
    }
}

/// The server stores 0.5 CPU as `500m` and 2 as `2`.
fn canonical_cpu(value: &Value) -> Value {
    match millicores(value) {
        Some(millis) if millis % 1000 == 0 => (millis / 1000).to_string().into(),
        Some(millis) => format!("{millis}m").into(),
        None => value.clone(),
    }
}

/// A CPU quantity in thousandths of a core.
#[must_use]
pub fn millicores(value: &Value) -> Option<i64> {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    if let Some(millis) = text.strip_suffix('m') {
        return millis.parse().ok();
    }
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let fraction = format!("{fraction:0<3}");
    Some(whole.parse::<i64>().ok()? * 1000 + fraction.get(..3)?.parse::<i64>().ok()?)
}

/// A memory quantity in bytes.
#[must_use]
pub fn bytes(value: &Value) -> Option<i64> {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" => 1,
        "k" => 1000,
        "Ki" => 1 << 10,
        "M" => 1_000_000,
        "Mi" => 1 << 20,
        "G" => 1_000_000_000,
        "Gi" => 1 << 30,
        _ => return None,
    };
    Some(digits.parse::<i64>().ok()? * unit)
}

/// The desired number of pods.
#[must_use]
pub fn replicas(object: &Value) -> i64 {
    number(object, "/spec/replicas", 1)
}

fn list_mut<'a>(object: &'a mut Value, pointer: &str) -> impl Iterator<Item = &'a mut Value> + use<'a> {
    object.pointer_mut(pointer).and_then(Value::as_array_mut).into_iter().flatten()
}
