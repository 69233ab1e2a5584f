//! Secrets are taken out of text that leaves this machine: support bundles and reports.
//!
//! Two nets, because each has holes. Values that are known to be secret (read from the cluster's Secrets) are found
//! wherever they stand, plain or in base64. What merely looks like a secret is found by its surroundings: private keys,
//! tokens, and whatever follows a name like `password`.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};

/// Stands where a secret stood.
pub const MARK: &str = "[redacted]";
/// A shorter value is not looked for: it would be found in the middle of words.
pub const SHORTEST: usize = 6;

/// Names after which a secret follows, in lower case without `-` and `_`.
const NAMES: &[&str] = &[
    "password",
    "passwd",
    "passphrase",
    "pgpassword",
    "secret",
    "token",
    "apikey",
    "accesskey",
    "privatekey",
    "credential",
    "credentials",
    "authorization",
];

/// Takes secrets out of text.
#[derive(Debug, Clone, Default)]
pub struct Redactor {
    /// Longest first, so that none hides inside another.
    known: Vec<String>,
}

impl Redactor {
    /// Knows these values, besides what looks like a secret. Values shorter than [`SHORTEST`] are left out.
    #[must_use]
    pub fn new<'a>(values: impl IntoIterator<Item = &'a str>) -> Self {
        let mut known: Vec<String> = Vec::new();
        for value in values.into_iter().map(str::trim).filter(|value| value.len() >= SHORTEST) {
            known.push(value.to_owned());
            known.push(STANDARD.encode(value));
            known.push(STANDARD_NO_PAD.encode(value));
            // As YAML and JSON write it.
            let quoted = serde_json::Value::from(value).to_string();
            known.push(quoted[1..quoted.len() - 1].to_owned());
            known.push(form_urlencoded::byte_serialize(value.as_bytes()).collect());
        }
        known.sort_by_key(|value| std::cmp::Reverse(value.len()));
        known.dedup();
        Redactor { known }
    }

    /// `text` without secrets.
    #[must_use]
    pub fn text(&self, text: &str) -> String {
        let mut text = Cow::Borrowed(text);
        for value in self.known.iter().filter(|value| !value.is_empty()) {
            if text.contains(value.as_str()) {
                text = Cow::Owned(text.replace(value.as_str(), MARK));
            }
        }
        let mut out = String::with_capacity(text.len());
        let text = without_keys(&text);
        // A container's `- name: X_PASSWORD` says that the `value:` below it is secret.
        let mut value_is_secret = false;
        for line in text.split_inclusive('\n') {
            let bare = line.trim_start().trim_start_matches("- ");
            if let Some(name) = bare.strip_prefix("name:") {
                value_is_secret = is_secret_name(name.trim().trim_matches('"'));
            }
            if value_is_secret && let Some(value) = bare.strip_prefix("value:") {
                let indent = line.len() - bare.len();
                out.push_str(&line[..indent + "value:".len()]);
                out.push(' ');
                out.push_str(MARK);
                if value.ends_with('\n') {
                    out.push('\n');
                }
                continue;
            }
            out.push_str(&without_named(&without_tokens(line)));
        }
        out
    }
}

/// Without the insides of PEM blocks that hold private keys; they may be on one line with `\n` written out.
fn without_keys(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(begin) = rest.find("-----BEGIN ") {
        let label_end = rest[begin + 11..].find("-----").map(|end| begin + 11 + end);
        let Some(label_end) = label_end.filter(|end| rest[begin..*end].ends_with("PRIVATE KEY")) else {
            out.push_str(&rest[..begin + 11]);
            rest = &rest[begin + 11..];
            continue;
        };
        out.push_str(&rest[..begin]);
        out.push_str(MARK);
        let after = &rest[label_end..];
        // A key that is cut off ends with the text.
        rest = after.find("PRIVATE KEY-----").map_or("", |end| &after[end + "PRIVATE KEY-----".len()..]);
    }
    out.push_str(rest);
    out
}

/// Without JWTs: three runs of base64url with points between them, the first beginning like a JSON object.
fn without_tokens(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(begin) = rest.find("eyJ") {
        let token = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '=');
        let length = rest[begin..].find(|c| !token(c)).unwrap_or(rest.len() - begin);
        let (before, found) = (&rest[..begin], &rest[begin..begin + length]);
        out.push_str(before);
        out.push_str(if found.matches('.').count() >= 1 && found.len() > 20 { MARK } else { found });
        rest = &rest[begin + length..];
    }
    out.push_str(rest);
    out
}

