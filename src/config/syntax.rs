//! The forms that text in a lab file may have: each a [`Rule`] with the words that describe it.

use std::time::Duration;

use semver::{Version, VersionReq};

use crate::config::quantity;

/// A form of text: what it is called, and how it is read.
pub(super) struct Rule<T> {
    /// Completes the sentence "expected …".
    pub(super) expected: &'static str,
    /// The value, or nothing if the text does not have this form.
    pub(super) read: fn(&str) -> Option<T>,
}

fn when(holds: bool, text: &str) -> Option<String> {
    holds.then(|| text.to_owned())
}

/// RFC 1123 label, the form of most names in Kubernetes.
pub(super) const DNS_LABEL: Rule<String> = Rule {
    expected: "a DNS label (a-z, 0-9 and `-`, starting and ending with a letter or digit, at most 63 characters)",
    read: |text| when(is_dns_label(text, 63), text),
};

/// A helm release: helm itself stops at 53 characters.
pub(super) const RELEASE: Rule<String> = Rule {
    expected: "a release name (a-z, 0-9 and `-`, starting and ending with a letter or digit, at most 53 characters)",
    read: |text| when(is_dns_label(text, 53), text),
};

/// A kind cluster: its nodes are `NAME-control-plane`, and a host name has at most 63 characters.
pub(super) const KIND_NAME: Rule<String> = Rule {
    expected: "a cluster name (a-z, 0-9 and `-`, starting and ending with a letter or digit, at most 49 characters)",
    read: |text| when(is_dns_label(text, 49), text),
};

/// The SPIFFE standard, section 2.1.
pub(super) const TRUST_DOMAIN: Rule<String> = Rule {
    expected: "a SPIFFE trust domain (a-z, 0-9, `.`, `-` and `_`, at most 255 characters, no `spiffe://`)",
    read: |text| when(is_trust_domain(text), text),
};

/// The cluster's name becomes a segment of the SPIFFE ids of agents, and the chart writes it into YAML unquoted.
pub(super) const CLUSTER_NAME: Rule<String> = Rule {
    expected: "a name that can be a segment of a SPIFFE id (letters, digits, `.`, `-` and `_`, a letter first)",
    read: |text| when(is_path_segment(text) && text.starts_with(|c: char| c.is_ascii_alphabetic()), text),
};

/// A glob over SPIFFE ids, or over their paths.
pub(super) const IDENTITY_GLOB: Rule<String> = Rule {
    expected: "a SPIFFE id or its path, `*` for a part of one segment, `**` for any segments, like `/ns/default/sa/*`",
    read: |text| when(is_identity_glob(text), text),
};

/// A glob over namespaces.
pub(super) const NAMESPACE_GLOB: Rule<String> =
    Rule { expected: "a namespace, `*` for a part of it, like `team-*`", read: |text| when(is_dns_glob(text), text) };

/// A glob over service accounts.
pub(super) const ACCOUNT_GLOB: Rule<String> = Rule {
    expected: "a namespace and a service account, `*` for a part of either, like `default/*`",
    read: |text| {
        let both = text.split_once('/');
        let right =
            both.is_some_and(|(namespace, account)| is_dns_glob(namespace) && account.split('.').all(is_dns_glob));
        when(right, text)
    },
};

/// Three numbers.
pub(super) const VERSION: Rule<Version> =
    Rule { expected: "a version like `1.7.2`", read: |text| Version::parse(text).ok() };

/// A semver requirement.
pub(super) const REQUIREMENT: Rule<VersionReq> =
    Rule { expected: "a version requirement like `>=3.12, <4`", read: |text| VersionReq::parse(text).ok() };

/// An image that stays the same.
pub(super) const IMAGE: Rule<String> = Rule {
    expected: "an image with a tag other than `latest` or a digest, like `postgres:16`",
    read: |text| when(image(text).is_some_and(|image| image.digest.is_some() || pinned(image.tag)), text),
};

/// An image that we build ourselves: its digest is not known beforehand.
pub(super) const BUILT_IMAGE: Rule<String> = Rule {
    expected: "an image with a tag other than `latest` and without a digest, like `coastal-workload:1.0`",
    read: |text| when(image(text).is_some_and(|image| image.digest.is_none() && pinned(image.tag)), text),
};

