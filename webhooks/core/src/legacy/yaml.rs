//! YAML as a tree that knows its lines, and a reader of its maps that notices what it was not asked for.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::{LineFinding, Unreadable};
use crate::finding::Severity;

/// A value with the line that it stands on.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) line: u64,
    pub(super) value: Value,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    Null,
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, u64, Node)>),
}

/// What the format needs is a tenth of this. Deeper text could exhaust the stack of its reader.
const DEEPEST: usize = 32;

/// Reads `text`.
pub(super) fn parse(text: &str) -> Result<Node, Unreadable> {
    let text = first_document(text);
    if text.trim().is_empty() {
        return Ok(Node { line: 1, value: Value::Null });
    }
    if let Some(line) = too_deep(text) {
        let problem = format!("it is nested deeper than {DEEPEST} levels");
        return Err(Unreadable { empty: false, line, problem });
    }
    let raw: Spanned<Raw> = serde_saphyr::from_str(text).map_err(|error| Unreadable {
        empty: false,
        line: error.location().map_or(0, |location| location.line()),
        problem: format!(
            "this is no YAML that can be read: {}",
            error.to_string().lines().next().unwrap_or_default()
        ),
    })?;
    Ok(node(raw, text))
}

/// `text` without documents at its end in which there is nothing, as a trailing `---` makes one.
fn first_document(text: &str) -> &str {
    let says_nothing = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
    let mut rest = text;
    while let Some(start) = last_separator(rest) {
        let after = &rest[start..];
        if !after.lines().skip(1).all(says_nothing) || rest[..start].lines().all(says_nothing) {
            break;
        }
        rest = &rest[..start];
    }
    rest
}

/// Where the last line begins that is only `---` or `...`.
fn last_separator(text: &str) -> Option<usize> {
    let mut at = 0;
    let mut found = None;
    for line in text.split_inclusive('\n') {
        if matches!(line.trim_end(), "---" | "...") {
            found = Some(at);
        }
        at += line.len();
    }
    found
}

/// The line on which `text` becomes too deep, judged by its brackets, and by dashes and colons in front of a value.
fn too_deep(text: &str) -> Option<u64> {
    let mut brackets: usize = 0;
    // The columns at which the blocks begin that a line is in.
    let mut blocks: Vec<usize> = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        let content = line.trim_start();
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        let column = line.len() - content.len();
        blocks.retain(|other| *other < column);
        blocks.push(column);
        let dashes = content.split_whitespace().take_while(|word| matches!(*word, "-" | "?")).count();
        for bracket in content.chars() {
            match bracket {
                '[' | '{' => brackets += 1,
                ']' | '}' => brackets = brackets.saturating_sub(1),
                _ => {}
            }
            if brackets + blocks.len() + dashes > DEEPEST {
                return Some(number);
            }
        }
    }
    None
}

/// As the parser gives it. Scalars that are not text are read from the source again: `0123` is a fine password.
enum Raw {
    Null,
    Text(String),
    Other(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

fn node(raw: Spanned<Raw>, source: &str) -> Node {
    let span = raw.defined.span();
    let value = match raw.value {
        Raw::Null => Value::Null,
        Raw::Text(text) => Value::Text(text),
        Raw::Other(shown) => {
            let bounds = span.byte_offset().zip(span.byte_len());
            let written = bounds.and_then(|(start, length)| {
                let (start, length) = (usize::try_from(start).ok()?, usize::try_from(length).ok()?);
                source.get(start..start.checked_add(length)?)
            });
            Value::Text(written.map(str::trim).filter(|text| !text.is_empty()).map_or(shown, str::to_owned))
        }
        Raw::List(items) => Value::List(items.into_iter().map(|item| node(item, source)).collect()),
        Raw::Map(entries) => {
            let entries = entries.into_iter();
            Value::Map(
                entries.map(|(key, value)| (key.value, key.defined.line(), node(value, source))).collect(),
            )
        }
    };
    Node { line: raw.referenced.line(), value }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value, a list or a map")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        Raw::deserialize(deserializer)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Other(value.to_string()))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Other(value.to_string()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Other(value.to_string()))
    }

    fn visit_i128<E: de::Error>(self, value: i128) -> Result<Raw, E> {
        Ok(Raw::Other(value.to_string()))
    }

    fn visit_u128<E: de::Error>(self, value: u128) -> Result<Raw, E> {
        Ok(Raw::Other(value.to_string()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Other(value.to_string()))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Raw::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Raw, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Raw::Map(map))
    }
}

/// What was read of an item of a list.
pub(super) struct Entry<T> {
    pub(super) value: T,
    /// Something in the item is an error.
    pub(super) faulty: bool,
}

/// Reads a map field by field. What nobody asked for is a finding when it is [finished](Self::finish).
pub(super) struct Reader<'a> {
    path: String,
    line: u64,
    fields: Vec<(String, u64, Node)>,
    findings: &'a mut Vec<LineFinding>,
}

impl<'a> Reader<'a> {
    /// Reads `node`; what is no map reads as an empty one, with a finding.
    pub(super) fn new(path: String, node: Node, findings: &'a mut Vec<LineFinding>) -> Self {
        let mut reader = Self { path, line: node.line, fields: Vec::new(), findings };
        match node.value {
            Value::Map(fields) => reader.fields = fields,
            Value::Null => {}
            Value::Text(_) | Value::List(_) => {
                reader.error_here("this is no map", "write `key: value` lines");
            }
        }
        reader
    }

