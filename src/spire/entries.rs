//! Registration entries as `entry show -output json` prints them, read one by one while they come: a server may have
//! a hundred thousand, and nobody needs them all at once.

use serde::{Deserialize, Deserializer, Serialize, de};

use crate::spire::cli::{SpiffeId, Unreadable};

/// A registration entry. What an older server does not print, or prints as null, is as if it were not set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Entry {
    /// The entry's own id.
    pub id: String,
    /// Which SPIFFE id it gives.
    pub spiffe_id: SpiffeId,
    /// Whose it is to give: a node's agent, a node alias, or the server.
    #[serde(default, deserialize_with = "or_default")]
    pub parent_id: SpiffeId,
    /// All of them have to match.
    #[serde(default, deserialize_with = "or_default")]
    pub selectors: Vec<Selector>,
    /// Seconds; 0 is the server's default.
    #[serde(default, deserialize_with = "number")]
    pub x509_svid_ttl: i64,
    /// Seconds; 0 is the server's default.
    #[serde(default, deserialize_with = "number")]
    pub jwt_svid_ttl: i64,
    /// Trust domains whose bundles go along.
    #[serde(default, deserialize_with = "or_default")]
    pub federates_with: Vec<String>,
    /// Whoever holds it may use the server's administrative APIs.
    #[serde(default, deserialize_with = "or_default")]
    pub admin: bool,
    /// Whoever holds it may have an intermediate CA signed.
    #[serde(default, deserialize_with = "or_default")]
    pub downstream: bool,
    /// Unix seconds; 0 is never.
    #[serde(default, deserialize_with = "number")]
    pub expires_at: i64,
    /// Names in the SVID beside the SPIFFE id.
    #[serde(default, deserialize_with = "or_default")]
    pub dns_names: Vec<String>,
    /// Written by an agent into a store of secrets.
    #[serde(default, deserialize_with = "or_default")]
    pub store_svid: bool,
    /// What the workload may tell its SVIDs apart by.
    #[serde(default, deserialize_with = "or_default")]
    pub hint: String,
    /// Unix seconds; 0 if the server does not tell.
    #[serde(default, deserialize_with = "number")]
    pub created_at: i64,
}

impl Entry {
    /// The uids of the pods that it is for, if it is for single pods.
    pub fn pod_uid(&self) -> impl Iterator<Item = &str> {
        self.values("pod-uid")
    }

    /// The values of its Kubernetes selectors of that name.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let kubernetes = self.selectors.iter().filter(|selector| selector.kind == "k8s");
        kubernetes.filter_map(move |selector| selector.value.strip_prefix(name)?.strip_prefix(':'))
    }
}

/// `k8s:pod-uid:…` in two parts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Selector {
    /// Which attestor finds it.
    #[serde(rename = "type")]
    pub kind: String,
    /// What it finds.
    pub value: String,
}

impl std::fmt::Display for Selector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.kind, self.value)
    }
}

/// The answer of `entry show`, where few are expected.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Entries {
    /// All of them.
    #[serde(default, deserialize_with = "or_default")]
    pub entries: Vec<Entry>,
}

/// Null is as good as absent: SPIRE 1.5 prints what is not set.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// A whole number, which JSON made by protobuf writes as text where it has 64 bits.
fn number<'de, D: Deserializer<'de>>(from: D) -> Result<i64, D::Error> {
    struct Number;
    impl de::Visitor<'_> for Number {
        type Value = i64;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a whole number, or one as text")
        }
        fn visit_unit<E: de::Error>(self) -> Result<i64, E> {
            Ok(0)
        }
        fn visit_i64<E: de::Error>(self, number: i64) -> Result<i64, E> {
            Ok(number)
        }
        fn visit_u64<E: de::Error>(self, number: u64) -> Result<i64, E> {
            i64::try_from(number).map_err(E::custom)
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<i64, E> {
            text.parse().map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
        }
    }
    from.deserialize_any(Number)
}