/// CPU.
pub(super) const CPU: Rule<String> = Rule {
    expected: "a CPU quantity above zero like `50m` or `0.5`",
    read: |text| when(quantity::milli_cpu(text).is_some_and(|milli| milli > 0), text),
};

/// Memory or storage.
pub(super) const BYTES: Rule<String> = Rule {
    expected: "a quantity of bytes above zero like `64Mi` or `1Gi`",
    read: |text| when(quantity::bytes(text).is_some_and(|bytes| bytes > 0), text),
};

/// A time limit.
pub(super) const DURATION: Rule<Duration> =
    Rule { expected: "a duration from `1s` to `24h` like `90s`, `5m` or `1h30m`", read: duration };

/// An age, in days as well.
pub(super) const AGE: Rule<Duration> = Rule {
    expected: "an age in days up to `3650d`, or a duration from `1s` to `24h`",
    read: |text| match text.strip_suffix('d') {
        Some(days) if days.bytes().all(|b| b.is_ascii_digit()) => {
            let days: u64 = days.parse().ok().filter(|days| (1..=3650).contains(days))?;
            Some(Duration::from_secs(days * 24 * 3600))
        }
        _ => duration(text),
    },
};

/// Who may open backups.
pub(super) const RECIPIENT: Rule<String> = Rule {
    expected: "a recipient of age's, as `age-keygen` prints it: `age1…`",
    read: |text| when(crate::backup::seal::is_recipient(text), text),
};

/// A web address.
pub(super) const URL: Rule<String> =
    Rule { expected: "an address that starts with `https://` or `http://`", read: |text| when(is_url(text), text) };

/// A path or a web address; other schemes are taken for mistakes.
pub(super) const URL_OR_PATH: Rule<String> = Rule {
    expected: "an address that starts with `https://` or `http://`, or the path of a file",
    read: |text| when(is_url(text) || is_path(text), text),
};

/// A path.
pub(super) const PATH: Rule<String> =
    Rule { expected: "the path of a file or directory", read: |text| when(is_path(text), text) };

/// What `PostgreSQL` takes as a name without quotes.
pub(super) const SQL_NAME: Rule<String> = Rule {
    expected: "a PostgreSQL name (a-z, 0-9 and `_`, not starting with a digit, at most 63 characters)",
    read: |text| {
        let fits = (1..=63).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
            && !text.starts_with(|c: char| c.is_ascii_digit());
        when(fits, text)
    },
};

/// X.520 countryName.
pub(super) const COUNTRY: Rule<String> = Rule {
    expected: "two capital letters",
    read: |text| when(text.len() == 2 && text.bytes().all(|b| b.is_ascii_uppercase()), text),
};

/// X.520 organizationName and commonName have at most 64 characters.
pub(super) const SUBJECT: Rule<String> = Rule {
    expected: "1 to 64 printable characters",
    read: |text| when((1..=64).contains(&text.chars().count()) && !text.chars().any(char::is_control), text),
};

/// Anything on one line, e.g. the name of a context.
pub(super) const NAME: Rule<String> = Rule {
    expected: "a name (not empty, on one line)",
    read: |text| when(!text.trim().is_empty() && !text.chars().any(char::is_control), text),
};

/// Whether `text` is a URL that we can download from.
pub(super) fn is_url(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    rest.is_some_and(|rest| {
        !rest.is_empty() && !rest.starts_with('/') && !text.chars().any(|c| c.is_whitespace() || c.is_control())
    })
}

fn is_path(text: &str) -> bool {
    !text.is_empty() && !text.contains("://") && !text.chars().any(char::is_control)
}

