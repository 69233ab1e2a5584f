//! helm: argv (here) and output ([`output`]). Every call uses the lab's own helm home, so that no repository, plugin or setting of the
//! user's takes part. Waiting is done by watch, not by `--wait`, which says nothing about what it waits for.

mod output;

use std::path::{Path, PathBuf};
use std::time::Duration;

use semver::Version;

use super::{Command, Target, Tool, go_duration, path_arg};

pub use output::{
    HistoryRow, Release, ReleaseStatus, Repository, is_operation_in_progress, is_release_not_found, parse_history,
    parse_list, parse_repo_list, parse_values, parse_version,
};

/// How much longer than helm's own `--timeout` it is let run, so that helm's words about a timeout are heard.
const MARGIN: Duration = Duration::from_secs(30);

/// helm with the lab's home and the lab's cluster.
#[derive(Debug, Clone)]
pub struct Helm {
    /// `HELM_REPOSITORY_CONFIG`. The rest of the helm home lies beside it.
    pub repositories: PathBuf,
    /// `HELM_REPOSITORY_CACHE`.
    pub cache: PathBuf,
    /// The cluster.
    pub target: Target,
}

/// The version of helm.
#[must_use]
pub fn version() -> Command {
    Command::new(Tool::Helm, ["version", "--template", "{{.Version}}"]).timeout(Duration::from_secs(20))
}

impl Helm {
    /// The variables that make helm use the lab's home; also what `coastal env` prints.
    #[must_use]
    pub fn environment(&self) -> Vec<(String, String)> {
        let home = self.repositories.parent().unwrap_or(Path::new("."));
        [
            ("HELM_REPOSITORY_CONFIG", self.repositories.clone()),
            ("HELM_REPOSITORY_CACHE", self.cache.clone()),
            ("HELM_CACHE_HOME", self.cache.clone()),
            ("HELM_CONFIG_HOME", home.join("config")),
            ("HELM_DATA_HOME", home.join("data")),
        ]
        .map(|(key, path)| (key.to_owned(), path_arg(&path)))
        .into()
    }

    /// Adds a repository, or gives a known one this URL, and fetches its index.
    #[must_use]
    pub fn repo_add(&self, name: &str, url: &str) -> Command {
        self.at_home(["repo", "add", name, url, "--force-update"]).timeout(Duration::from_secs(120))
    }

    /// The known repositories.
    #[must_use]
    pub fn repo_list(&self) -> Command {
        self.at_home(["repo", "list", "--output", "json"])
    }

    /// Downloads `chart` (`repository/chart`) as [`archive_name`] into `directory`, which must exist.
    #[must_use]
    pub fn pull(&self, chart: &str, version: &Version, directory: &Path, timeout: Duration) -> Command {
        self.at_home(["pull", chart, "--version", &version.to_string()])
            .args(["--destination".to_owned(), path_arg(directory)])
            .timeout(timeout)
    }

    /// The newest revision of every release of a namespace, whatever its status. A filter would save nothing: helm
    /// reads them all before it applies one, and who asks for two releases would start helm twice.
    #[must_use]
    pub fn list(&self, namespace: &str) -> Command {
        // Without `--max 0` helm keeps 256 of them.
        self.at_cluster(["list", "--all", "--max", "0", "--namespace", namespace, "--output", "json"])
    }

    /// The values that the newest revision of `release` was given. They may hold secrets.
    #[must_use]
    pub fn get_values(&self, release: &str, namespace: &str) -> Command {
        self.at_cluster(["get", "values", release, "--namespace", namespace, "--output", "json"]).secret_output()
    }

    /// The revisions of `release` that helm remembers, oldest first.
    #[must_use]
    pub fn history(&self, release: &str, namespace: &str) -> Command {
        self.at_cluster(["history", release, "--namespace", namespace, "--output", "json"])
    }

    /// The objects of a revision of `release`, as YAML. They may hold secrets.
    #[must_use]
    pub fn get_manifest(&self, release: &str, namespace: &str, revision: u32) -> Command {
        let revision = revision.to_string();
        self.at_cluster(["get", "manifest", release, "--revision", &revision, "--namespace", namespace]).secret_output()
    }

    /// Installs or upgrades `release` from `chart` (an archive, a directory, or `repository/chart`). `values` is YAML,
    /// read from standard input. Returns when the objects are sent and the hooks are through; does not wait for pods.
    #[must_use]
    pub fn upgrade_install(
        &self,
        release: &str,
        namespace: &str,
        chart: &Path,
        values: String,
        timeout: Duration,
    ) -> Command {
        self.at_cluster(["upgrade", "--install", release])
            .args([path_arg(chart)])
            .args(["--namespace", namespace, "--values", "-", "--timeout", &go_duration(timeout)])
            .stdin(values)
            .timeout(timeout + MARGIN)
    }

    /// Removes `release` and waits until its objects are gone.
    #[must_use]
    pub fn uninstall(&self, release: &str, namespace: &str, timeout: Duration) -> Command {
        self.at_cluster(["uninstall", release, "--namespace", namespace, "--wait", "--timeout", &go_duration(timeout)])
            .timeout(timeout + MARGIN)
    }

