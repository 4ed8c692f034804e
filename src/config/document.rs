//! Reading a TOML document: typed values that know where they stand, and every problem found.

use std::cell::RefCell;
use std::fmt;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::duration::{LONGEST, Malformed, as_written, parse_duration};
use super::{ConfigError, table_of};
use crate::nearest::nearest;

/// Any positive duration.
pub(super) const POSITIVE: RangeInclusive<Duration> = Duration::from_millis(1)..=LONGEST;
/// Any duration.
pub(super) const FROM_ZERO: RangeInclusive<Duration> = Duration::ZERO..=LONGEST;

/// Where a value was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Origin {
    /// A flag, an environment variable or a default.
    Name(&'static str),
    /// A line of the file.
    Line(usize),
}

/// A value and where it was given.
#[derive(Debug, Clone)]
pub(super) struct Given<T> {
    pub(super) value: T,
    pub(super) origin: Origin,
}

impl<T> Given<T> {
    pub(super) fn new(value: T, origin: Origin) -> Self {
        Self { value, origin }
    }

    pub(super) fn map<U>(self, change: impl FnOnce(T) -> U) -> Given<U> {
        Given::new(change(self.value), self.origin)
    }
}

/// The file, and what is wrong with it and with what overrides it.
pub(super) struct Document<'d> {
    file: &'d str,
    text: &'d str,
    problems: RefCell<Vec<(Origin, String)>>,
    warnings: RefCell<Vec<String>>,
}

impl<'d> Document<'d> {
    pub(super) fn new(file: &'d str, text: &'d str) -> Self {
        Self {
            file,
            text,
            problems: RefCell::default(),
            warnings: RefCell::default(),
        }
    }

    /// The top of the file; empty if it is not TOML, which is then a problem.
    pub(super) fn root(&self) -> Section<'_, 'd> {
        let table = DeTable::parse(self.text).unwrap_or_else(|error| {
            let span = error.span().unwrap_or_default();
            self.refuse(self.origin(&span), format!("not TOML: {}", error.message()));
            Spanned::new(0..0, DeTable::new())
        });
        Section::new(self, String::new(), table)
    }

    /// Notes a problem: what is wrong and what was expected.
    pub(super) fn refuse(&self, origin: Origin, problem: impl Into<String>) {
        self.problems.borrow_mut().push((origin, problem.into()));
    }

    /// Notes what may stay, but should not: what is doubtful and what was expected.
    pub(super) fn warn(&self, origin: Origin, warning: impl fmt::Display) {
        let warning = format!("{}: {warning}", self.place(origin));
        self.warnings.borrow_mut().push(warning);
    }

    pub(super) fn take_warnings(&self) -> Vec<String> {
        self.warnings.take()
    }

    /// The problems in the order of the lines they are on.
    pub(super) fn finish<T>(self, value: T) -> Result<T, ConfigError> {
        let mut problems = self.problems.into_inner();
        if problems.is_empty() {
            return Ok(value);
        }
        problems.sort_by_key(|(origin, _)| *origin);
        let line = |(origin, problem)| format!("{}: {problem}", place(self.file, origin));
        Err(ConfigError::new(problems.into_iter().map(line).collect()))
    }

    pub(super) fn place(&self, origin: Origin) -> String {
        place(self.file, origin)
    }

    fn origin(&self, span: &Range<usize>) -> Origin {
        Origin::Line(line_of(self.text.as_bytes(), span.start))
    }
}

fn place(file: &str, origin: Origin) -> String {
    match origin {
        Origin::Name(name) => name.to_owned(),
        Origin::Line(line) => format!("{file}:{line}"),
    }
}

/// The line, from 1, that the byte at `offset` is on.
pub(super) fn line_of(text: &[u8], offset: usize) -> usize {
    let before = &text[..offset.min(text.len())];
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}

/// A table whose values are taken one by one; what is left at the end is unknown.
pub(super) struct Section<'a, 'd> {
    document: &'a Document<'d>,
    /// Its tables from the top of the file on, such as `auth.token`; empty at the top.
    path: String,
    /// Where the table begins.
    pub(super) origin: Origin,
    table: DeTable<'d>,
}

impl<'a, 'd> Section<'a, 'd> {
    fn new(document: &'a Document<'d>, path: String, table: Spanned<DeTable<'d>>) -> Self {
        Self {
            document,
            path,
            origin: document.origin(&table.span()),
            table: table.into_inner(),
        }
    }

