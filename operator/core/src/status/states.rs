//! Summarizes what controller and speakers report in their `ConfigurationState`s.

use std::collections::BTreeMap;

use crds::annotations::NODE;
use crds::names::{CONDITION_BEACONS_BLOCKED, CONDITION_EXCLUDE_LABEL_IGNORED};
use crds::names::{CONDITION_KERNELS_ANSWER, LABEL_NODE_NAME};
use crds::{ConfigurationResult, ConfigurationState, ResourceExt as _};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

/// Every distinct error; the controller's come first.
pub(crate) fn errors(states: &[ConfigurationState]) -> Vec<String> {
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

/// Which speakers receive no beacons from which others, by node.
pub(crate) fn beacons_blocked(states: &[ConfigurationState]) -> Vec<String> {
    messages_by_node(states, CONDITION_BEACONS_BLOCKED)
}

/// Which nodes' kernels answer for addresses that their speakers do not announce, by the node that reports
/// it.
pub(crate) fn kernels_answer(states: &[ConfigurationState]) -> Vec<String> {
    messages_by_node(states, CONDITION_KERNELS_ANSWER)
}

/// The message of each node for which the condition is True.
fn messages_by_node(states: &[ConfigurationState], type_: &'static str) -> Vec<String> {
    let by_node: BTreeMap<String, &str> = conditions_of_type(states, type_)
        .filter(|(_, condition)| condition.status == "True")
        .map(|(state, condition)| (node(state).unwrap_or_else(|| state.name_any()), &*condition.message))
        .collect();
    by_node.into_iter().map(|(node, message)| format!("{node}: {message}")).collect()
}

/// The message that the exclude label is ignored. All speakers see the same nodes, so the latest report is
/// right: the others may be from speakers that no longer run.
pub(crate) fn exclude_label_ignored_message(states: &[ConfigurationState]) -> Option<&str> {
    let last = conditions_of_type(states, CONDITION_EXCLUDE_LABEL_IGNORED)
        .map(|(_, condition)| condition)
        .max_by_key(|condition| condition.last_transition_time.0)?;
    (last.status == "True").then_some(&last.message)
}

/// The conditions of type `type_` of all states.
fn conditions_of_type<'a>(
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