/// Without what follows `password=`, `"password": `, `Authorization: Bearer `.
fn without_named(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find(['=', ':']) {
        let (before, after) = (&rest[..at], &rest[at + 1..]);
        out.push_str(before);
        out.push_str(&rest[at..=at]);
        rest = after;
        let name_at = before.trim_end_matches(['"', '\'', '\\', ' ']);
        let of_a_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let name = name_at.rsplit(|c| !of_a_name(c)).next().unwrap_or_default();
        if !is_secret_name(name) {
            continue;
        }
        let value = after.trim_start_matches([' ', '"', '\'', '\\']);
        let lead = after.len() - value.len();
        let value_end = value_end(value, &after[..lead]);
        let shown = &value[..value_end];
        // `secret: {name: x}` and `secret:` at a line's end name no value.
        if value_end == 0 || shown.starts_with(['{', '[', '&', '*', '$']) || shown.starts_with(MARK) || is_plain(shown)
        {
            continue;
        }
        out.push_str(&after[..lead]);
        out.push_str(MARK);
        rest = &value[value_end..];
    }
    out.push_str(rest);
    out
}

/// Words of manifests that are no value of theirs.
fn is_plain(value: &str) -> bool {
    matches!(value, "true" | "false" | "null" | "Opaque")
}

fn value_end(value: &str, lead: &str) -> usize {
    let value = value.trim_end_matches(['\n', '\r']);
    let bearer = ["Bearer ", "Basic "].iter().find(|word| value.starts_with(**word)).map_or(0, |word| word.len());
    let ends = |c: char| {
        if lead.contains('"') {
            c == '"' || c == '\\'
        } else if lead.contains('\'') {
            c == '\''
        } else {
            c.is_whitespace() || matches!(c, ',' | ';' | '&' | '"' | '\'' | '}' | ')')
        }
    };
    value[bearer..].find(ends).map_or(value.len(), |end| bearer + end)
}

fn is_secret_name(name: &str) -> bool {
    let name: String = name.chars().filter(|c| !matches!(c, '-' | '_')).flat_map(char::to_lowercase).collect();
    NAMES.iter().any(|secret| name.ends_with(secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_a_secret_goes_and_the_rest_stays() {
        let rows = [
            ("password=hunter2 host=db", "password=[redacted] host=db"),
            ("PGPASSWORD: \"hun ter2\", x", "PGPASSWORD: \"[redacted]\", x"),
            ("{\"admin-password\":\"hunter2\",\"a\":1}", "{\"admin-password\":\"[redacted]\",\"a\":1}"),
            (
                "{\"line\":\"{\\\"password\\\":\\\"hunter2\\\"}\"}",
                "{\"line\":\"{\\\"password\\\":\\\"[redacted]\\\"}\"}",
            ),
            ("Authorization: Bearer abc.def", "Authorization: [redacted]"),
            ("api_key = 'hunter2'", "api_key = '[redacted]'"),
            ("token eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln end", "token [redacted] end"),
            ("secret:\n  name: spire-db\n", "secret:\n  name: spire-db\n"),
            ("kind: Secret\ntype: Opaque\n", "kind: Secret\ntype: Opaque\n"),
            ("waiting for spire-server-1: PodInitializing", "waiting for spire-server-1: PodInitializing"),
            (
                "- name: DB_PASSWORD\n  value: hunter2\n- name: X\n  value: y\n",
                "- name: DB_PASSWORD\n  value: [redacted]\n- name: X\n  value: y\n",
            ),
        ];
        for (text, clean) in rows {
            assert_eq!(Redactor::default().text(text), clean);
        }
    }

    #[test]
    fn private_keys_go_and_certificates_stay() {
        let pem = "a\n-----BEGIN EC PRIVATE KEY-----\nMHc=\n-----END EC PRIVATE KEY-----\nb -----BEGIN CERTIFICATE-----\nMII=\n";
        assert_eq!(Redactor::default().text(pem), "a\n[redacted]\nb -----BEGIN CERTIFICATE-----\nMII=\n");
        let cut = "-----BEGIN PRIVATE KEY-----\\nMHc";
        assert_eq!(Redactor::default().text(cut), "[redacted]");
    }

    #[test]
    fn a_known_value_is_found_however_it_is_written() {
        let secret = "tr\"icky & long";
        let redactor = Redactor::new([secret, "abc"]);
        for form in [
            secret.to_owned(),
            STANDARD.encode(secret),
            serde_json::Value::from(secret).to_string(),
            form_urlencoded::byte_serialize(secret.as_bytes()).collect(),
        ] {
            let clean = redactor.text(&format!("x {form} y"));
            assert!(clean.contains(MARK) && !clean.contains("icky"), "{form} -> {clean}");
        }
        assert_eq!(redactor.text("abc"), "abc");
    }

    proptest::proptest! {
        #[test]
        fn nothing_makes_it_fail_and_a_second_time_changes_nothing(text in "(?s).{0,200}") {
            let redactor = Redactor::new(["hunter2-long"]);
            let once = redactor.text(&text);
            proptest::prop_assert_eq!(redactor.text(&once), once);
        }

        #[test]
        fn a_known_value_never_comes_through(before in "[ -~]{0,40}", after in "[ -~\n]{0,40}") {
            let clean = Redactor::new(["S3cret!Value"]).text(&format!("{before}S3cret!Value{after}"));
            proptest::prop_assert!(!clean.contains("S3cret!Value"));
        }
    }
}
