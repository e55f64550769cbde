//! Field ownership, read from `metadata.managedFields` (Kubernetes, "Server-Side Apply", format `FieldsV1`).

use std::collections::BTreeMap;

use crds::names::OPERATOR;
use serde_json::{Map, Value};

/// One path element of `FieldsV1`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// A field of an object (`f:name`).
    Field(String),
    /// An item of a list, by its key fields (`k:{"name":"speaker"}`).
    Keys(Map<String, Value>),
    /// An item of a list, by its value (`v:"a"`).
    Item(Value),
}

/// The path from the root of an object to one of its fields.
pub(crate) type Path = Vec<Step>;

/// The fields of an object, by field manager.
#[derive(Debug, Default)]
pub(crate) struct FieldOwnership {
    /// Fields that the operator applied.
    pub(crate) ours: Vec<Path>,
    /// All other fields, by field manager.
    pub(crate) others: BTreeMap<String, Vec<Path>>,
}

impl FieldOwnership {
    /// Reads the managed fields of `live`. Entries that cannot be parsed are ignored.
    pub(crate) fn of(live: &Value) -> Self {
        let mut ownership = Self::default();
        let entries = live["metadata"]["managedFields"].as_array().map_or(&[][..], Vec::as_slice);
        for entry in entries {
            // The status is not part of what the operator renders.
            if entry["subresource"] == "status" {
                continue;
            }
            let manager = entry["manager"].as_str().unwrap_or("unknown");
            // Fields that the operator set by a JSON patch are treated as foreign: an apply would never
            // remove them.
            let is_apply = manager == OPERATOR && entry["operation"] == "Apply";
            let paths = if is_apply {
                &mut ownership.ours
            } else {
                ownership.others.entry(manager.to_owned()).or_default()
            };
            collect(&entry["fieldsV1"], &mut Vec::new(), paths);
        }
        ownership
    }

    /// Whether the operator owns the field at `path` or one below it.
    pub(crate) fn is_ours(&self, path: &[Step]) -> bool {
        self.ours.iter().any(|ours| ours.starts_with(path))
    }
}

fn collect(node: &Value, at: &mut Path, paths: &mut Vec<Path>) {
    let Some(node) = node.as_object() else { return };
    if node.is_empty() || node.contains_key(".") {
        paths.push(at.clone());
    }
    for (name, below) in node {
        if let Some(step) = step(name) {
            at.push(step);
            collect(below, at, paths);
            at.pop();
        }
    }
}

fn step(name: &str) -> Option<Step> {
    let (kind, rest) = name.split_once(':')?;
    match kind {
        "f" => Some(Step::Field(rest.to_owned())),
        "k" => Some(Step::Keys(serde_json::from_str(rest).ok()?)),
        "v" => Some(Step::Item(serde_json::from_str(rest).ok()?)),
        // Items by index (`i:`) belong to atomic lists, which are owned as a whole.
        _ => None,
    }
}

/// The tokens of the JSON pointer to `path` in `live`; none if `live` has no such value.
pub(crate) fn locate(live: &Value, path: &[Step]) -> Option<Vec<String>> {
    let mut at = live;
    let mut tokens = Vec::with_capacity(path.len());
    for step in path {
        let token = match step {
            Step::Field(name) => name.clone(),
            Step::Keys(keys) => position(at, |item| keys.iter().all(|(key, value)| &item[key] == value))?,
            Step::Item(value) => position(at, |item| item == value)?,
        };
        at = match at {
            Value::Array(items) => items.get(token.parse::<usize>().ok()?)?,
            other => other.get(&token)?,
        };
        tokens.push(token);
    }
    Some(tokens)
}

fn position(list: &Value, matches: impl Fn(&Value) -> bool) -> Option<String> {
    list.as_array()?.iter().position(matches).map(|index| index.to_string())
}
