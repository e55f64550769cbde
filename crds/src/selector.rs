//! Conversion of a `LabelSelector` of the API to one that can be evaluated.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::Selector;

/// An invalid label selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectorError {
    /// What is wrong with it, naming the key and the operator.
    pub problem: String,
}

impl std::fmt::Display for SelectorError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.problem)
    }
}

impl std::error::Error for SelectorError {}

/// Parses and checks `selector`, as strictly as Kubernetes does: `In` and `NotIn` need values, `Exists` and
/// `DoesNotExist` must have none (`LabelSelectorRequirement` of the API reference); keys and values must be valid
/// ones of labels ("Labels and Selectors", syntax and character set).
pub fn parse_selector(selector: &LabelSelector) -> Result<Selector, SelectorError> {
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
        return Err(SelectorError {
            problem: format!("key {:?}: operator {:?} {problem}", requirement.key, requirement.operator),
        });
    }
    Selector::try_from(selector.clone()).map_err(|error| SelectorError { problem: error.to_string() })
}

/// Checks that labels can have this key and these values.
fn check_label(key: &str, values: &[String]) -> Result<(), SelectorError> {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    if !is_label_name(name) || !prefix.is_none_or(is_subdomain) {
        return Err(SelectorError {
            problem: format!(
                "{key:?} is not a valid label key: at most 63 letters, digits, '-', '_' and '.', with a letter or digit \
                 first and last, after an optional DNS subdomain and '/'"
            ),
        });
    }
    match values.iter().find(|value| !value.is_empty() && !is_label_name(value)) {
        Some(value) => Err(SelectorError {
            problem: format!(
                "key {key:?}: {value:?} is not a valid label value: at most 63 letters, digits, '-', '_' and '.', with a \
                 letter or digit first and last"
            ),
        }),
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
