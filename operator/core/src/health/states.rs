//! What controller and speakers say of the configuration (`ConfigurationState`), in few words.

use std::collections::BTreeMap;

use crds::names::{CONDITION_BEACONS_BLOCKED, CONDITION_EXCLUDE_LABEL_IGNORED, LABEL_NODE_NAME};
use crds::{ConfigurationResult, ConfigurationState, ResourceExt as _};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

/// Every error, once, however many tell of it; the controller's come first.
pub(crate) fn invalid(states: &[ConfigurationState]) -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    let mut speakers: Vec<String> = Vec::new();
    for state in states {
        let Some(status) = &state.status else { continue };
        if status.result != Some(ConfigurationResult::Invalid) {
            continue;
        }
        let lines = status.error_summary.iter().flat_map(|summary| summary.lines()).map(ToOwned::to_owned);
        if node(state).is_some() {
            speakers.extend(lines);
        } else {
            texts.extend(lines);
        }
    }
    speakers.sort();
    for text in speakers {
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    texts
}

/// Who cannot hear whom, by node.
pub(crate) fn blocked(states: &[ConfigurationState]) -> Vec<String> {
    let by_node: BTreeMap<String, &str> = said(states, CONDITION_BEACONS_BLOCKED)
        .map(|(state, message)| (node(state).unwrap_or_else(|| state.name_any()), message))
        .collect();
    by_node.into_iter().map(|(node, message)| format!("{node}: {message}")).collect()
}

/// That the exclude label counts for nothing; the speakers see the same nodes, so one of them is enough.
pub(crate) fn label_ignored(states: &[ConfigurationState]) -> Option<&str> {
    said(states, CONDITION_EXCLUDE_LABEL_IGNORED).map(|(_, message)| message).next()
}

/// Who says that the condition is true, and with which words.
fn said<'a>(
    states: &'a [ConfigurationState],
    type_: &'static str,
) -> impl Iterator<Item = (&'a ConfigurationState, &'a str)> {
    states.iter().flat_map(move |state| {
        let conditions = state.status.iter().flat_map(|status| &status.conditions);
        let is_true = move |condition: &&Condition| condition.type_ == type_ && condition.status == "True";
        conditions.filter(is_true).map(move |condition| (state, condition.message.as_str()))
    })
}

fn node(state: &ConfigurationState) -> Option<String> {
    state.labels().get(LABEL_NODE_NAME).cloned()
}