    /// Runs the tests of `release`.
    #[must_use]
    pub fn test(&self, release: &str, namespace: &str, timeout: Duration) -> Command {
        self.at_cluster(["test", release, "--namespace", namespace, "--timeout", &go_duration(timeout)])
            .timeout(timeout + MARGIN)
    }

    /// Renders `chart` without asking a cluster. `values` is YAML, read from standard input; they may hold secrets,
    /// and then so does the output.
    #[must_use]
    pub fn template(&self, release: &str, namespace: &str, chart: &Path, values: String) -> Command {
        self.at_home(["template", release])
            .args([path_arg(chart)])
            .args(["--namespace", namespace, "--include-crds", "--values", "-"])
            .stdin(values)
            .secret_output()
    }

    fn at_home<const N: usize>(&self, args: [&str; N]) -> Command {
        self.environment()
            .into_iter()
            .fold(Command::new(Tool::Helm, args), |command, (key, value)| command.env(key, value))
    }

    fn at_cluster<const N: usize>(&self, args: [&str; N]) -> Command {
        self.at_home(args).args([
            "--kubeconfig".to_owned(),
            path_arg(&self.target.kubeconfig),
            "--kube-context".to_owned(),
            self.target.context.clone(),
        ])
    }
}

/// The file that [`Helm::pull`] makes.
#[must_use]
pub fn archive_name(chart: &str, version: &Version) -> String {
    format!("{}-{version}.tgz", chart.rsplit('/').next().unwrap_or(chart))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn helm() -> Helm {
        Helm {
            repositories: "/state/helm/repositories.yaml".into(),
            cache: "/state/helm/cache".into(),
            target: Target { kubeconfig: "/state/kubeconfig".into(), context: "kind-kind".into() },
        }
    }

    #[test]
    fn argv() {
        let helm = helm();
        let minutes = Duration::from_secs(300);
        let pins = "--kubeconfig /state/kubeconfig --kube-context kind-kind";
        let version = Version::new(0, 13, 0);
        let chart = Path::new("/d/spire-0.13.0.tgz");
        for (command, expected) in [
            (super::version(), "helm version --template '{{.Version}}'".to_owned()),
            (helm.repo_add("spiffe", "https://x/"), "helm repo add spiffe https://x/ --force-update".to_owned()),
            (helm.repo_list(), "helm repo list --output json".to_owned()),
            (
                helm.pull("spiffe/spire", &version, Path::new("/d"), minutes),
                "helm pull spiffe/spire --version 0.13.0 --destination /d".to_owned(),
            ),
            (
                helm.list("spire-server"),
                format!("helm list --all --max 0 --namespace spire-server --output json {pins}"),
            ),
            (
                helm.get_values("spire", "spire-server"),
                format!("helm get values spire --namespace spire-server --output json {pins}"),
            ),
            (
                helm.history("spire", "spire-server"),
                format!("helm history spire --namespace spire-server --output json {pins}"),
            ),
            (
                helm.get_manifest("spire", "spire-server", 3),
                format!("helm get manifest spire --revision 3 --namespace spire-server {pins}"),
            ),
            (
                helm.upgrade_install("spire", "spire-server", chart, "a: b".into(), minutes),
                format!(
                    "helm upgrade --install spire {pins} /d/spire-0.13.0.tgz --namespace spire-server --values - \
                     --timeout 300s"
                ),
            ),
            (
                helm.uninstall("spire", "spire-server", minutes),
                format!("helm uninstall spire --namespace spire-server --wait --timeout 300s {pins}"),
            ),
            (
                helm.test("spire", "spire-server", minutes),
                format!("helm test spire --namespace spire-server --timeout 300s {pins}"),
            ),
            (
                helm.template("spire", "spire-server", chart, "a: b".into()),
                "helm template spire /d/spire-0.13.0.tgz --namespace spire-server --include-crds --values -".to_owned(),
            ),
        ] {
            assert_eq!(command.line(), expected);
        }
        let upgrade = helm.upgrade_install("spire", "spire-server", chart, "a: b".into(), minutes);
        assert_eq!(upgrade.stdin.as_deref(), Some(&b"a: b"[..]));
        assert!(upgrade.timeout > minutes);
        assert!(helm.get_values("spire", "x").secret_output);
        assert!(helm.template("spire", "x", chart, String::new()).secret_output);
        assert_eq!(archive_name("spiffe/spire", &version), "spire-0.13.0.tgz");
    }

    #[test]
    fn nothing_of_the_users_helm_home_is_used() {
        let command = helm().repo_list();
        for key in
            ["HELM_REPOSITORY_CONFIG", "HELM_REPOSITORY_CACHE", "HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"]
        {
            let value = &command.env.iter().find(|(name, _)| name == key).unwrap().1;
            assert!(value.starts_with("/state/helm/"), "{key}={value}");
        }
    }
}
