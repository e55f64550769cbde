//! Lists of label selectors and of names, as every kind has them.

use crds::{Selector, parse_selector};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::finding::Report;

const REMOVE_DUPLICATE: &str = "remove the duplicate";

/// Parses a list of selectors of which any one is enough. Bad syntax is an error; a repeated selector has only one
/// possible interpretation and is a warning, although MetalLB refuses it.
pub(crate) fn selectors(
    report: &mut Report<'_>,
    field: &str,
    list: Option<&Vec<LabelSelector>>,
) -> Vec<Selector> {
    readable_selectors(report, field, list).0
}

/// The same, and whether every selector of the list could be parsed.
pub(crate) fn readable_selectors(
    report: &mut Report<'_>,
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
pub(crate) fn single(report: &mut Report<'_>, path: &str, selector: &LabelSelector) -> Option<Selector> {
    match parse_selector(selector) {
        Ok(parsed) => Some(parsed),
        Err(fault) => {
            report.error(path, "", fault.problem, "correct the label selector");
            None
        }
    }
}

/// Reports repeated expressions and repeated values within one selector, which MetalLB refuses in advertisements.
pub(crate) fn no_repeats(report: &mut Report<'_>, field: &str, list: Option<&Vec<LabelSelector>>) {
    for (index, selector) in list.into_iter().flatten().enumerate() {
        let expressions = selector.match_expressions.as_deref().unwrap_or_default();
        for (at, expression) in expressions.iter().enumerate() {
            let path = format!("{field}[{index}].matchExpressions[{at}]");
            if expressions[..at].contains(expression) {
                report.warning(&path, &expression.key, "duplicate expression", REMOVE_DUPLICATE);
            }
            let values = expression.values.as_deref().unwrap_or_default();
            for value in repeated(values) {
                report.warning(format!("{path}.values"), value, "duplicate value", REMOVE_DUPLICATE);
            }
        }
    }
}

/// A list of names, each once and without surrounding white space: no Kubernetes object and no interface has a name
/// with white space in it. An empty name stays in the list, since it names nothing, and a list without any name may
/// mean everything.
pub(crate) fn names(report: &mut Report<'_>, field: &str, list: Option<&Vec<String>>) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for written in list.into_iter().flatten() {
        let name = written.trim();
        if name != written {
            report.warning(field, written, "surrounding white space is ignored", format!("write {name:?}"));
        }
        if names.iter().any(|known| known == name) {
            report.warning(field, name, "duplicate name", REMOVE_DUPLICATE);
        } else {
            names.push(name.to_owned());
        }
    }
    names
}

fn repeated(list: &[String]) -> impl Iterator<Item = &String> {
    list.iter().enumerate().filter(|(at, item)| list[..*at].contains(item)).map(|(_, item)| item)
}
