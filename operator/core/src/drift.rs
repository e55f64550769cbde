//! Compares an object in the cluster with the rendered one: the differences, who caused them, and the
//! repaired object.
//!
//! The API server adds defaults, and other parts of Kubernetes write labels, annotations and status. So an
//! object is in sync if it contains everything that is rendered and, where the operator owns the whole object
//! ([`Extent::Whole`]), if nobody else has set any other field. The latter is read from the managed fields:
//! no manager owns a default. An atomic map or list (`x-kubernetes-map-type: atomic`, and every list without
//! keys) has one owner for its whole content: it must equal the rendered value, apart from defaults.

use std::collections::{BTreeMap, BTreeSet};

use crds::names::OPERATOR;
use serde_json::Value;

use self::managed_fields::{FieldOwnership, Path, Step, locate};
use crate::object::Extent;
use crate::quantity;

pub mod crd;
mod managed_fields;
pub mod ownership;
pub mod retention;

/// The difference between an object in the cluster and the rendered one. Empty if the object is in sync.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drift {
    /// JSON pointers to rendered values that differ or are missing.
    pub differs: Vec<String>,
    /// JSON pointers to values that others have added.
    pub foreign: Vec<String>,
    /// The field managers that own any of these, other than the operator.
    pub managers: BTreeSet<String>,
}

impl Drift {
    /// Whether the object is in sync.
    pub fn is_none(&self) -> bool {
        self.differs.is_empty() && self.foreign.is_empty()
    }

    /// Removes differences that an admission webhook made to the operator's own apply ([`webhook_changes`]).
    #[must_use]
    pub fn without_webhook_changes(
        mut self,
        webhook_changes: &BTreeMap<String, Value>,
        live: &Value,
    ) -> Self {
        self.differs.retain(|at| webhook_changes.get(at) != Some(live.pointer(at).unwrap_or(&Value::Null)));
        self
    }
}

/// The values in `answer`, the API server's response to an apply of `desired`, that differ from `desired`, by
/// JSON pointer: an admission webhook changed them. Applying again would change nothing.
pub fn webhook_changes(desired: &Value, answer: &Value) -> BTreeMap<String, Value> {
    let at = |at: String| (answer.pointer(&at).cloned().unwrap_or_default(), at);
    drift(desired, answer, Extent::Rendered)
        .differs
        .into_iter()
        .map(at)
        .map(|(value, at)| (at, value))
        .collect()
}

/// Whether another client has removed a field of the `spec` that the operator applied: `live` lacks it, and
/// so do the operator's managed fields. Such an edit leaves no other trace. (A field that the API server
/// prunes stays in the managed fields.)
pub fn is_field_removed(drift: &Drift, live: &Value) -> bool {
    let ownership = FieldOwnership::of(live);
    let is_managed = |at: &str| {
        let path: Path = at.split('/').skip(1).map(|token| Step::Field(unescaped(token))).collect();
        ownership.is_ours(&path)
    };
    let is_missing = |at: &str| live.pointer(at).is_none_or(Value::is_null);
    let mut of_spec = drift.differs.iter().filter(|at| at.starts_with("/spec/"));
    !ownership.ours.is_empty() && of_spec.any(|at| is_missing(at) && !is_managed(at))
}

/// Unescapes a token of a JSON pointer (RFC 6901).
fn unescaped(token: &str) -> String {
    token.replace("~1", "/").replace("~0", "~")
}

/// Compares `live` with `desired`.
pub fn drift(desired: &Value, live: &Value, extent: Extent) -> Drift {
    let mut differs = Vec::new();
    let ownership = FieldOwnership::of(live);
    // Items of a list response lack `apiVersion` and `kind`.
    let is_compared = |name: &str| name != "apiVersion" && name != "kind";
    for (name, value) in desired.as_object().into_iter().flatten().filter(|(name, _)| is_compared(name)) {
        compare(value, &live[name.as_str()], &mut vec![name.clone()], &mut differs);
    }
    if extent == Extent::Whole {
        for (desired, at) in atomic(&ownership, desired, live) {
            if let Some(live) = live.pointer(&pointer(&at)) {
                added_values(desired, live, &mut at.clone(), &mut differs);
            }
        }
    }
    // Fields that were rendered once and no longer are: an apply removes them.
    let stale = ownership.ours.iter().filter(|path| locate(desired, path).is_none());
    differs.extend(stale.filter_map(|path| locate(live, path)));
    let mut managers: BTreeSet<String> = BTreeSet::new();
    let foreign = match extent {
        Extent::Whole => foreign(&ownership, desired, live),
        Extent::Rendered => BTreeMap::new(),
    };
    managers.extend(foreign.values().cloned());
    differs.sort();
    differs.dedup();
    for (manager, paths) in &ownership.others {
        let located = paths.iter().filter_map(|path| locate(live, path));
        let overlaps =
            |tokens: &[String]| differs.iter().any(|at| tokens.starts_with(at) || at.starts_with(tokens));
        if located.filter(|tokens| !tokens.is_empty()).any(|tokens| overlaps(&tokens)) {
            managers.insert(manager.clone());
        }
    }
    // Fields left by the operator's own JSON patches were set by nobody else.
    managers.remove(OPERATOR);
    Drift {
        differs: differs.iter().map(|tokens| pointer(tokens)).collect(),
        foreign: foreign.into_keys().map(|tokens| pointer(&tokens)).collect(),
        managers,
    }
}