/// Takes the answer of `entry show` in pieces and hands on each entry when its last byte has come. It holds one
/// entry at a time.
pub struct EntryReader<F> {
    each: F,
    /// The bytes of the entry that has begun.
    entry: Vec<u8>,
    /// Everything outside the entries.
    shell: Vec<u8>,
    depth: u32,
    in_string: bool,
    escaped: bool,
    entries: usize,
    commas: usize,
    bytes: usize,
    wrong: Option<String>,
}

/// Where entries are: in an array in an object.
const DEPTH: u32 = 2;
/// No answer has more than this outside its entries; of one that has, the rest need not be kept to see that.
const SHELL_LIMIT: usize = 64 << 10;

impl<F: FnMut(Entry)> EntryReader<F> {
    /// Hands entries to `each`.
    pub fn new(each: F) -> Self {
        EntryReader {
            each,
            entry: Vec::new(),
            shell: Vec::new(),
            depth: 0,
            in_string: false,
            escaped: false,
            entries: 0,
            commas: 0,
            bytes: 0,
            wrong: None,
        }
    }

    /// The next piece, cut anywhere.
    pub fn take(&mut self, piece: &[u8]) {
        self.bytes += piece.len();
        // Where the bytes of this piece begin that belong together: to an entry or to the shell.
        let mut start = 0;
        for (at, byte) in piece.iter().enumerate() {
            if self.in_string {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => self.in_string = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => self.in_string = true,
                b'{' if self.depth == DEPTH => {
                    self.keep_shell(&piece[start..at]);
                    start = at;
                    self.depth += 1;
                }
                b'{' | b'[' => self.depth += 1,
                b'}' if self.depth == DEPTH + 1 => {
                    self.entry.extend_from_slice(&piece[start..=at]);
                    start = at + 1;
                    self.depth -= 1;
                    self.hand_on();
                }
                b'}' | b']' => self.depth = self.depth.saturating_sub(1),
                b',' if self.depth == DEPTH => {
                    self.keep_shell(&piece[start..at]);
                    start = at + 1;
                    self.commas += 1;
                }
                _ => {}
            }
        }
        if self.depth > DEPTH {
            self.entry.extend_from_slice(&piece[start..]);
        } else {
            self.keep_shell(&piece[start..]);
        }
    }

