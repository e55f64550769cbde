//! Lists of label selectors and of names, as every kind has them.

use crds::{Selector, parse_selector};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::finding::Report;

/// Parses a list of selectors of which any one is enough. Bad syntax and repetition are errors, as in MetalLB.
pub(crate) fn selectors(
    report: &mut Report<'_>,
    field: &str,
    list: Option<&Vec<LabelSelector>>,
) -> Vec<Selector> {
    let mut parsed: Vec<Selector> = Vec::new();
    for (index, selector) in list.into_iter().flatten().enumerate() {
        let path = format!("{field}[{index}]");
        let Some(one) = single(report, &path, selector) else { continue };
        if parsed.contains(&one) {
            report.error(path, one.to_string(), "the same selector stands here twice", "remove one of them");
        } else {
            parsed.push(one);
        }
    }
    parsed
}

/// Parses one selector.
pub(crate) fn single(report: &mut Report<'_>, path: &str, selector: &LabelSelector) -> Option<Selector> {
    match parse_selector(selector) {
        Ok(parsed) => Some(parsed),
        Err(fault) => {
            report.error(path, "", fault.problem, "correct the label selector");
            None
        }
    }
}

/// Repeated expressions and repeated values within one selector, which MetalLB refuses in advertisements.
pub(crate) fn no_repeats(report: &mut Report<'_>, field: &str, list: Option<&Vec<LabelSelector>>) {
    for (index, selector) in list.into_iter().flatten().enumerate() {
        let expressions = selector.match_expressions.as_deref().unwrap_or_default();
        for (at, expression) in expressions.iter().enumerate() {
            let path = format!("{field}[{index}].matchExpressions[{at}]");
            if expressions[..at].contains(expression) {
                report.error(
                    &path,
                    &expression.key,
                    "the same expression stands here twice",
                    "remove one of them",
                );
            }
            let values = expression.values.as_deref().unwrap_or_default();
            if let Some(value) = repeated(values) {
                report.error(
                    format!("{path}.values"),
                    value,
                    "the same value stands here twice",
                    "remove one of them",
                );
            }
        }
    }
}

/// A list of names without repetition.
pub(crate) fn names(report: &mut Report<'_>, field: &str, list: Option<&Vec<String>>) -> Vec<String> {
    let list = list.cloned().unwrap_or_default();
    if let Some(name) = repeated(&list) {
        report.error(field, name, "the same name stands here twice", "remove one of them");
    }
    list
}

fn repeated(list: &[String]) -> Option<&String> {
    list.iter().enumerate().find(|(at, item)| list[..*at].contains(item)).map(|(_, item)| item)
}