/// `live` without what others added and with what is rendered: the target of a JSON patch.
pub fn repaired(desired: &Value, live: &Value) -> Value {
    let mut repaired = live.clone();
    let ownership = FieldOwnership::of(live);
    for (desired, at) in atomic(&ownership, desired, live) {
        let (mut found, Some(live)) = (Vec::new(), repaired.pointer_mut(&pointer(&at))) else { continue };
        added_values(desired, live, &mut at.clone(), &mut found);
        if !found.is_empty() {
            *live = desired.clone();
        }
    }
    // In reverse order, so that list indices stay valid.
    for tokens in foreign(&ownership, desired, live).keys().rev() {
        remove(&mut repaired, tokens);
    }
    overlay(&mut repaired, desired, "");
    repaired
}

/// Values that only others have set and that are not rendered, by their place, with the manager; for a
/// subtree in which the operator owns nothing, its root.
fn foreign(ownership: &FieldOwnership, desired: &Value, live: &Value) -> BTreeMap<Tokens, String> {
    // Without fields of the operator there is nothing to compare with: the object was never applied, or its
    // managed fields were cleared.
    if ownership.ours.is_empty() {
        return BTreeMap::new();
    }
    let mut found = BTreeMap::new();
    for (manager, paths) in &ownership.others {
        for path in paths.iter().filter(|path| is_content(path) && !ownership.is_ours(path)) {
            let mut root = path.as_slice();
            while root.len() > 2 && !ownership.is_ours(&root[..root.len() - 1]) {
                root = &root[..root.len() - 1];
            }
            // A rendered value is compared by `compare`, whoever set it last.
            let rendered = locate(desired, root).is_some();
            if let Some(tokens) = locate(live, root).filter(|_| !rendered) {
                found.insert(Tokens(tokens), manager.clone());
            }
        }
    }
    let roots: Vec<Tokens> = found.keys().cloned().collect();
    found.retain(|tokens, _| !roots.iter().any(|root| root != tokens && tokens.0.starts_with(&root.0)));
    found
}

/// Rendered atomic values, each with its place in `live`: a map or list that somebody owns and of which
/// nobody owns a part.
fn atomic<'a>(ownership: &FieldOwnership, desired: &'a Value, live: &Value) -> Vec<(&'a Value, Vec<String>)> {
    let paths = || ownership.ours.iter().chain(ownership.others.values().flatten());
    let is_atomic = |path: &&Path| {
        is_content(path) && !paths().any(|other| other.len() > path.len() && other.starts_with(path))
    };
    let rendered = |path: &Path| {
        let value = desired.pointer(&pointer(&locate(desired, path)?))?;
        let is_not_empty = value.as_object().is_some_and(|fields| !fields.is_empty())
            || value.as_array().is_some_and(|items| !items.is_empty());
        Some((value, locate(live, path).filter(|_| is_not_empty)?))
    };
    paths().filter(is_atomic).filter_map(rendered).collect()
}

