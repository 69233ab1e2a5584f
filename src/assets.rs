//! The files that are built into the program: chart values and manifests. They are data with defaults; what a lab
//! says is put into their parsed form, never into their text.

/// One embedded file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asset {
    /// Its path in the repository, e.g. `manifests/database.yaml`.
    pub name: &'static str,
    /// Its text.
    pub text: &'static str,
}

macro_rules! assets {
    ($($(#[$doc:meta])* $constant:ident = $name:literal;)*) => {
        $($(#[$doc])* pub const $constant: Asset = Asset { name: $name, text: include_str!(concat!("../", $name)) };)*

        /// All of them.
        pub const ALL: &[Asset] = &[$($constant),*];
    };
}

assets! {
    /// Values of the chart `spire`.
    SPIRE_VALUES = "values/spire.yaml";
    /// Values of the chart `kube-prometheus-stack`.
    PROMETHEUS_VALUES = "values/prometheus.yaml";
    /// SPIRE's namespaces.
    NAMESPACES = "manifests/namespaces.yaml";
    /// The self-signed ClusterIssuer.
    CLUSTER_ISSUER = "manifests/cluster-issuer.yaml";
    /// PostgreSQL.
    DATABASE = "manifests/database.yaml";
    /// SPIRE's PodMonitors.
    MONITORS = "manifests/monitors.yaml";
    /// The workload.
    WORKLOAD = "manifests/workload.yaml";
    /// The pirate ship.
    MALICIOUS = "manifests/malicious.yaml";
    /// The CronJob that takes backups.
    BACKUP_SCHEDULE = "manifests/backup-schedule.yaml";
}

/// The embedded file of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Asset> {
    ALL.iter().find(|asset| asset.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_two_directories_is_embedded() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut files = 0;
        for directory in ["values", "manifests"] {
            for entry in std::fs::read_dir(root.join(directory)).unwrap() {
                let name = format!("{directory}/{}", entry.unwrap().file_name().to_string_lossy());
                let text = std::fs::read_to_string(root.join(&name)).unwrap();
                assert_eq!(find(&name).map(|asset| asset.text), Some(text.as_str()), "{name}");
                files += 1;
            }
        }
        assert_eq!(files, ALL.len());
        assert_eq!(find("values/none.yaml"), None);
    }
}
