//! The values that a release gets: ours ([`crate::spire::values`]), and over them those of the user's file.

use std::path::Path;

use serde_json::Value;

use crate::config::Lab;
use crate::error::{Failure, io_failure};
use crate::spire::values::{self, merge, parse_file};

/// For the chart `spire`.
///
/// # Errors
/// The user's values file cannot be read.
pub fn spire_values(lab: &Lab) -> Result<Value, Failure> {
    over(values::spire_values(lab)?, lab.spire.values.as_deref())
}

/// For the chart `kube-prometheus-stack`.
///
/// # Errors
/// The user's values file cannot be read.
pub fn prometheus_values(lab: &Lab) -> Result<Value, Failure> {
    let file = lab.monitoring.as_ref().and_then(|monitoring| monitoring.values.as_deref());
    over(values::prometheus_values(lab)?, file)
}

fn over(ours: Value, file: Option<&Path>) -> Result<Value, Failure> {
    let Some(file) = file else { return Ok(ours) };
    let text = std::fs::read_to_string(file).map_err(|error| {
        io_failure("read the values file", file, &error).next("set `values` in lab.toml to a file, or leave it out")
    })?;
    Ok(merge(ours, parse_file(&file.display().to_string(), &text)?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::embedded;

    #[test]
    fn the_users_file_has_the_last_word() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "spire-server: {logLevel: debug, replicaCount: 5}\ngrafana: {enabled: false}\n")
            .unwrap();
        let mut lab = embedded().unwrap();
        assert_eq!(spire_values(&lab).unwrap(), values::spire_values(&lab).unwrap());
        lab.spire.values = Some(file.path().to_owned());
        lab.monitoring.as_mut().unwrap().values = Some(file.path().to_owned());
        let server = &spire_values(&lab).unwrap()["spire-server"];
        assert_eq!((&server["logLevel"], &server["replicaCount"]), (&json!("debug"), &json!(5)));
        assert_eq!(server["image"]["tag"], json!("1.7.2"));
        assert_eq!(prometheus_values(&lab).unwrap()["grafana"]["enabled"], json!(false));

        lab.spire.values = Some("/nowhere/values.yaml".into());
        assert!(spire_values(&lab).unwrap_err().message.contains("/nowhere/values.yaml"));
    }
}
