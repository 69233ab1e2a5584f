//! The Pod Security level `restricted`, as far as charts touch it: what a namespace that enforces it would refuse.

use serde_json::Value;

use super::objects::{Container, Objects, title};

/// Volumes that the level lets pods have.
const VOLUMES: &[&str] =
    &["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"];

/// What a `restricted` namespace would refuse, one sentence for each container or pod.
#[must_use]
pub fn violations(objects: &Objects, namespace: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut seen_pod: Option<&Value> = None;
    for container in objects.containers().filter(|container| objects.namespace(container.object) == namespace) {
        let mut reasons = of_container(container);
        if seen_pod.is_none_or(|seen| !std::ptr::eq(seen, container.pod)) {
            seen_pod = Some(container.pod);
            reasons.extend(of_pod(container.pod));
        }
        if !reasons.is_empty() {
            let name = container.spec["name"].as_str().unwrap_or("?");
            found.push(format!(
                "the namespace {namespace} is `restricted` and would refuse {}, container {name}: {}",
                title(container.object),
                reasons.join(", ")
            ));
        }
    }
    found
}

fn of_container(Container { pod, spec, .. }: Container<'_>) -> Vec<String> {
    let own = &spec["securityContext"];
    let either = |key: &str| own.get(key).or_else(|| pod["securityContext"].get(key));
    let mut reasons = Vec::new();
    if own["allowPrivilegeEscalation"] != false {
        reasons.push("allowPrivilegeEscalation is not false".to_owned());
    }
    if own["privileged"] == true {
        reasons.push("it is privileged".to_owned());
    }
    if either("runAsNonRoot") != Some(&Value::Bool(true)) {
        reasons.push("runAsNonRoot is not set".to_owned());
    }
    if either("runAsUser").is_some_and(|user| user == 0) {
        reasons.push("it runs as root".to_owned());
    }
    if !own["capabilities"]["drop"].as_array().is_some_and(|dropped| dropped.iter().any(|one| one == "ALL")) {
        reasons.push("it does not drop all capabilities".to_owned());
    }
    let profile = either("seccompProfile").and_then(|profile| profile["type"].as_str());
    if !matches!(profile, Some("RuntimeDefault" | "Localhost")) {
        reasons.push("it has no seccomp profile".to_owned());
    }
    reasons
}

fn of_pod(pod: &Value) -> Vec<String> {
    let host = ["hostNetwork", "hostPID", "hostIPC"].into_iter().filter(|key| pod[*key] == true);
    let volumes =
        pod["volumes"].as_array().into_iter().flatten().filter_map(|volume| {
            volume.as_object()?.keys().find(|key| *key != "name" && !VOLUMES.contains(&key.as_str()))
        });
    host.map(|key| format!("the pod has {key}")).chain(volumes.map(|kind| format!("a volume is a {kind}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(pod: &str) -> Vec<String> {
        let text = format!("kind: Pod\nmetadata: {{name: p, namespace: n}}\nspec: {pod}\n");
        violations(&Objects::parse(&text, "default").unwrap(), "n")
    }

    const GOOD: &str = "allowPrivilegeEscalation: false, runAsNonRoot: true, capabilities: {drop: [ALL]}, \
                        seccompProfile: {type: RuntimeDefault}";

    #[test]
    fn the_level_is_kept_or_it_is_said_where_not() {
        let pod = |context: &str| format!("{{containers: [{{name: c, securityContext: {{{context}}}}}]}}");
        assert_eq!(told(&pod(GOOD)), Vec::<String>::new());
        let on_pod = "{securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}, containers: \
                      [{name: c, securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}}]}";
        assert_eq!(told(on_pod), Vec::<String>::new());
        for (part, bad, reason) in [
            ("allowPrivilegeEscalation: false", "", "allowPrivilegeEscalation is not false"),
            ("runAsNonRoot: true", "", "runAsNonRoot is not set"),
            ("runAsNonRoot: true", "runAsNonRoot: true, runAsUser: 0", "it runs as root"),
            ("runAsNonRoot: true", "runAsNonRoot: true, privileged: true", "it is privileged"),
            ("drop: [ALL]", "drop: [NET_RAW]", "it does not drop all capabilities"),
            ("RuntimeDefault", "Unconfined", "it has no seccomp profile"),
        ] {
            let found = told(&pod(GOOD.replace(part, bad).replace(", ,", ",").trim_start_matches(", ")));
            assert_eq!(found.len(), 1, "{part}");
            assert!(found[0].contains("Pod n/p, container c") && found[0].ends_with(reason), "{}", found[0]);
        }
    }

    #[test]
    fn pods_may_not_have_the_hosts_things() {
        let found = told(&format!(
            "{{hostPID: true, volumes: [{{name: v, hostPath: {{path: /}}}}, {{name: e, emptyDir: {{}}}}], \
             initContainers: [{{name: i, securityContext: {{{GOOD}}}}}], \
             containers: [{{name: c, securityContext: {{{GOOD}}}}}]}}"
        ));
        assert_eq!(found.len(), 1, "the pod counts once: {found:?}");
        assert!(found[0].ends_with("the pod has hostPID, a volume is a hostPath"), "{}", found[0]);
    }
}