fn is_dns_label(text: &str, longest: usize) -> bool {
    (1..=longest).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// `*` may stand for any part.
fn is_dns_glob(text: &str) -> bool {
    !text.contains("**") && is_dns_label(&text.replace('*', "x"), 63)
}

fn is_trust_domain(text: &str) -> bool {
    (1..=255).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
}

fn is_path_segment(text: &str) -> bool {
    !text.is_empty()
        && text != "."
        && text != ".."
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

fn is_identity_glob(text: &str) -> bool {
    let path = match text.strip_prefix("spiffe://") {
        Some(rest) => match rest.split_once('/') {
            Some((trust_domain, path)) if is_trust_domain(trust_domain) => path,
            _ => return false,
        },
        None => match text.strip_prefix('/') {
            Some(path) => path,
            None => return false,
        },
    };
    path.split('/')
        .all(|segment| segment == "**" || (!segment.contains("**") && is_path_segment(&segment.replace('*', "x"))))
}

struct Image<'a> {
    tag: Option<&'a str>,
    digest: Option<&'a str>,
}

fn pinned(tag: Option<&str>) -> bool {
    tag.is_some_and(|tag| tag != "latest")
}

/// The grammar of the distribution project: `[host[:port]/]path[:tag][@algorithm:hex]`.
fn image(text: &str) -> Option<Image<'_>> {
    let (name, digest) = match text.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (text, None),
    };
    // A colon before the last slash belongs to a port.
    let (path, tag) = match name.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
        _ => (name, None),
    };
    let (host, components) = match path.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (Some(first), rest),
        _ => (None, path),
    };
    let host_fits = host.is_none_or(|host| {
        let (name, port) = host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port)));
        name.split('.').all(|label| is_dns_label(&label.to_lowercase(), 63))
            && port.is_none_or(|port| port.parse::<u16>().is_ok())
    });
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let component_fits = |component: &str| {
        let bytes = component.as_bytes();
        bytes.first().copied().is_some_and(word)
            && bytes.last().copied().is_some_and(word)
            && bytes.iter().all(|&b| word(b) || b"._-".contains(&b))
            && !component.contains("..")
            && !component.contains("___")
    };
    let tag_fits = tag.is_none_or(|tag| {
        (1..=128).contains(&tag.len())
            && tag.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
            && !tag.starts_with(['.', '-'])
    });
    let digest_fits = digest.is_none_or(|digest| {
        digest.split_once(':').is_some_and(|(algorithm, hex)| {
            !algorithm.is_empty()
                && algorithm.bytes().all(|b| b.is_ascii_alphanumeric())
                && hex.len() >= 32
                && hex.bytes().all(|b| b.is_ascii_hexdigit())
        })
    });
    let fits = host_fits && components.split('/').all(component_fits) && tag_fits && digest_fits && text.len() <= 255;
    fits.then_some(Image { tag, digest })
}