    fn keep_shell(&mut self, bytes: &[u8]) {
        let room = SHELL_LIMIT.saturating_sub(self.shell.len());
        self.shell.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn hand_on(&mut self) {
        match serde_json::from_slice(&self.entry) {
            Ok(entry) => (self.each)(entry),
            Err(error) => {
                self.wrong.get_or_insert_with(|| format!("entry {}: {error}", self.entries + 1));
            }
        }
        self.entries += 1;
        self.entry.clear();
    }

    /// How many entries there were.
    ///
    /// # Errors
    /// What came is not a whole answer.
    pub fn finish(self) -> Result<usize, Unreadable> {
        #[derive(Deserialize)]
        struct Shell {
            #[serde(default)]
            entries: Option<Vec<de::IgnoredAny>>,
        }
        if self.depth > 0 {
            return Err(Unreadable::CutOff { bytes: self.bytes });
        }
        if let Some(wrong) = self.wrong {
            return Err(Unreadable::Wrong(wrong));
        }
        let text = String::from_utf8_lossy(&self.shell);
        let shell: Shell = super::cli::read(&text)?;
        // To serde a list is as good a struct as an object.
        if !text.trim_start().starts_with('{') {
            return Err(Unreadable::Wrong("it is no object with `entries`".to_owned()));
        }
        if shell.entries.is_some_and(|others| !others.is_empty()) || self.commas != self.entries.saturating_sub(1) {
            return Err(Unreadable::Wrong("`entries` is no list of entries".to_owned()));
        }
        Ok(self.entries)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(pieces: &[&[u8]]) -> Result<Vec<Entry>, Unreadable> {
        let mut found = Vec::new();
        let mut reader = EntryReader::new(|entry| found.push(entry));
        for piece in pieces {
            reader.take(piece);
        }
        let count = reader.finish()?;
        assert_eq!(count, found.len());
        Ok(found)
    }

    fn answer(entries: &[serde_json::Value]) -> String {
        json!({"entries": entries, "next_page_token": ""}).to_string()
    }

    fn entry(name: &str) -> serde_json::Value {
        json!({"id": name, "spiffe_id": {"trust_domain": "td", "path": format!("/{name}")}, "selectors": [{"type": "k8s", "value": "pod-uid:u{\"[,"}]})
    }

    #[test]
    fn entries_of_every_age_are_read() {
        let all = answer(&[
            json!({
                "id": "a", "spiffe_id": {"trust_domain": "td", "path": "/ns/x/sa/y"}, "parent_id": {"trust_domain": "td", "path": "/spire/agent/z"},
                "selectors": [{"type": "k8s", "value": "pod-uid:1"}, {"type": "unix", "value": "pod-uid:2"}], "x509_svid_ttl": 60, "jwt_svid_ttl": 0,
                "federates_with": [], "admin": true, "downstream": false, "expires_at": "1700000000", "dns_names": [], "hint": "", "created_at": 5,
            }),
            json!({"id": "old", "spiffe_id": {"trust_domain": "td", "path": "/x"}, "parent_id": null, "selectors": null, "x509_svid_ttl": null, "expires_at": null, "admin": null, "federates_with": null}),
        ]);
        let found = read(&[all.as_bytes()]).unwrap();
        assert_eq!((found[0].expires_at, found[0].created_at, found[0].x509_svid_ttl), (1_700_000_000, 5, 60));
        assert_eq!(found[0].pod_uid().collect::<Vec<_>>(), ["1"]);
        assert_eq!(found[0].parent_id.to_string(), "spiffe://td/spire/agent/z");
        assert!(found[0].admin && !found[1].admin);
        assert!(found[1].selectors.is_empty());
        assert!(read(&[br#"{"entries":[],"next_page_token":""}"#]).unwrap().is_empty());
        assert!(read(&[br#"{"entries":null,"next_page_token":""}"#]).unwrap().is_empty());
        assert!(read(&[b"{}\n"]).unwrap().is_empty());
    }

    #[test]
    fn what_is_not_a_whole_answer_is_none() {
        let whole = answer(&[entry("a"), entry("b")]);
        for cut in 1..whole.len() {
            let short = &whole.as_bytes()[..cut];
            assert_eq!(read(&[short]), Err(Unreadable::CutOff { bytes: cut }), "{cut}");
        }
        assert_eq!(read(&[b" \n"]), Err(Unreadable::Nothing));
        for wrong in [
            "Error: nobody",
            "[]",
            "7",
            r#"{"entries":[1]}"#,
            r#"{"entries":[{}]}"#,
            r#"{"entries":[{"id":1,"spiffe_id":{"trust_domain":"td","path":"/x"}}]}"#,
            r#"{"entries":"none"}"#,
            r#"{"entries":[]} and more"#,
        ] {
            assert!(matches!(read(&[wrong.as_bytes()]), Err(Unreadable::Wrong(_))), "{wrong}");
        }
        let without_comma = answer(&[entry("a"), entry("b")]).replace("},{\"id\"", "}{\"id\"");
        assert!(matches!(read(&[without_comma.as_bytes()]), Err(Unreadable::Wrong(_))));
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(names in prop::collection::vec("[a-z\"\\\\{}\\[\\],é]{1,8}", 0..6), cuts in prop::collection::vec(0_usize..600, 0..8)) {
            let entries: Vec<_> = names.iter().map(|name| entry(name)).collect();
            let text = answer(&entries);
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            let found = read(&pieces).unwrap();
            prop_assert_eq!(found.into_iter().map(|entry| entry.id).collect::<Vec<_>>(), names);
        }
    }
}