    fn field(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    pub(super) fn error_here(&mut self, problem: impl Into<String>, remedy: impl Into<String>) {
        let (line, field) = (self.line, self.path.clone());
        self.findings.push(finding(line, Severity::Error, field, problem, remedy));
    }

    pub(super) fn error(
        &mut self,
        line: u64,
        key: &str,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let field = self.field(key);
        self.findings.push(finding(line, Severity::Error, field, problem, remedy));
    }

    pub(super) fn warning(
        &mut self,
        line: u64,
        key: &str,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let field = self.field(key);
        self.findings.push(finding(line, Severity::Warning, field, problem, remedy));
    }

    pub(super) fn line(&self) -> u64 {
        self.line
    }

    /// How many errors were found so far.
    pub(super) fn errors(&self) -> usize {
        self.findings.iter().filter(|finding| finding.severity == Severity::Error).count()
    }

    /// The line of a map in which nothing has a value; none if something has.
    pub(super) fn says_nothing(&self) -> Option<u64> {
        let empty = self.fields.iter().all(|(.., node)| matches!(node.value, Value::Null));
        (empty && self.findings.is_empty()).then_some(self.line)
    }

    /// Takes the field; none if it is absent or null.
    pub(super) fn take(&mut self, key: &str) -> Option<Node> {
        let index = self.fields.iter().position(|(name, ..)| name == key)?;
        let (.., node) = self.fields.remove(index);
        (!matches!(node.value, Value::Null)).then_some(node)
    }

    /// Takes a text, with its line.
    pub(super) fn text(&mut self, key: &str) -> Option<(String, u64)> {
        let node = self.take(key)?;
        if let Value::Text(text) = node.value {
            return Some((text, node.line));
        }
        self.error(node.line, key, "this is no single value", "write one value after the colon");
        None
    }

    /// Takes a number or a duration or whatever else `read` understands.
    pub(super) fn read<T>(
        &mut self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let (text, line) = self.text(key)?;
        let value = read(&text);
        if value.is_none() {
            self.error(line, key, format!("{text:?} is not {expected}"), format!("write {expected}"));
        }
        value
    }

    /// Takes a list of whatever.
    pub(super) fn list(&mut self, key: &str) -> Vec<Node> {
        let Some(node) = self.take(key) else { return Vec::new() };
        if let Value::List(items) = node.value {
            return items;
        }
        self.error(node.line, key, "this is no list", "begin each item with a dash");
        Vec::new()
    }

    /// Takes a list of texts, each with its line.
    pub(super) fn texts(&mut self, key: &str) -> Vec<(String, u64)> {
        let mut texts = Vec::new();
        for (index, item) in self.list(key).into_iter().enumerate() {
            match item.value {
                Value::Text(text) => texts.push((text, item.line)),
                _ => self.error(
                    item.line,
                    &format!("{key}[{index}]"),
                    "this is no single value",
                    "write one value after the dash",
                ),
            }
        }
        texts
    }

    /// Takes a list of maps and reads each.
    pub(super) fn maps<T>(
        &mut self,
        key: &str,
        mut read: impl FnMut(&mut Reader<'_>) -> Option<T>,
    ) -> Vec<T> {
        self.entries(key, &mut read).into_iter().map(|entry| entry.value).collect()
    }

    /// Takes a list of maps and reads each, noting which has an error.
    pub(super) fn entries<T>(
        &mut self,
        key: &str,
        mut read: impl FnMut(&mut Reader<'_>) -> Option<T>,
    ) -> Vec<Entry<T>> {
        let items = self.list(key);
        let mut values = Vec::with_capacity(items.len());
        for (index, item) in items.into_iter().enumerate() {
            let path = self.field(&format!("{key}[{index}]"));
            let before = self.errors();
            let mut reader = Reader::new(path, item, self.findings);
            let value = read(&mut reader);
            reader.finish();
            let faulty = self.errors() > before;
            values.extend(value.map(|value| Entry { value, faulty }));
        }
        values
    }

    /// Takes a map of texts, each with its line.
    pub(super) fn text_map(&mut self, key: &str) -> Vec<(String, String, u64)> {
        let Some(node) = self.take(key) else { return Vec::new() };
        let Value::Map(entries) = node.value else {
            self.error(node.line, key, "this is no map", "write `key: value` lines");
            return Vec::new();
        };
        let mut texts = Vec::new();
        for (name, line, node) in entries {
            match node.value {
                Value::Text(text) => texts.push((name, text, line)),
                _ => self.error(
                    line,
                    &format!("{key}.{name}"),
                    "this is no single value",
                    "write one value after the colon",
                ),
            }
        }
        texts
    }

    /// Tells of every field that was not taken.
    pub(super) fn finish(mut self) {
        for (key, line, _) in std::mem::take(&mut self.fields) {
            let remedy = match key.as_str() {
                "cidr" => "use addresses, as MetalLB has since v0.6",
                "arp-network" => "remove it; MetalLB has not had it since v0.6",
                _ => "correct the name, or remove it",
            };
            self.error(line, &key, "the format has no such field, so it has no effect", remedy);
        }
    }
}

pub(super) fn finding(
    line: u64,
    severity: Severity,
    field: String,
    problem: impl Into<String>,
    remedy: impl Into<String>,
) -> LineFinding {
    LineFinding { line, severity, field, problem: problem.into(), remedy: remedy.into() }
}
