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

/// Parses and checks `selector`: `In` and `NotIn` need values, `Exists` and `DoesNotExist` must have none
/// (`LabelSelectorRequirement` of the API reference).
pub fn parse_selector(selector: &LabelSelector) -> Result<Selector, SelectorError> {
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
}
