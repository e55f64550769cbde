//! Validation of lists of label selectors and of names, which most kinds have, and parsing of selectors.

use crds::Selector;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::ParseExpressionError;

use crate::finding::Reporter;

const REMOVE_DUPLICATE: &str = "remove the duplicate";

/// An invalid label selector.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SelectorError {
    #[error("key {key:?}: operator {operator:?} {problem}")]
    Expression { key: String, operator: String, problem: &'static str },
    #[error(
        "{0:?} is not a valid label key: at most 63 letters, digits, '-', '_' and '.', with a letter or digit first and \
         last, after an optional DNS subdomain and '/'"
    )]
    Key(String),
    #[error(
        "key {key:?}: {value:?} is not a valid label value: at most 63 letters, digits, '-', '_' and '.', with a letter or \
         digit first and last"
    )]
    Value { key: String, value: String },
    #[error(transparent)]
    Other(#[from] ParseExpressionError),
}

/// Parses and checks `selector`, as strictly as Kubernetes does: `In` and `NotIn` need values, `Exists` and
/// `DoesNotExist` must have none (`LabelSelectorRequirement` of the API reference); keys and values must be valid
/// ones of labels ("Labels and Selectors", syntax and character set).
pub(crate) fn parse_selector(selector: &LabelSelector) -> Result<Selector, SelectorError> {
    let labels = selector.match_labels.iter().flatten();
    let labels = labels.map(|(key, value)| (key, std::slice::from_ref(value)));
    let expressions = selector.match_expressions.iter().flatten();
    let expressions =
        expressions.map(|requirement| (&requirement.key, requirement.values.as_deref().unwrap_or_default()));
    for (key, values) in labels.chain(expressions) {
        check_label(key, values)?;
    }
    for requirement in selector.match_expressions.iter().flatten() {
        let values = requirement.values.as_ref().map_or(0, Vec::len);
        let problem = match requirement.operator.as_str() {
            "In" | "NotIn" if values == 0 => "needs at least one value",
            "Exists" | "DoesNotExist" if values > 0 => "takes no values",
            "In" | "NotIn" | "Exists" | "DoesNotExist" => continue,
            _ => "is not a valid operator; use In, NotIn, Exists or DoesNotExist",
        };
        let (key, operator) = (requirement.key.clone(), requirement.operator.clone());
        return Err(SelectorError::Expression { key, operator, problem });
    }
    Ok(Selector::try_from(selector.clone())?)
}

/// Checks that labels can have this key and these values.
fn check_label(key: &str, values: &[String]) -> Result<(), SelectorError> {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    if !is_label_name(name) || !prefix.is_none_or(is_subdomain) {
        return Err(SelectorError::Key(key.to_owned()));
    }
    match values.iter().find(|value| !value.is_empty() && !is_label_name(value)) {
        Some(value) => Err(SelectorError::Value { key: key.to_owned(), value: value.clone() }),
        None => Ok(()),
    }
}

fn is_label_name(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let ends = |c: char| c.is_ascii_alphanumeric();
    text.len() <= 63 && text.chars().all(inner) && text.starts_with(ends) && text.ends_with(ends)
}

/// Whether `text` is a DNS subdomain (RFC 1123).
fn is_subdomain(text: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let label = |label: &str| {
        label.chars().all(|c| alphanumeric(c) || c == '-')
            && label.starts_with(alphanumeric)
            && label.ends_with(alphanumeric)
    };
    text.len() <= 253 && text.split('.').all(label)
}

/// Parses a list of selectors of which any one is enough. Bad syntax is an error; a duplicate has only one
/// possible interpretation and is a warning, although MetalLB rejects it.
pub(crate) fn selectors(
    report: &mut Reporter<'_>,
    field: &str,
    list: Option<&Vec<LabelSelector>>,
) -> Vec<Selector> {
    readable_selectors(report, field, list).0
}

/// The same, and whether every selector of the list could be parsed.
pub(crate) fn readable_selectors(
    report: &mut Reporter<'_>,
    field: &str,
    list: Option<&Vec<LabelSelector>>,
) -> (Vec<Selector>, bool) {
    let (mut parsed, mut complete): (Vec<Selector>, bool) = (Vec::new(), true);
    for (index, selector) in list.into_iter().flatten().enumerate() {
        let path = format!("{field}[{index}]");
        let Some(one) = single(report, &path, selector) else {
            complete = false;
            continue;
        };
        if parsed.contains(&one) {
            report.warning(path, one.to_string(), "duplicate selector", REMOVE_DUPLICATE);
        } else {
            parsed.push(one);
        }
    }
    (parsed, complete)
}

