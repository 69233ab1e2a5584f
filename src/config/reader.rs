//! Reads tables of a parsed lab file key by key, and records everything that is wrong instead of stopping.
//!
//! Each table is read in two layers: what its user wrote, and beneath it the lab file that ships
//! ([`crate::config::DEFAULT`]), where every default lives.

use std::cell::RefCell;
use std::ops::RangeInclusive;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use crate::config::problems::{Place, Source, nearest};
use crate::config::syntax::Rule;

/// A value, and where it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Its place in the user's file; absent for a default.
    pub place: Option<Place>,
}

/// One table while it is read.
pub(super) struct Table<'a> {
    source: &'a Source,
    path: String,
    place: Option<Place>,
    user: Option<&'a DeTable<'a>>,
    base: Option<&'a DeTable<'a>>,
    asked: RefCell<Vec<&'static str>>,
}

type Entry<'a> = (&'a Spanned<DeString<'a>>, &'a Spanned<DeValue<'a>>);

impl<'a> Table<'a> {
    /// The top level.
    pub(super) fn root(source: &'a Source, user: &'a DeTable<'a>, base: &'a DeTable<'a>) -> Self {
        Table {
            source,
            path: String::new(),
            place: None,
            user: Some(user),
            base: Some(base),
            asked: RefCell::default(),
        }
    }

