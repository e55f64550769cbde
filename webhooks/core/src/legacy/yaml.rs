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

/// Reads `text`.
pub(super) fn parse(text: &str) -> Result<Node, Unreadable> {
    if text.trim().is_empty() {
        return Ok(Node { line: 1, value: Value::Null });
    }
    let raw: Spanned<Raw> = serde_saphyr::from_str(text).map_err(|error| Unreadable {
        line: error.location().map_or(0, |location| location.line()),
        problem: format!(
            "this is no YAML that can be read: {}",
            error.to_string().lines().next().unwrap_or_default()
        ),
    })?;
    Ok(node(raw, text))
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
        let items = self.list(key);
        let mut values = Vec::with_capacity(items.len());
        for (index, item) in items.into_iter().enumerate() {
            let path = self.field(&format!("{key}[{index}]"));
            let mut reader = Reader::new(path, item, self.findings);
            values.extend(read(&mut reader));
            reader.finish();
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
