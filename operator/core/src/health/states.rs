//! What controller and speakers say of the configuration (`ConfigurationState`), in few words.

use std::collections::BTreeMap;

use crds::names::{CONDITION_BEACONS_BLOCKED, LABEL_NODE_NAME};
use crds::{ConfigurationResult, ConfigurationState, ResourceExt as _};

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
    let mut by_node: BTreeMap<String, String> = BTreeMap::new();
    for state in states {
        let conditions = state.status.iter().flat_map(|status| &status.conditions);
        let blocked = conditions
            .filter(|condition| condition.type_ == CONDITION_BEACONS_BLOCKED && condition.status == "True");
        for condition in blocked {
            by_node.insert(node(state).unwrap_or_else(|| state.name_any()), condition.message.clone());
        }
    }
    by_node.into_iter().map(|(node, message)| format!("{node}: {message}")).collect()
}

fn node(state: &ConfigurationState) -> Option<String> {
    state.labels().get(LABEL_NODE_NAME).cloned()
}
