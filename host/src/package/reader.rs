//! Reads a TOML document key by key, and collects every mistake with its line and key.

use super::units;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

/// One mistake in a manifest file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Counted from 1; 0 where the mistake has no line.
    pub line: usize,
    /// The key's whole path, such as `limits.memory` or `models[1].file`; empty for bad syntax.
    pub key: String,
    pub message: String,
}

/// Every mistake that was found in a manifest file, in the order of its lines; at least one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ManifestFileError {
    pub file: PathBuf,
    pub problems: Vec<Problem>,
}

impl fmt::Display for ManifestFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            let separator = if i == 0 { "" } else { "\n" };
            write!(f, "{separator}{}", self.file.display())?;
            if problem.line > 0 {
                write!(f, ":{}", problem.line)?;
            }
            if !problem.key.is_empty() {
                write!(f, ": {}", problem.key)?;
            }
            write!(f, ": {}", problem.message)?;
        }
        Ok(())
    }
}

/// A document that is being read: its mistakes so far, and the line of each key that was seen.
pub(super) struct Document<'t> {
    text: &'t str,
    problems: RefCell<Vec<Problem>>,
    lines: RefCell<BTreeMap<String, usize>>,
}

impl<'t> Document<'t> {
    pub fn new(text: &'t str) -> Self {
        Self { text, problems: RefCell::default(), lines: RefCell::default() }
    }

    /// The document's root, or none where its syntax is wrong.
    pub fn root(&self) -> Option<Section<'_, 't>> {
        match DeTable::parse(self.text) {
            Ok(table) => {
                Some(Section { document: self, path: String::new(), line: 1, table: table.into_inner() })
            }
            Err(e) => {
                let span = e.span().unwrap_or_default();
                let line = self.line(&span);
                // A key given twice is what the error points at; other errors point at no key.
                let twice = e.message().contains("duplicate key");
                let key = if twice { self.text.get(span).unwrap_or_default().trim() } else { "" };
                self.problem(line, key, e.message().replace('\n', ", "));
                None
            }
        }
    }

    pub fn problem(&self, line: usize, key: &str, message: impl Into<String>) {
        self.problems.borrow_mut().push(Problem { line, key: key.to_string(), message: message.into() });
    }

    /// A mistake at a key that has been read, or at the nearest section around it.
    pub fn problem_at(&self, key: &str, message: impl Into<String>) {
        self.problem(self.line_of(key), key, message);
    }

    /// The line of a key that has been read, or of the nearest section around it; 0 where there is none.
    pub fn line_of(&self, key: &str) -> usize {
        let lines = self.lines.borrow();
        let mut around = key;
        loop {
            if let Some(line) = lines.get(around) {
                return *line;
            }
            match around.rfind(['.', '[']) {
                Some(end) => around = &around[..end],
                None => return 0,
            }
        }
    }

    pub fn is_sound(&self) -> bool {
        self.problems.borrow().is_empty()
    }

    pub fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|p| p.line);
        problems
    }

    fn line(&self, span: &Range<usize>) -> usize {
        let before = self.text.as_bytes().get(..span.start).unwrap_or_default();
        1 + before.iter().filter(|b| **b == b'\n').count()
    }
}

/// A table of the document. Each method takes a key out of it; [`Section::finish`] complains of those left
/// over.
pub(super) struct Section<'d, 't> {
    document: &'d Document<'t>,
    path: String,
    line: usize,
    table: DeTable<'t>,
}

/// A value with its line and its key's whole path.
struct Found<'t> {
    line: usize,
    key: String,
    value: DeValue<'t>,
}

