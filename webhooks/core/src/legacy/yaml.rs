//! YAML as a tree with line numbers, and a reader of its maps that reports unknown fields.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::ParseError;
use crate::finding::{Finding, ObjectRef, Severity};

/// A value with its line.
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

/// Ten times the depth of the format. Deeper nesting could exhaust the stack of the parser.
const MAX_DEPTH: usize = 32;

/// Reads `text`.
pub(super) fn parse(text: &str) -> Result<Node, ParseError> {
    let text = without_empty_documents(text);
    if text.trim().is_empty() {
        return Ok(Node { line: 1, value: Value::Null });
    }
    if let Some(line) = first_too_deep_line(text) {
        let problem = format!("it is nested deeper than {MAX_DEPTH} levels");
        return Err(ParseError { empty: false, line, problem });
    }
    let raw: Spanned<Raw> = serde_saphyr::from_str(text).map_err(|error| ParseError {
        empty: false,
        line: error.location().map_or(0, |location| location.line()),
        problem: format!("not valid YAML: {}", error.to_string().lines().next().unwrap_or_default()),
    })?;
    Ok(node(raw, text))
}

/// `text` without empty documents at its end, such as after a trailing `---`.
fn without_empty_documents(text: &str) -> &str {
    let is_blank = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
    let mut rest = text;
    while let Some(start) = last_separator(rest) {
        let after = &rest[start..];
        if !after.lines().skip(1).all(is_blank) || rest[..start].lines().all(is_blank) {
            break;
        }
        rest = &rest[..start];
    }
    rest
}

/// The offset of the last line that is only `---` or `...`.
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

/// The first line at which `text` may be nested too deep, estimated from brackets, indentation and leading
/// dashes.
fn first_too_deep_line(text: &str) -> Option<u64> {
    let mut brackets: usize = 0;
    // The start columns of the blocks that contain the line.
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
            if brackets + blocks.len() + dashes > MAX_DEPTH {
                return Some(number);
            }
        }
    }
    None
}

/// The output of the parser. Scalars other than strings are replaced by their source text: `0123` is a valid
/// password.
enum Raw {
    Null,
    Text(String),
    Scalar(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

fn node(raw: Spanned<Raw>, source: &str) -> Node {
    let span = raw.defined.span();
    let value = match raw.value {
        Raw::Null => Value::Null,
        Raw::Text(text) => Value::Text(text),
        Raw::Scalar(shown) => {
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
        Ok(Raw::Scalar(value.to_string()))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.to_string()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.to_string()))
    }

    fn visit_i128<E: de::Error>(self, value: i128) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.to_string()))
    }

    fn visit_u128<E: de::Error>(self, value: u128) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.to_string()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.to_string()))
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

/// An item of a list.
pub(super) struct Entry<T> {
    pub(super) value: T,
    /// Whether the item has an error.
    pub(super) invalid: bool,
}

/// Collects findings on the text in a ConfigMap, with their lines.
pub(super) struct LineReporter {
    object: ObjectRef,
    findings: Vec<(u64, Finding)>,
}

impl LineReporter {
    pub(super) fn new(object: ObjectRef) -> Self {
        Self { object, findings: Vec::new() }
    }

    fn add(&mut self, line: u64, severity: Severity, path: &str, problem: String, hint: String) {
        let finding = Finding {
            object: self.object.clone(),
            severity,
            field: format!("line {line} {path}"),
            value: String::new(),
            problem,
            hint,
            related: None,
        };
        self.findings.push((line, finding));
    }

    /// The findings in the order of the lines.
    pub(super) fn into_findings(mut self) -> Vec<Finding> {
        self.findings.sort_by_key(|(line, _)| *line);
        self.findings.into_iter().map(|(_, finding)| finding).collect()
    }
}

/// Reads a map field by field. [`finish`](Self::finish) reports the fields that were not read.
pub(super) struct Reader<'a> {
    path: String,
    line: u64,
    fields: Vec<(String, u64, Node)>,
    report: &'a mut LineReporter,
}

impl<'a> Reader<'a> {
    /// A reader of `node`. Anything but a map is reported and treated as an empty one.
    pub(super) fn new(path: String, node: Node, report: &'a mut LineReporter) -> Self {
        let mut reader = Self { path, line: node.line, fields: Vec::new(), report };
        match node.value {
            Value::Map(fields) => reader.fields = fields,
            Value::Null => {}
            Value::Text(_) | Value::List(_) => {
                reader.error_here("is not a map", "write `key: value` lines");
            }
        }
        reader
    }