/// A duration like `90s`, `5m` or `1h30m`; nothing if it is none, or outside 1 s to 24 h.
#[must_use]
pub fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut seconds = 0u64;
    let mut last_unit = u64::MAX;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        let unit = match rest.as_bytes()[digits] {
            b'h' => 3600,
            b'm' => 60,
            b's' => 1,
            _ => return None,
        };
        if unit >= last_unit {
            return None;
        }
        last_unit = unit;
        seconds = seconds.checked_add(number.checked_mul(unit)?)?;
        rest = &rest[digits + 1..];
    }
    (1..=24 * 3600).contains(&seconds).then(|| Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T>(rule: &Rule<T>, good: &[&str], bad: &[&str]) {
        for text in good {
            assert!((rule.read)(text).is_some(), "{text:?} should be {}", rule.expected);
        }
        for text in bad {
            assert!((rule.read)(text).is_none(), "{text:?} should not be {}", rule.expected);
        }
    }

    #[test]
    fn names() {
        let long = "a".repeat(54);
        check(
            &DNS_LABEL,
            &["a", "spire-server", "0a", &long],
            &["", "-a", "a-", "A", "a.b", "a_b", "ü", &"a".repeat(64)],
        );
        check(&RELEASE, &["spire"], &[&long]);
        check(&KIND_NAME, &["kind"], &[&"a".repeat(50)]);
        check(&TRUST_DOMAIN, &["coastal-containers.example", "a_b"], &["", "A.b", "spiffe://a", "a:1", "a/b", "a b"]);
        check(&CLUSTER_NAME, &["kind-kind", "K1.x"], &["", ".", "..", "a/b", "a b", "1.0"]);
        check(&SQL_NAME, &["spire", "_a1"], &["", "1a", "Spire", "a-b", "a'b"]);
        check(&COUNTRY, &["UK"], &["uk", "GBR", ""]);
        check(&SUBJECT, &["Coastal Containers Ltd."], &["", "a\nb", &"a".repeat(65)]);
        check(&NAME, &["arn:aws:eks/x"], &["", " ", "a\nb"]);
    }

    #[test]
    fn identities() {
        check(
            &IDENTITY_GLOB,
            &["/ns/default/sa/workload", "/ns/*/sa/*", "/spire/**", "/a/w-*", "spiffe://other.example/ns/**"],
            &["", "ns/default", "/", "/a//b", "/a/../b", "/a/b**", "spiffe://", "spiffe://x", "spiffe://X/a", "/a b"],
        );
    }

    #[test]
    fn namespaces_and_accounts() {
        check(&NAMESPACE_GLOB, &["default", "team-*", "*"], &["", "**", "Default", "a/b", "-a", "a b"]);
        check(
            &ACCOUNT_GLOB,
            &["default/*", "*/*", "a/b.c", "team-*/runner"],
            &["", "default", "/a", "a/", "a/b/c", "A/b", "a/**"],
        );
    }

    #[test]
    fn versions() {
        check(&VERSION, &["1.7.2", "0.13.0"], &["1.7", "v1.7.2", "latest", ""]);
        check(&REQUIREMENT, &[">=3.12, <4", "1.2", "*"], &["", "newest", ">=3.12 <4"]);
    }

    #[test]
    fn images() {
        let digest = format!("postgres@sha256:{}", "0".repeat(64));
        let both = format!("kindest/node:v1.27.3@sha256:{}", "a".repeat(64));
        let latest = format!("docker.io/library/bash:latest@sha256:{}", "a".repeat(64));
        check(
            &IMAGE,
            &["postgres:16", "ghcr.io/spiffe/spire-server:1.7.2", "localhost:5000/a/b:1", &digest, &both, &latest],
            &[
                "",
                "postgres",
                "postgres:latest",
                "Postgres:16",
                "a//b:1",
                ":16",
                "a:",
                "a:b/c",
                "a b:1",
                "a@sha256:12",
                "https://x/y:1",
                "-a:1",
                "a..b:1",
            ],
        );
        check(
            &BUILT_IMAGE,
            &["coastal-workload:0.1.0"],
            &["coastal-workload", "coastal-workload:latest", &digest, &both],
        );
    }

    #[test]
    fn places() {
        check(
            &URL,
            &["https://a/b", "http://127.0.0.1:8081/x"],
            &["", "https://", "ftp://a", "a/b", "https:///a", "https://a b"],
        );
        check(&PATH, &["a", "../a/b.yaml", "/a", "~/x"], &["", "https://a", "oci://a", "a\nb"]);
        check(&URL_OR_PATH, &["https://a/b", "./a.yaml"], &["", "oci://a", "file:///a"]);
    }

    #[test]
    fn quantities() {
        check(&CPU, &["50m", "0.5", "1", "2"], &["", "0", "0m", "-1", "1Gi", "m", "fast"]);
        check(&BYTES, &["64Mi", "1Gi", "1e9", "128M"], &["", "0", "1m", "64mb", "Gi", "-1Gi"]);
    }

    #[test]
    fn ages() {
        check(&AGE, &["1d", "30d", "3650d", "12h"], &["0d", "3651d", "d", "-1d", "+1d", "1.5d", "48h", ""]);
    }

    #[test]
    fn recipients() {
        let ours = age::x25519::Identity::generate().to_public().to_string();
        check(&RECIPIENT, &[ours.as_str()], &["", "age1", &ours.replace("age1", "age2"), "ssh-ed25519 AAAA"]);
    }

    #[test]
    fn durations() {
        for (text, seconds) in
            [("90s", Some(90)), ("5m", Some(300)), ("1h30m", Some(5400)), ("24h", Some(86400)), ("0m1s", Some(1))]
        {
            assert_eq!(duration(text).map(|d| d.as_secs()), seconds, "{text}");
        }
        check(
            &DURATION,
            &[],
            &["", "5", "m", "5 m", "0s", "25h", "1m1h", "1s1s", "1.5h", "-5m", "99999999999999999999s", "5µ"],
        );
    }
}
