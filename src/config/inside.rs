//! The lab file of a job that runs inside the cluster: the lab's own, with what is different there.

use std::path::Path;

use toml_edit::{Array, DocumentMut, Item, Table, TableLike, value};

use crate::config::Lab;
use crate::error::{Failure, Kind, io_failure};

/// What is different inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inside<'a> {
    /// The kubeconfig's path there.
    pub kubeconfig: &'a str,
    /// The context in it.
    pub context: &'a str,
    /// Where the archives go there.
    pub backups: &'a str,
    /// Who can open them.
    pub recipients: &'a [String],
    /// How many are kept.
    pub keep: usize,
}

/// The text of that file.
///
/// # Errors
/// The lab file cannot be read, or its tables are none.
pub fn lab_inside(lab: &Lab, inside: &Inside<'_>) -> Result<String, Failure> {
    let text = match &lab.file {
        Some(file) => std::fs::read_to_string(file).map_err(|error| io_failure("read", file, &error))?,
        // What it leaves out is as it is here.
        None => format!("schema = 1\nname = \"{}\"\n", lab.name),
    };
    rewritten(&text, inside).map_err(|why| {
        let name = lab.file.as_deref().unwrap_or(Path::new("lab.toml"));
        Failure::new(Kind::Config, format!("`{}` cannot be made one for inside the cluster: {why}", name.display()))
    })
}

fn rewritten(text: &str, inside: &Inside<'_>) -> Result<String, String> {
    let mut document: DocumentMut = text.parse().map_err(|error: toml_edit::TomlError| error.to_string())?;
    let mut cluster = Table::new();
    cluster.insert("provider", value("existing"));
    cluster.insert("kubeconfig", value(inside.kubeconfig));
    cluster.insert("context", value(inside.context));
    document.insert("cluster", Item::Table(cluster));
    // The archives of images are on this machine, and were loaded from here.
    if let Some(images) = document.get_mut("images").and_then(Item::as_table_like_mut) {
        images.remove("archives");
    }
    let backup = document.entry("backup").or_insert(Item::Table(Table::new()));
    let backup: &mut dyn TableLike = backup.as_table_like_mut().ok_or("`backup` is not a table")?;
    backup.insert("dir", value(inside.backups));
    backup.insert("recipients", value(inside.recipients.iter().map(String::as_str).collect::<Array>()));
    backup.insert("keep", value(i64::try_from(inside.keep).unwrap_or(i64::MAX)));
    Ok(document.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DEFAULT, Provider, embedded, load::parse};

    const RECIPIENT: &str = "age1t6jmqxhze0rlsy7n3s2l3u5vt2l8jsyhhaauhhlcsdv56sek9ujsqmd7dk";

    fn inside(recipients: &[String]) -> Inside<'_> {
        Inside {
            kubeconfig: "/etc/coastal/kubeconfig",
            context: "in-cluster",
            backups: "/backups",
            recipients,
            keep: 3,
        }
    }

    #[test]
    fn it_is_the_same_lab_on_an_existing_cluster() {
        let recipients = vec![RECIPIENT.to_owned(); usize::from(crate::backup::seal::is_recipient(RECIPIENT))];
        let of_the_embedded = lab_inside(&embedded().unwrap(), &inside(&recipients)).unwrap();
        let with_dotted_keys =
            "schema = 1\ncluster.http-port = 81\nimages.archives = [\"a.tar\"]\nbackup.max-age = \"7d\"\n".to_owned();
        let with_dotted_keys = rewritten(&with_dotted_keys, &inside(&recipients)).unwrap();
        let full = rewritten(DEFAULT, &inside(&recipients)).unwrap();
        for text in [of_the_embedded, with_dotted_keys, full] {
            let lab =
                parse("lab.toml", &text, None, "/etc/coastal".into()).unwrap_or_else(|why| panic!("{text}\n{why:?}"));
            let wanted =
                Provider::Existing { kubeconfig: "/etc/coastal/kubeconfig".into(), context: "in-cluster".to_owned() };
            assert_eq!(lab.cluster.provider, wanted);
            let outside = embedded().unwrap();
            assert_eq!((&lab.name, &lab.spire, &lab.database), (&outside.name, &outside.spire, &outside.database));
            assert_eq!(lab.backup.dir, Some("/backups".into()));
            assert_eq!((&lab.backup.recipients, lab.backup.keep), (&recipients, 3));
            assert!(lab.images.archives.is_empty());
            assert_eq!(lab.backup.max_age.is_some(), text.contains("max-age = \"7d\""));
        }
    }

    #[test]
    fn what_is_no_table_is_told() {
        assert_eq!(rewritten("backup = 1", &inside(&[])).unwrap_err(), "`backup` is not a table");
    }
}
