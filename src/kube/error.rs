//! What the API server, or the way to it, said.

use crate::error::{Failure, Kind};

/// A client error as a failure: `what: the server's own words`.
#[must_use]
pub fn api_failure(what: &str, error: &kube::Error) -> Failure {
    match error {
        kube::Error::Api(status) => {
            let failure = Failure::new(Kind::Tool, format!("{what}: {}", brief(&status.message)));
            match status.reason.as_str() {
                "Forbidden" | "Unauthorized" => {
                    failure.next("check that the context's user may do this: `kubectl auth can-i --list`")
                }
                // Refused as it is written; asking again would not help.
                "Invalid" | "BadRequest" => failure
                    .next("look at what lab.toml names for it: a manifest, a chart, values that are merged over ours"),
                _ => failure
                    .next("`coastal status` shows whether the cluster is well; then the same command may be run again"),
            }
        }
        other => Failure::new(Kind::Tool, format!("{what}: the API server does not answer ({})", root_cause(other)))
            .next(
                "is the cluster running? `docker ps` shows the nodes of a kind cluster, `coastal status` what is there",
            ),
    }
}

/// The server's words without the values that it refuses where it writes them out as Go structures, pages of them:
/// `Job.batch "x" is invalid: spec.template: Invalid value: core.PodTemplateSpec{…}: field is immutable`.
fn brief(message: &str) -> String {
    const VALUE: &str = "Invalid value: ";
    /// As much of a value as a person reads.
    const MOST: usize = 120;
    let mut told = String::new();
    let mut rest = message;
    while let Some((before, value)) = rest.split_once(VALUE) {
        told += before;
        told += VALUE;
        rest = value;
        let name = value.split('{').next().unwrap_or_default();
        let is_go = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || "._*&[]".contains(c));
        if let Some(end) = closing(&value[name.len()..]).filter(|end| is_go && *end > MOST) {
            told += name;
            told += "{…}";
            rest = &value[name.len() + end..];
        }
    }
    told + rest
}

/// Where the brace that `text` begins with is closed: the byte behind it. Braces in quotes do not count.
fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '{' if !quoted => depth += 1,
            '}' if !quoted => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
    }
    None
}

/// What a person types to see more of an object, as a next step: `args` is what follows `kubectl`.
#[must_use]
pub fn by_kubectl(args: &str) -> String {
    format!("`kubectl {args}` shows more (`eval \"$(coastal env)\"` points kubectl at the lab)")
}

/// Adds to a wait that was too long where its object can be looked at; see [`by_kubectl`].
///
/// # Errors
/// Those of `result`.
pub fn look_if_late<T>(result: Result<T, Failure>, args: impl FnOnce() -> String) -> Result<T, Failure> {
    result.map_err(|failure| match failure.kind {
        Kind::Timeout => failure.next(by_kubectl(&args())),
        _ => failure,
    })
}

/// Errors of HTTP clients wrap each other; the innermost says what happened (`connection refused`).
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_go_is_left_out() {
        let go =
            format!("core.PodTemplateSpec{{ObjectMeta:v1.ObjectMeta{{Name:\"\", {}}}}}", "Labels:nil, ".repeat(99));
        let said = format!("Job.batch \"check\" is invalid: spec.template: Invalid value: {go}: field is immutable");
        let told =
            "Job.batch \"check\" is invalid: spec.template: Invalid value: core.PodTemplateSpec{…}: field is immutable";
        assert_eq!(brief(&said), told);
        let two = |value: &str| {
            format!(
                "w is invalid: [a: Invalid value: \"A\": lower case, b: Invalid value: {value}: wrong, c: Required value]"
            )
        };
        assert_eq!(brief(&two(&go)), two("core.PodTemplateSpec{…}"));
        let long_reason = format!("a: Invalid value: \"A\": {}: what", "must be lower case, ".repeat(20));
        for short in ["pods is forbidden: no", &two("B"), &long_reason, "Invalid value: x{\"}", "Invalid value: }{", ""]
        {
            assert_eq!(brief(short), short);
        }
    }
}
