//! What controller and speakers say of the configuration (`ConfigurationState`), in few words.

use std::collections::BTreeMap;

use crds::annotations::NODE;
use crds::names::{CONDITION_BEACONS_BLOCKED, CONDITION_EXCLUDE_LABEL_IGNORED};
use crds::names::{CONDITION_KERNELS_ANSWER, LABEL_NODE_NAME};
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
    by_node(states, CONDITION_BEACONS_BLOCKED)
}

/// Which nodes' kernels answer for addresses that their speakers do not announce, by the node that sees it.
pub(crate) fn kernels_answer(states: &[ConfigurationState]) -> Vec<String> {
    by_node(states, CONDITION_KERNELS_ANSWER)
}

/// What each node says of a condition that is True.
fn by_node(states: &[ConfigurationState], type_: &'static str) -> Vec<String> {
    let by_node: BTreeMap<String, &str> = said(states, type_)
        .filter(|(_, condition)| condition.status == "True")
        .map(|(state, condition)| (node(state).unwrap_or_else(|| state.name_any()), &*condition.message))
        .collect();
    by_node.into_iter().map(|(node, message)| format!("{node}: {message}")).collect()
}

/// That the exclude label counts for nothing. All speakers see the same nodes, so the one that spoke last is right: others
/// may not run any more.
pub(crate) fn label_ignored(states: &[ConfigurationState]) -> Option<&str> {
    let last = said(states, CONDITION_EXCLUDE_LABEL_IGNORED)
        .map(|(_, condition)| condition)
        .max_by_key(|condition| condition.last_transition_time.0)?;
    (last.status == "True").then_some(&last.message)
}

/// What speakers say of a condition.
fn said<'a>(
    states: &'a [ConfigurationState],
    type_: &'static str,
) -> impl Iterator<Item = (&'a ConfigurationState, &'a Condition)> {
    states.iter().flat_map(move |state| {
        let conditions = state.status.iter().flat_map(|status| &status.conditions);
        conditions.filter(move |condition| condition.type_ == type_).map(move |condition| (state, condition))
    })
}

fn node(state: &ConfigurationState) -> Option<String> {
    state.annotations().get(NODE).or_else(|| state.labels().get(LABEL_NODE_NAME)).cloned()
}
