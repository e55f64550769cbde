//! Summarizes what controller and speakers report in their `ConfigurationState`s and `SpeakerState`s.

use std::collections::BTreeMap;

use crds::annotations::NODE;
use crds::names::{CONDITION_BEACONS_BLOCKED, CONDITION_EXCLUDE_LABEL_IGNORED};
use crds::names::{CONDITION_KERNELS_ANSWER, LABEL_NODE_NAME};
use crds::{ConfigurationResult, ConfigurationState, ResourceExt as _};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::inputs::SpeakerConditions;

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

/// What speakers report of their nodes.
#[derive(Clone, Copy)]
pub(crate) struct Reports<'a> {
    /// In `SpeakerState`s.
    pub(crate) speakers: &'a [SpeakerConditions],
    /// In `ConfigurationState`s, as those of earlier releases do. They do not count for nodes with a
    /// `SpeakerState`.
    pub(crate) legacy: &'a [ConfigurationState],
}

impl<'a> Reports<'a> {
    /// Which speakers receive no beacons from which others, by node.
    pub(crate) fn beacons_blocked(self) -> Vec<String> {
        self.messages_by_node(CONDITION_BEACONS_BLOCKED)
    }

    /// Which nodes' kernels answer for addresses that their speakers do not announce, by the node that
    /// reports it.
    pub(crate) fn kernels_answer(self) -> Vec<String> {
        self.messages_by_node(CONDITION_KERNELS_ANSWER)
    }

    /// The message of each node for which the condition is True.
    fn messages_by_node(self, type_: &'static str) -> Vec<String> {
        let conditions = self.conditions_of_type(type_);
        let by_node: BTreeMap<String, &str> = conditions
            .filter(|(_, condition)| condition.status == "True")
            .map(|(node, condition)| (node, &*condition.message))
            .collect();
        by_node.into_iter().map(|(node, message)| format!("{node}: {message}")).collect()
    }

    /// The message that the exclude label is ignored. All speakers see the same nodes, so the latest report
    /// is right: the others may be from speakers that no longer run.
    pub(crate) fn exclude_label_ignored_message(self) -> Option<&'a str> {
        let last = self
            .conditions_of_type(CONDITION_EXCLUDE_LABEL_IGNORED)
            .map(|(_, condition)| condition)
            .max_by_key(|condition| condition.last_transition_time.0)?;
        (last.status == "True").then_some(&last.message)
    }

    /// The conditions of type `type_`, each with the node that it is about.
    fn conditions_of_type(self, type_: &'static str) -> impl Iterator<Item = (String, &'a Condition)> {
        let Self { speakers, legacy } = self;
        let reported = |name: &str| speakers.iter().any(|speaker| speaker.node == name);
        let legacy = legacy.iter().filter_map(move |state| {
            let node = node(state).unwrap_or_else(|| state.name_any());
            (!reported(&node)).then_some((node, &state.status.as_ref()?.conditions))
        });
        let current = speakers.iter().map(|speaker| (speaker.node.clone(), &speaker.conditions));
        current.chain(legacy).flat_map(move |(node, conditions)| {
            let conditions = conditions.iter().filter(move |condition| condition.type_ == type_);
            conditions.map(move |condition| (node.clone(), condition))
        })
    }
}

fn node(state: &ConfigurationState) -> Option<String> {
    state.annotations().get(NODE).or_else(|| state.labels().get(LABEL_NODE_NAME)).cloned()
}