    fn field(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    pub(super) fn error_here(&mut self, problem: impl Into<String>, hint: impl Into<String>) {
        self.report.add(self.line, Severity::Error, &self.path, problem.into(), hint.into());
    }

    pub(super) fn error(
        &mut self,
        line: u64,
        key: &str,
        problem: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.report.add(line, Severity::Error, &self.field(key), problem.into(), hint.into());
    }

    pub(super) fn warning(
        &mut self,
        line: u64,
        key: &str,
        problem: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.report.add(line, Severity::Warning, &self.field(key), problem.into(), hint.into());
    }

    pub(super) fn line(&self) -> u64 {
        self.line
    }

    /// The number of errors so far.
    pub(super) fn errors(&self) -> usize {
        self.report.findings.iter().filter(|(_, finding)| finding.severity == Severity::Error).count()
    }

    /// The line of a map without values; none if it has any.
    pub(super) fn blank_line(&self) -> Option<u64> {
        let empty = self.fields.iter().all(|(.., node)| matches!(node.value, Value::Null));
        (empty && self.report.findings.is_empty()).then_some(self.line)
    }

    /// Removes and returns the field; none if it is absent or null.
    pub(super) fn take(&mut self, key: &str) -> Option<Node> {
        let index = self.fields.iter().position(|(name, ..)| name == key)?;
        let (.., node) = self.fields.remove(index);
        (!matches!(node.value, Value::Null)).then_some(node)
    }

    /// Reads a text, with its line.
    pub(super) fn text(&mut self, key: &str) -> Option<(String, u64)> {
        let node = self.take(key)?;
        if let Value::Text(text) = node.value {
            return Some((text, node.line));
        }
        self.error(node.line, key, "is not a single value", "write one value after the colon");
        None
    }

    /// Reads a text and parses it with `read`.
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

    /// Reads a list.
    pub(super) fn list(&mut self, key: &str) -> Vec<Node> {
        let Some(node) = self.take(key) else { return Vec::new() };
        if let Value::List(items) = node.value {
            return items;
        }
        self.error(node.line, key, "is not a list", "start each item with a dash");
        Vec::new()
    }

    /// Reads a list of texts, each with its line.
    pub(super) fn texts(&mut self, key: &str) -> Vec<(String, u64)> {
        let mut texts = Vec::new();
        for (index, item) in self.list(key).into_iter().enumerate() {
            match item.value {
                Value::Text(text) => texts.push((text, item.line)),
                _ => self.error(
                    item.line,
                    &format!("{key}[{index}]"),
                    "is not a single value",
                    "write one value after the dash",
                ),
            }
        }
        texts
    }

    /// Reads a list of maps.
    pub(super) fn maps<T>(
        &mut self,
        key: &str,
        mut read: impl FnMut(&mut Reader<'_>) -> Option<T>,
    ) -> Vec<T> {
        self.entries(key, &mut read).into_iter().map(|entry| entry.value).collect()
    }

    /// Reads a list of maps, and records which of them have errors.
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
            let mut reader = Reader::new(path, item, self.report);
            let value = read(&mut reader);
            reader.finish();
            let invalid = self.errors() > before;
            values.extend(value.map(|value| Entry { value, invalid }));
        }
        values
    }

    /// Reads a map of texts, each with its line.
    pub(super) fn text_map(&mut self, key: &str) -> Vec<(String, String, u64)> {
        let Some(node) = self.take(key) else { return Vec::new() };
        let Value::Map(entries) = node.value else {
            self.error(node.line, key, "is not a map", "write `key: value` lines");
            return Vec::new();
        };
        let mut texts = Vec::new();
        for (name, line, node) in entries {
            match node.value {
                Value::Text(text) => texts.push((name, text, line)),
                _ => self.error(
                    line,
                    &format!("{key}.{name}"),
                    "is not a single value",
                    "write one value after the colon",
                ),
            }
        }
        texts
    }

    /// Reports every field that was not read.
    pub(super) fn finish(mut self) {
        for (key, line, _) in std::mem::take(&mut self.fields) {
            let hint = match key.as_str() {
                "cidr" => "use addresses, which replaced it in MetalLB v0.6",
                "arp-network" => "remove it; MetalLB removed the field in v0.6",
                _ => "correct the name, or remove it",
            };
            self.error(line, &key, "unknown field, which has no effect", hint);
        }
    }
}