/// Parses one selector.
pub(crate) fn single(report: &mut Reporter<'_>, path: &str, selector: &LabelSelector) -> Option<Selector> {
    match parse_selector(selector) {
        Ok(parsed) => Some(parsed),
        Err(error) => {
            report.error(path, "", error.to_string(), "correct the label selector");
            None
        }
    }
}

/// Warns of duplicate expressions and values within one selector, which MetalLB rejects in advertisements.
pub(crate) fn warn_duplicates(report: &mut Reporter<'_>, field: &str, list: Option<&Vec<LabelSelector>>) {
    for (index, selector) in list.into_iter().flatten().enumerate() {
        let expressions = selector.match_expressions.as_deref().unwrap_or_default();
        for (at, expression) in expressions.iter().enumerate() {
            let path = format!("{field}[{index}].matchExpressions[{at}]");
            if expressions[..at].contains(expression) {
                report.warning(&path, &expression.key, "duplicate expression", REMOVE_DUPLICATE);
            }
            let values = expression.values.as_deref().unwrap_or_default();
            for value in duplicates(values) {
                report.warning(format!("{path}.values"), value, "duplicate value", REMOVE_DUPLICATE);
            }
        }
    }
}

/// A list of names without duplicates and surrounding white space: names of Kubernetes objects and of
/// interfaces contain no white space. An empty name stays in the list: it matches nothing, but an empty list
/// may mean everything.
pub(crate) fn names(report: &mut Reporter<'_>, field: &str, list: Option<&Vec<String>>) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for written in list.into_iter().flatten() {
        let name = written.trim();
        if name != written {
            report.warning(field, written, "surrounding white space is ignored", format!("write {name:?}"));
        }
        if names.iter().any(|other| other == name) {
            report.warning(field, name, "duplicate name", REMOVE_DUPLICATE);
        } else {
            names.push(name.to_owned());
        }
    }
    names
}

fn duplicates(list: &[String]) -> impl Iterator<Item = &String> {
    list.iter().enumerate().filter(|(at, item)| list[..*at].contains(item)).map(|(_, item)| item)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;

    fn expression(operator: &str, values: &[&str]) -> LabelSelector {
        LabelSelector {
            match_expressions: Some(vec![LabelSelectorRequirement {
                key: "zone".into(),
                operator: operator.into(),
                values: Some(values.iter().map(|v| (*v).to_owned()).collect()),
            }]),
            match_labels: None,
        }
    }

    #[test]
    fn operators_are_checked_with_their_values() {
        for (operator, values, good) in [
            ("In", vec!["a"], true),
            ("In", vec![], false),
            ("NotIn", vec![], false),
            ("Exists", vec![], true),
            ("Exists", vec!["a"], false),
            ("DoesNotExist", vec![], true),
            ("Near", vec!["a"], false),
        ] {
            assert_eq!(parse_selector(&expression(operator, &values)).is_ok(), good, "{operator} {values:?}");
        }
    }

    #[test]
    fn keys_and_values_are_those_that_labels_can_have() {
        let long = "x".repeat(64);
        for (key, value, valid) in [
            ("kubernetes.io/hostname", "node-1.example", true),
            ("zone", "", true),
            ("A_b.c-9", "Z", true),
            ("bad key!", "x", false),
            ("zone", "bad value!", false),
            ("zone", "-x", false),
            ("zone", "x_", false),
            ("", "x", false),
            ("a/", "x", false),
            ("/a", "x", false),
            ("a/b/c", "x", false),
            ("Upper.io/a", "x", false),
            (&long, "x", false),
            ("zone", &long, false),
        ] {
            let labels = LabelSelector {
                match_labels: Some([(key.to_owned(), value.to_owned())].into()),
                match_expressions: None,
            };
            assert_eq!(parse_selector(&labels).is_ok(), valid, "{key:?} {value:?}");
            let mut expression = expression("In", &["other", value]);
            expression.match_expressions.as_mut().unwrap()[0].key = key.into();
            assert_eq!(parse_selector(&expression).is_ok(), valid, "{key:?} {value:?}");
        }
    }
}