/// Collects what an atomic value of `live` contains and `desired` does not. Defaults of the API server and
/// empty values are ignored.
fn added_values(desired: &Value, live: &Value, at: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
    match (desired, live) {
        (Value::Object(fields), Value::Object(others)) => {
            for (name, other) in others {
                at.push(name.clone());
                match fields.get(name) {
                    Some(value) => added_values(value, other, at, found),
                    None if is_empty(other) || is_default(name, other, at) => {}
                    None => found.push(at.clone()),
                }
                at.pop();
            }
        }
        (Value::Array(items), Value::Array(others)) if items.len() == others.len() => {
            for (index, (item, other)) in items.iter().zip(others).enumerate() {
                at.push(index.to_string());
                added_values(item, other, at, found);
                at.pop();
            }
        }
        (Value::Array(_), Value::Array(_)) => found.push(at.clone()),
        _ => {}
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        // An empty string may be the value of a label.
        Value::String(_) | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Whether the API server defaults this value within an atomic map or list.
fn is_default(name: &str, value: &Value, at: &[String]) -> bool {
    let within = |parent: &str| at.iter().rev().nth(1).is_some_and(|token| token == parent);
    match name {
        "apiVersion" => within("fieldRef") && value == "v1",
        _ => false,
    }
}

/// The tokens of a JSON pointer, ordered so that list items sort by number.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tokens(Vec<String>);

impl Ord for Tokens {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let number = |token: &String| (token.parse::<usize>().unwrap_or(usize::MAX), token.clone());
        self.0.iter().map(number).cmp(other.0.iter().map(number))
    }
}

impl PartialOrd for Tokens {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl std::ops::Deref for Tokens {
    type Target = [String];

    fn deref(&self) -> &[String] {
        &self.0
    }
}

/// Everything but metadata, status, and the labels and annotations of a pod template (`kubectl rollout
/// restart` sets one).
fn is_content(path: &Path) -> bool {
    let field = |index: usize| match path.get(index) {
        Some(Step::Field(name)) => name.as_str(),
        _ => "",
    };
    match field(0) {
        "" | "apiVersion" | "kind" | "metadata" | "status" => false,
        "spec" => !(path.len() < 2 || field(1) == "template" && field(2) == "metadata"),
        _ => true,
    }
}

/// Collects where `live` lacks or contradicts a value of `desired`.
fn compare(desired: &Value, live: &Value, at: &mut Vec<String>, differs: &mut Vec<Vec<String>>) {
    match (desired, live) {
        (Value::Object(fields), _) => {
            for (name, value) in fields {
                at.push(name.clone());
                compare(value, &live[name.as_str()], at, differs);
                at.pop();
            }
        }
        (Value::Array(items), Value::Array(_)) if !keys(at.last()).is_empty() => {
            for item in items {
                let found = find(live, item, keys(at.last()));
                at.push(found.map_or_else(|| "-".to_owned(), |index| index.to_string()));
                compare(item, found.map_or(&Value::Null, |index| &live[index]), at, differs);
                at.pop();
            }
        }
        (Value::Array(items), Value::Array(others)) if items.len() == others.len() => {
            for (index, item) in items.iter().enumerate() {
                at.push(index.to_string());
                compare(item, &others[index], at, differs);
                at.pop();
            }
        }
        (Value::Array(items), Value::Null) if items.is_empty() => {}
        _ if desired == live || same_quantity(desired, live, at) => {}
        _ => differs.push(at.clone()),
    }
}

/// The API server stores quantities in a canonical form.
fn same_quantity(desired: &Value, live: &Value, at: &[String]) -> bool {
    let parse = |value: &Value| value.as_str().and_then(quantity::parse);
    at.len() > 1
        && matches!(at[at.len() - 2].as_str(), "limits" | "requests")
        && parse(desired).is_some_and(|quantity| parse(live) == Some(quantity))
}

/// The fields that identify the items of the list `name`; none if the list is atomic.
/// (`x-kubernetes-list-map-keys` of the kinds in the table of [`Kind`](crate::Kind).)
fn keys(name: Option<&String>) -> &'static [&'static str] {
    match name.map(String::as_str) {
        Some("containers" | "initContainers" | "volumes" | "env" | "imagePullSecrets") => &["name"],
        Some("volumeMounts") => &["mountPath"],
        Some("ports") => &["containerPort", "protocol"],
        Some("topologySpreadConstraints") => &["topologyKey", "whenUnsatisfiable"],
        Some("ownerReferences") => &["uid"],
        _ => &[],
    }
}

fn find(live: &Value, item: &Value, keys: &[&str]) -> Option<usize> {
    let same = |other: &Value| keys.iter().all(|key| other[*key] == item[*key]);
    live.as_array()?.iter().position(same)
}

/// Merges `desired` into `target`, as a server-side apply does.
fn overlay(target: &mut Value, desired: &Value, name: &str) {
    let keys = keys(Some(&name.to_owned()));
    match (target, desired) {
        (Value::Object(target), Value::Object(fields)) => {
            for (name, value) in fields {
                overlay(target.entry(name.as_str()).or_insert(Value::Null), value, name);
            }
        }
        (Value::Array(target), Value::Array(items)) if !keys.is_empty() => {
            for item in items {
                match target.iter_mut().find(|other| keys.iter().all(|key| other[*key] == item[*key])) {
                    Some(other) => overlay(other, item, ""),
                    None => target.push(item.clone()),
                }
            }
        }
        (target, desired) => *target = desired.clone(),
    }
}

fn remove(target: &mut Value, tokens: &[String]) {
    let Some((last, parents)) = tokens.split_last() else { return };
    match target.pointer_mut(&pointer(parents)) {
        Some(Value::Object(fields)) => {
            fields.remove(last);
        }
        Some(Value::Array(items)) => {
            if let Some(index) = last.parse::<usize>().ok().filter(|index| *index < items.len()) {
                items.remove(index);
            }
        }
        _ => {}
    }
}

fn pointer(tokens: &[String]) -> String {
    tokens.iter().fold(String::new(), |mut text, token| {
        text.push('/');
        text.push_str(&token.replace('~', "~0").replace('/', "~1"));
        text
    })
}

#[cfg(test)]
mod tests;