impl<'d, 't> Section<'d, 't> {
    /// The whole path of one of the section's keys.
    pub fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_string() } else { format!("{}.{key}", self.path) }
    }

    pub fn string(&mut self, key: &str) -> Option<String> {
        let found = self.take(key)?;
        self.expect_string(found, "a string")
    }

    pub fn required_string(&mut self, key: &str) -> Option<String> {
        if !self.table.contains_key(key) {
            self.document.problem(self.line, &self.key(key), "is missing");
        }
        self.string(key)
    }

    pub fn boolean(&mut self, key: &str) -> Option<bool> {
        let found = self.take(key)?;
        match found.value {
            DeValue::Boolean(value) => Some(value),
            _ => self.wrong_type(&found, "true or false"),
        }
    }

    /// A whole number within bounds.
    pub fn integer(&mut self, key: &str, bounds: (u64, u64)) -> Option<u64> {
        let found = self.take(key)?;
        self.expect_integer(&found, bounds)
    }

    /// A size in bytes: a whole number, or a string with a unit.
    pub fn size(&mut self, key: &str, bounds: (u64, u64)) -> Option<u64> {
        let found = self.take(key)?;
        match &found.value {
            DeValue::Integer(value) => {
                self.bounded(&found, &value.to_string(), bounds, units::format_size, || {
                    parse_integer(value.as_str(), value.radix())
                })
            }
            DeValue::String(text) => {
                let shown = format!("{text:?}");
                self.bounded(&found, &shown, bounds, units::format_size, || units::parse_size(text).map(Some))
            }
            _ => self.wrong_type(&found, "a size such as \"64MiB\""),
        }
    }

    /// A duration in milliseconds: a string with a unit.
    pub fn duration_ms(&mut self, key: &str, bounds: (u64, u64)) -> Option<u64> {
        let found = self.take(key)?;
        match &found.value {
            DeValue::String(text) => {
                let shown = format!("{text:?}");
                self.bounded(&found, &shown, bounds, units::format_duration_ms, || {
                    units::parse_duration_ms(text).map(Some)
                })
            }
            _ => self.wrong_type(&found, "a duration with its unit, such as \"500ms\""),
        }
    }

    pub fn strings(&mut self, key: &str) -> Vec<String> {
        let items = self.list(key, "a list of strings").unwrap_or_default();
        items.into_iter().filter_map(|item| self.expect_string(item, "a string")).collect()
    }

    /// A number, whole or not.
    pub fn number(&mut self, key: &str) -> Option<f64> {
        let found = self.take(key)?;
        number(&found.value).or_else(|| self.wrong_type(&found, "a number"))
    }

    /// A list of numbers, whole or not.
    pub fn numbers(&mut self, key: &str) -> Option<Vec<f64>> {
        let found = self.take(key)?;
        let DeValue::Array(items) = &found.value else { return self.wrong_type(&found, "a list of numbers") };
        let mut numbers = Vec::with_capacity(items.len());
        // There may be many, so only a wrong one is given a line and a key.
        for (i, item) in items.iter().enumerate() {
            match number(item.get_ref()) {
                Some(number) => numbers.push(number),
                None => {
                    let item =
                        self.found(format!("{}[{i}]", found.key), &item.span(), item.get_ref().clone());
                    return self.wrong_type(&item, "a number");
                }
            }
        }
        Some(numbers)
    }

    /// A list of whole numbers within bounds, which must be there.
    pub fn required_integers(&mut self, key: &str, bounds: (u64, u64)) -> Option<Vec<u64>> {
        if !self.table.contains_key(key) {
            self.document.problem(self.line, &self.key(key), "is missing");
        }
        let items = self.list(key, "a list of whole numbers")?;
        Some(items.iter().filter_map(|item| self.expect_integer(item, bounds)).collect())
    }

    /// A table of strings, whatever its keys.
    pub fn string_table(&mut self, key: &str) -> BTreeMap<String, String> {
        let Some(mut section) = self.section(key) else { return BTreeMap::new() };
        let names: Vec<String> = section.table.keys().map(|k| k.get_ref().to_string()).collect();
        names.into_iter().filter_map(|name| section.string(&name).map(|value| (name, value))).collect()
    }

    pub fn section(&mut self, key: &str) -> Option<Section<'d, 't>> {
        let found = self.take(key)?;
        let line = found.line;
        self.expect_table(found, &format!("a table: [{}]", self.key(key))).map(|table| Section {
            document: self.document,
            path: self.key(key),
            line,
            table,
        })
    }

    pub fn sections(&mut self, key: &str) -> Vec<Section<'d, 't>> {
        let wanted = format!("a list of tables: [[{}]]", self.key(key));
        let items = self.list(key, &wanted).unwrap_or_default();
        items
            .into_iter()
            .filter_map(|item| {
                let (path, line) = (item.key.clone(), item.line);
                let table = self.expect_table(item, "a table")?;
                Some(Section { document: self.document, path, line, table })
            })
            .collect()
    }

    /// Complains of every key that was not taken.
    pub fn finish(self, known: &[&str]) {
        for (key, _) in &self.table {
            let line = self.document.line(&key.span());
            let place =
                if self.path.is_empty() { "the top level".into() } else { format!("[{}]", self.path) };
            let message = format!("unknown key; the keys of {place} are {}", known.join(", "));
            self.document.problem(line, &self.key(key.get_ref()), message);
        }
    }

    fn take(&mut self, key: &str) -> Option<Found<'t>> {
        let (name, value) = self.table.remove_entry(key)?;
        Some(self.found(self.key(key), &name.span(), value.into_inner()))
    }

    fn list(&mut self, key: &str, wanted: &str) -> Option<Vec<Found<'t>>> {
        let found = self.take(key)?;
        match found.value {
            DeValue::Array(items) => Some(self.each(&found.key, items)),
            _ => self.wrong_type(&found, wanted),
        }
    }

    fn each(&self, key: &str, items: DeArray<'t>) -> Vec<Found<'t>> {
        let found = |(i, item): (usize, Spanned<DeValue<'t>>)| {
            self.found(format!("{key}[{i}]"), &item.span(), item.into_inner())
        };
        items.into_iter().enumerate().map(found).collect()
    }

    fn found(&self, key: String, span: &Range<usize>, value: DeValue<'t>) -> Found<'t> {
        let line = self.document.line(span);
        self.document.lines.borrow_mut().insert(key.clone(), line);
        Found { line, key, value }
    }

    fn wrong_type<T>(&self, found: &Found<'_>, wanted: &str) -> Option<T> {
        let what = found.value.type_str();
        self.document.problem(found.line, &found.key, format!("must be {wanted}, not of type {what}"));
        None
    }

    fn expect_string(&self, found: Found<'t>, wanted: &str) -> Option<String> {
        match found.value {
            DeValue::String(text) => Some(text.into_owned()),
            _ => self.wrong_type(&found, wanted),
        }
    }

    fn expect_integer(&self, found: &Found<'t>, bounds: (u64, u64)) -> Option<u64> {
        match &found.value {
            DeValue::Integer(value) => self.bounded(
                found,
                &value.to_string(),
                bounds,
                |n| n.to_string(),
                || parse_integer(value.as_str(), value.radix()),
            ),
            _ => self.wrong_type(found, "a whole number"),
        }
    }

    fn expect_table(&self, found: Found<'t>, wanted: &str) -> Option<DeTable<'t>> {
        match found.value {
            DeValue::Table(table) => Some(table),
            _ => self.wrong_type(&found, wanted),
        }
    }

    /// `parse` gives none for a number that is below zero or past 64 bits.
    fn bounded(
        &self,
        found: &Found<'_>,
        shown: &str,
        (min, max): (u64, u64),
        format: impl Fn(u64) -> String,
        parse: impl FnOnce() -> Result<Option<u64>, String>,
    ) -> Option<u64> {
        let problem = match parse() {
            Ok(Some(value)) if (min..=max).contains(&value) => return Some(value),
            Ok(_) => format!("{shown} is out of bounds: {} to {}", format(min), format(max)),
            Err(message) => message,
        };
        self.document.problem(found.line, &found.key, problem);
        None
    }
}

fn number(value: &DeValue<'_>) -> Option<f64> {
    match value {
        DeValue::Integer(value) if value.radix() == 10 => value.as_str().parse().ok(),
        DeValue::Integer(value) => i64::from_str_radix(value.as_str(), value.radix()).ok().map(|n| n as f64),
        DeValue::Float(value) => value.as_str().parse().ok(),
        _ => None,
    }
}

fn parse_integer(digits: &str, radix: u32) -> Result<Option<u64>, String> {
    Ok(u64::from_str_radix(digits, radix).ok())
}