    /// The full path of a key of this table.
    pub(super) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The table below `key`. One that is absent reads as empty.
    pub(super) fn table(&self, key: &'static str) -> Table<'a> {
        self.table_like(key, "a table")
    }

    /// As [`Table::table`], where there are better words for what belongs there.
    pub(super) fn table_like(&self, key: &'static str, expected: &str) -> Table<'a> {
        let mut place = self.place;
        let user = self.entry(self.user, key).and_then(|(name, value)| {
            place = Some(self.source.place(&name.span()));
            let table = value.get_ref().as_table();
            if table.is_none() {
                self.wrong(key, value, expected);
            }
            table
        });
        let base = self.entry(self.base, key).and_then(|(_, value)| value.get_ref().as_table());
        Table { source: self.source, path: self.path_of(key), place, user, base, asked: RefCell::default() }
    }

    /// Whether its user wrote `key`, and where. Does not count as asking for it.
    pub(super) fn written(&self, key: &str) -> Option<Place> {
        self.user?.iter().find(|(name, _)| name.get_ref() == key).map(|(name, _)| self.source.place(&name.span()))
    }

    /// Whether its user wrote anything in this table.
    pub(super) fn is_written(&self) -> bool {
        self.user.is_some()
    }

    /// This table without its defaults.
    pub(super) fn without_defaults(mut self) -> Self {
        self.base = None;
        self
    }

    /// Text of a form.
    pub(super) fn text<T>(&self, key: &'static str, rule: &Rule<T>) -> Option<At<T>> {
        self.leaf(key, rule.expected, |value| value.as_str().and_then(rule.read))
    }

    /// A whole number.
    pub(super) fn number<N>(&self, key: &'static str, range: RangeInclusive<N>) -> Option<At<N>>
    where
        N: TryFrom<i64> + PartialOrd + std::fmt::Display,
    {
        let expected = if range.start() == range.end() {
            range.start().to_string()
        } else {
            format!("a whole number from {} to {}", range.start(), range.end())
        };
        self.leaf(key, &expected, |value| {
            let integer = value.as_integer()?;
            let number = i64::from_str_radix(integer.as_str(), integer.radix()).ok()?;
            N::try_from(number).ok().filter(|number| range.contains(number))
        })
    }

    /// `true` or `false`.
    pub(super) fn flag(&self, key: &'static str) -> Option<At<bool>> {
        self.leaf(key, "true or false", DeValue::as_bool)
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&self, key: &'static str, choices: &[(&'static str, T)]) -> Option<At<T>> {
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let expected = words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(" or ");
        self.leaf(key, &expected, |value| {
            let written = value.as_str()?;
            choices.iter().find(|(word, _)| *word == written).map(|(_, choice)| *choice)
        })
    }

    /// A list of texts of a form. Those that are wrong are reported one by one.
    pub(super) fn list<T>(&self, key: &'static str, rule: &Rule<T>) -> Option<Vec<At<T>>> {
        let (value, is_users) = self.find(key)?;
        let Some(items) = value.get_ref().as_array() else {
            self.wrong(key, value, &format!("a list, each {}", rule.expected));
            return None;
        };
        let read = |(index, item): (usize, &Spanned<DeValue<'_>>)| {
            let read = item.get_ref().as_str().and_then(rule.read);
            if read.is_none() {
                self.wrong(&format!("{key}[{index}]"), item, rule.expected);
            }
            read.map(|value| At { value, place: is_users.then(|| self.source.place(&item.span())) })
        };
        Some(items.iter().enumerate().filter_map(read).collect())
    }

    /// Records that `key` has to be written here.
    pub(super) fn missing(&self, key: &str, why: &str) {
        self.source.problem(self.place, self.path_of(key), format!("missing: {why}"));
    }

    /// Records that `key` is written and must not be.
    pub(super) fn refuse(&self, key: &'static str, why: &str) {
        self.asked.borrow_mut().push(key);
        if let Some(place) = self.written(key) {
            self.source.problem(Some(place), self.path_of(key), why);
        }
    }

    /// Ends the reading: what nobody asked for is unknown.
    pub(super) fn finish(self) {
        let asked = self.asked.into_inner();
        for (name, _) in self.user.into_iter().flatten() {
            let written = name.get_ref().as_ref();
            if asked.contains(&written) {
                continue;
            }
            let mut message = String::from("unknown key");
            if let Some(meant) = nearest(written, &asked) {
                message = format!("{message}; did you mean `{meant}`?");
            }
            let key = if self.path.is_empty() { written.to_owned() } else { format!("{}.{written}", self.path) };
            let allowed = asked.iter().map(|key| (*key).to_owned()).collect();
            self.source.problem_with(Some(self.source.place(&name.span())), key, message, allowed);
        }
    }

    fn leaf<T>(
        &self,
        key: &'static str,
        expected: &str,
        read: impl FnOnce(&'a DeValue<'a>) -> Option<T>,
    ) -> Option<At<T>> {
        let (value, is_users) = self.find(key)?;
        let read = read(value.get_ref());
        if read.is_none() {
            self.wrong(key, value, expected);
        }
        read.map(|value_read| At { value: value_read, place: is_users.then(|| self.source.place(&value.span())) })
    }

    /// The value of `key`, and whether it is the user's.
    fn find(&self, key: &'static str) -> Option<(&'a Spanned<DeValue<'a>>, bool)> {
        let user = self.entry(self.user, key).map(|(_, value)| (value, true));
        user.or_else(|| self.entry(self.base, key).map(|(_, value)| (value, false)))
    }

    fn entry(&self, table: Option<&'a DeTable<'a>>, key: &'static str) -> Option<Entry<'a>> {
        let mut asked = self.asked.borrow_mut();
        if !asked.contains(&key) {
            asked.push(key);
        }
        table?.iter().find(|(name, _)| name.get_ref() == key)
    }

    fn wrong(&self, key: &str, value: &Spanned<DeValue<'_>>, expected: &str) {
        let message = format!("expected {expected}, found {}", found(value.get_ref()));
        self.source.problem(Some(self.source.place(&value.span())), self.path_of(key), message);
    }
}

/// A value as it is named in a problem.
fn found(value: &DeValue<'_>) -> String {
    const LONGEST: usize = 60;
    match value {
        DeValue::String(text) if text.chars().count() > LONGEST => {
            format!("{:?} and more", text.chars().take(LONGEST).collect::<String>())
        }
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => format!("the number {number}"),
        DeValue::Float(number) => format!("the number {number}"),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(time) => format!("the date {time}"),
        DeValue::Array(_) => "a list".into(),
        DeValue::Table(_) => "a table".into(),
    }
}
