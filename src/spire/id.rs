//! SPIFFE ids as a person types them, and globs over them.

use crate::spire::cli::SpiffeId;

/// The longest that the standard allows, in bytes.
const LONGEST: usize = 2048;

/// Why a text is no SPIFFE id of a trust domain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAnId {
    /// Another scheme, or none.
    #[error("a SPIFFE id begins with `spiffe://`")]
    Scheme,
    /// It is somebody else's.
    #[error("it is of trust domain `{0}`")]
    Foreign(String),
    /// It names the trust domain and nothing in it.
    #[error("it has no path: it names the trust domain, not a workload")]
    NoPath,
    /// `…/`
    #[error("a SPIFFE id does not end with a slash")]
    TrailingSlash,
    /// `…//…`
    #[error("it has an empty segment")]
    EmptySegment,
    /// `.` or `..`
    #[error("it has a segment `{0}`")]
    Dots(String),
    /// A character that the standard does not allow.
    #[error("`{0}` is not allowed in a SPIFFE id (letters, digits, `.`, `-` and `_` are)")]
    Character(char),
    /// It is endless.
    #[error("it is longer than {LONGEST} bytes")]
    TooLong,
}

/// Reads an id of `trust_domain`: whole, or only its path.
///
/// # Errors
/// It is none; SPIRE would refuse it too, or find nothing.
pub fn parse(text: &str, trust_domain: &str) -> Result<SpiffeId, NotAnId> {
    if text.len() > LONGEST {
        return Err(NotAnId::TooLong);
    }
    let path = match text.strip_prefix("spiffe://") {
        Some(rest) => {
            let (domain, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
            if domain != trust_domain {
                return Err(NotAnId::Foreign(domain.to_owned()));
            }
            path
        }
        None if text.starts_with('/') => text,
        None => return Err(NotAnId::Scheme),
    };
    let Some(inner) = path.strip_prefix('/').filter(|inner| !inner.is_empty()) else { return Err(NotAnId::NoPath) };
    if inner.ends_with('/') {
        return Err(NotAnId::TrailingSlash);
    }
    for segment in inner.split('/') {
        match segment {
            "" => return Err(NotAnId::EmptySegment),
            "." | ".." => return Err(NotAnId::Dots(segment.to_owned())),
            _ => {}
        }
        if let Some(other) = segment.chars().find(|c| !c.is_ascii_alphanumeric() && !".-_".contains(*c)) {
            return Err(NotAnId::Character(other));
        }
    }
    Ok(SpiffeId { trust_domain: trust_domain.to_owned(), path: path.to_owned() })
}

/// A pattern over what has segments: `*` stands for any part of one, `**` for any number of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob(Vec<String>);

impl Glob {
    /// Any text is a pattern; what is no glob matches itself.
    #[must_use]
    pub fn new(pattern: &str) -> Self {
        Glob(pattern.split('/').map(str::to_owned).collect())
    }

    /// A pattern over SPIFFE ids of `trust_domain`: whole, or only its path.
    #[must_use]
    pub fn of_id(pattern: &str, trust_domain: &str) -> Self {
        if pattern.starts_with('/') {
            Glob::new(&format!("spiffe://{trust_domain}{pattern}"))
        } else {
            Glob::new(pattern)
        }
    }

    /// Whether it covers all of `text`.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        // The segments that the patterns so far can have eaten: a set, because `**` may eat any number.
        let segments: Vec<&str> = text.split('/').collect();
        let mut reached = vec![false; segments.len() + 1];
        reached[0] = true;
        for pattern in &self.0 {
            let mut next = vec![false; segments.len() + 1];
            if pattern == "**" {
                if let Some(first) = reached.iter().position(|reached| *reached) {
                    next[first..].fill(true);
                }
            } else {
                for (at, segment) in segments.iter().enumerate() {
                    next[at + 1] = reached[at] && segment_matches(pattern, segment);
                }
            }
            reached = next;
        }
        reached[segments.len()]
    }
}