    /// The key as messages show it.
    pub(super) fn full(&self, key: &str) -> String {
        format!("`{}`", self.below(key))
    }

    fn below(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    pub(super) fn refuse(&self, origin: Origin, problem: impl Into<String>) {
        self.document.refuse(origin, problem);
    }

    pub(super) fn warn(&self, origin: Origin, warning: impl fmt::Display) {
        self.document.warn(origin, warning);
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Takes a key and says where it was, whatever its value.
    pub(super) fn take(&mut self, key: &str) -> Option<Origin> {
        let value = self.table.remove(key)?;
        Some(self.document.origin(&value.span()))
    }

    fn value(&mut self, key: &str) -> Option<Given<DeValue<'d>>> {
        let value = self.table.remove(key)?;
        let origin = self.document.origin(&value.span());
        Some(Given::new(value.into_inner(), origin))
    }

    fn mistyped(&self, key: &str, value: &Given<DeValue<'_>>, expected: &str) {
        let (key, found) = (self.full(key), value.value.type_str());
        let problem = format!("{key} is of type {found}, expected {expected}");
        self.refuse(value.origin, problem);
    }

    /// A string that is not empty.
    pub(super) fn string(&mut self, key: &str) -> Option<Given<String>> {
        let value = self.value(key)?;
        match &value.value {
            DeValue::String(text) if text.is_empty() => {
                let problem = format!("{} is empty, expected a value", self.full(key));
                self.refuse(value.origin, problem);
                None
            }
            DeValue::String(text) => Some(Given::new(text.to_string(), value.origin)),
            _ => {
                self.mistyped(key, &value, "a string");
                None
            }
        }
    }

    /// A string that must be given.
    pub(super) fn required(&mut self, key: &str) -> Option<Given<String>> {
        if !self.has(key) {
            let (_, name) = self.path.rsplit_once('.').unwrap_or(("", &self.path));
            let problem = format!("a {name} has no `{key}`, expected one");
            self.refuse(self.origin, problem);
        }
        self.string(key)
    }

    /// An array of strings; where `or_one` is set, a string alone too.
    pub(super) fn strings(&mut self, key: &str, or_one: bool) -> Option<Given<Vec<Given<String>>>> {
        let value = self.value(key)?;
        let mut strings = Vec::new();
        match &value.value {
            DeValue::String(text) if or_one => {
                strings.push(Given::new(text.to_string(), value.origin));
            }
            DeValue::Array(items) => {
                for item in items {
                    let origin = self.document.origin(&item.span());
                    let Some(text) = item.get_ref().as_str() else {
                        let item = Given::new(item.get_ref().clone(), origin);
                        self.mistyped(key, &item, "an array of strings");
                        return None;
                    };
                    strings.push(Given::new(text.to_owned(), origin));
                }
            }
            _ if or_one => {
                self.mistyped(key, &value, "a string or an array of strings");
                return None;
            }
            _ => {
                self.mistyped(key, &value, "an array of strings");
                return None;
            }
        }
        Some(Given::new(strings, value.origin))
    }

    /// A table of strings, which may be empty.
    pub(super) fn string_table(&mut self, key: &str) -> Option<Vec<(String, Given<String>)>> {
        let value = self.value(key)?;
        let DeValue::Table(table) = value.value else {
            self.mistyped(key, &value, "a table of strings");
            return None;
        };
        let mut strings = Vec::new();
        for (name, item) in table {
            let origin = self.document.origin(&item.span());
            let item = Given::new(item.into_inner(), origin);
            match item.value.as_str() {
                Some(text) => {
                    let text = Given::new(text.to_owned(), origin);
                    strings.push((name.into_inner().into_owned(), text));
                }
                None => self.mistyped(key, &item, "a table of strings"),
            }
        }
        Some(strings)
    }

    /// A whole number of at least 1.
    pub(super) fn count<T: TryFrom<u64>>(&mut self, key: &str) -> Option<T> {
        let value = self.value(key)?;
        let DeValue::Integer(number) = &value.value else {
            self.mistyped(key, &value, "a whole number of at least 1");
            return None;
        };
        let count = u64::from_str_radix(number.as_str(), number.radix());
        let count = count.ok().filter(|count| *count > 0);
        let count = count.and_then(|count| T::try_from(count).ok());
        if count.is_none() {
            let key = self.full(key);
            let problem = format!("{key} is {number}, expected a whole number of at least 1");
            self.refuse(value.origin, problem);
        }
        count
    }

    /// A duration in a string with a unit.
    pub(super) fn duration(
        &mut self,
        key: &str,
        range: RangeInclusive<Duration>,
    ) -> Option<Given<Duration>> {
        let value = self.value(key)?;
        match self.read_duration(key, &value.value, range) {
            Ok(duration) => Some(Given::new(duration, value.origin)),
            Err(problem) => {
                self.refuse(value.origin, problem);
                None
            }
        }
    }

    fn read_duration(
        &self,
        key: &str,
        value: &DeValue<'_>,
        range: RangeInclusive<Duration>,
    ) -> Result<Duration, String> {
        let key = self.full(key);
        let without_unit = |number: &dyn fmt::Display| {
            format!("{key} is {number} without a unit, expected a string with one such as \"2s\"")
        };
        let text = match value {
            DeValue::String(text) => text.as_ref(),
            DeValue::Integer(number) => return Err(without_unit(number)),
            DeValue::Float(number) => return Err(without_unit(number)),
            _ => {
                let found = value.type_str();
                return Err(format!(
                    "{key} is of type {found}, expected a duration such as \"2s\""
                ));
            }
        };
        match parse_duration(text) {
            Ok(duration) if range.contains(&duration) => Ok(duration),
            Ok(_) => {
                let (least, most) = range.into_inner();
                let (least, most) = (as_written(least), as_written(most));
                Err(format!("{key} is {text:?}, expected {least} to {most}"))
            }
            Err(Malformed::NoUnit) => Err(without_unit(&format_args!("{text:?}"))),
            Err(Malformed::NoDuration) => Err(format!(
                "{key} is {text:?}, expected a duration such as \"2s\", \"250ms\" or \"7d\""
            )),
        }
    }

    /// A table; empty if it is not given.
    pub(super) fn table(&mut self, name: &'static str) -> Section<'a, 'd> {
        let mut table = Spanned::new(0..0, DeTable::new());
        if let Some(value) = self.table.remove(name) {
            let span = value.span();
            match value.into_inner() {
                DeValue::Table(found) => table = Spanned::new(span, found),
                other => {
                    let value = Given::new(other, self.document.origin(&span));
                    self.mistyped(name, &value, &format!("a table, `[{name}]`"));
                }
            }
        }
        Section::new(self.document, self.below(name), table)
    }

    /// An array of tables.
    pub(super) fn tables(&mut self, name: &'static str) -> Vec<Section<'a, 'd>> {
        let Some(value) = self.value(name) else {
            return Vec::new();
        };
        let path = self.below(name);
        let expected = format!("tables, `[[{path}]]`");
        let DeValue::Array(items) = value.value else {
            self.mistyped(name, &value, &expected);
            return Vec::new();
        };
        let mut sections = Vec::new();
        for item in items {
            let span = item.span();
            match item.into_inner() {
                DeValue::Table(table) => {
                    let table = Spanned::new(span, table);
                    sections.push(Section::new(self.document, path.clone(), table));
                }
                other => {
                    let item = Given::new(other, self.document.origin(&span));
                    self.mistyped(name, &item, &expected);
                }
            }
        }
        sections
    }

    /// Refuses what is left: it is none of the `known` keys.
    pub(super) fn finish(self, known: &[&str]) {
        self.finish_without(None, known);
    }

    /// The same of a table that lacks the key `missing`, for which a key that is like no other was most
    /// likely meant.
    pub(super) fn finish_without(self, missing: Option<&str>, known: &[&str]) {
        for key in self.table.keys() {
            let origin = self.document.origin(&key.span());
            let full = self.full(key.get_ref());
            let expected = match table_of(key.get_ref()) {
                Some("") => "it before the first table of the file".to_owned(),
                Some(table) => format!("it in the table `[{table}]`"),
                None => match (nearest(key.get_ref(), known), missing) {
                    (Some(nearest), _) => format!("a known one: the nearest is `{nearest}`"),
                    (None, Some(missing)) => format!("`{missing}`, which is missing"),
                    (None, None) => format!("one of {}", known.join(", ")),
                },
            };
            self.refuse(origin, format!("unknown key {full}, expected {expected}"));
        }
    }
}