/// `*` is any part of a segment.
fn segment_matches(pattern: &str, segment: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(first) = parts.next() else { return false };
    let Some(mut rest) = segment.strip_prefix(first) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids_are_read_as_spire_reads_them() {
        let read = |text: &str| parse(text, "td.example").map(|id| id.to_string());
        for text in ["spiffe://td.example/ns/x/sa/y", "/ns/x/sa/y"] {
            assert_eq!(read(text).unwrap(), "spiffe://td.example/ns/x/sa/y");
        }
        for (text, problem) in [
            ("ns/x", NotAnId::Scheme),
            ("https://td.example/x", NotAnId::Scheme),
            ("spiffe://other/x", NotAnId::Foreign("other".into())),
            ("spiffe://TD.example/x", NotAnId::Foreign("TD.example".into())),
            ("spiffe://td.example", NotAnId::NoPath),
            ("spiffe://td.example/", NotAnId::NoPath),
            ("spiffe://td.example/x/", NotAnId::TrailingSlash),
            ("/x//y", NotAnId::EmptySegment),
            ("/x/../y", NotAnId::Dots("..".into())),
            ("/ns/schiff/sa/piratin-ä", NotAnId::Character('ä')),
            ("/ns/x/sa/y?z", NotAnId::Character('?')),
            ("/ns/x\u{200b}", NotAnId::Character('\u{200b}')),
        ] {
            assert_eq!(read(text), Err(problem), "{text}");
        }
        assert_eq!(read(&format!("/{}", "x".repeat(3000))), Err(NotAnId::TooLong));
    }

    #[test]
    fn globs_stay_within_a_segment_unless_they_are_told_not_to() {
        for (pattern, text, matches) in [
            ("spiffe://td/ns/*/sa/*", "spiffe://td/ns/a/sa/b", true),
            ("spiffe://td/ns/*/sa/*", "spiffe://td/ns/a/b/sa/c", false),
            ("spiffe://td/ns/*/sa/*", "spiffe://td/ns/a/sa/", true),
            ("spiffe://td/ns/*/sa/*", "spiffe://td/ns/a/sa", false),
            ("spiffe://td/ns/team-*/sa/w*er", "spiffe://td/ns/team-x/sa/worker", true),
            ("spiffe://td/ns/team-*/sa/w*er", "spiffe://td/ns/team-x/sa/workers", false),
            ("spiffe://td/**", "spiffe://td/a/b/c", true),
            ("spiffe://td/**", "spiffe://td", true),
            ("spiffe://td/**/z", "spiffe://td/a/z/z", true),
            ("spiffe://td/**/z", "spiffe://td/a/z/y", false),
            ("spiffe://td/**/m/**", "spiffe://td/m", true),
            ("spiffe://td/**", "spiffe://tdx/a", false),
            ("a*a", "a", false),
            ("*ab*ab*", "abab", true),
            ("*ab*ab*", "aba", false),
            ("team-*", "team-", true),
            ("*", "", true),
        ] {
            assert_eq!(Glob::new(pattern).matches(text), matches, "{pattern} {text}");
        }
        assert!(Glob::of_id("/ns/*", "td").matches("spiffe://td/ns/x"));
    }

    proptest! {
        #[test]
        fn a_text_matches_itself_and_what_it_is_made_of(segments in prop::collection::vec("[a-c]{0,3}", 1..5), at in 0_usize..5) {
            let text = segments.join("/");
            prop_assert!(Glob::new(&text).matches(&text));
            let mut pattern = segments.clone();
            let at = at.min(pattern.len() - 1);
            pattern[at] = "*".to_owned();
            prop_assert!(Glob::new(&pattern.join("/")).matches(&text));
            pattern.truncate(at);
            pattern.push("**".to_owned());
            prop_assert!(Glob::new(&pattern.join("/")).matches(&text));
        }
    }
}
