//! The namespace of the stack where somebody else made it: the stack is a guest there, and only adds the labels without which
//! no speaker could run, where there are none.

use crds::names::OPERATOR;
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use render::health::Outcome;
use render::ownership::last_writer;
use render::{Key, POD_SECURITY};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::api::Error;
use crate::apply::{Applier, Deed, json_of};
use crate::memory::{Record, Verdict};

const ENFORCE: &str = "pod-security.kubernetes.io/enforce";

impl Applier<'_> {
    /// Adds the labels that `live` lacks, unless somebody insists on removing them.
    pub(crate) async fn label_namespace(
        &mut self,
        key: &Key,
        record: &mut Record,
        live: &DynamicObject,
    ) -> Result<Outcome, Error> {
        let ours = owned_labels(live);
        let is_free = |label: &str| !live.labels().contains_key(label) || ours.iter().any(|our| our == label);
        let wanted: Vec<_> = POD_SECURITY.into_iter().filter(|(label, _)| is_free(label)).collect();
        let is_there =
            |label: &str, value: &str| live.labels().get(label).is_some_and(|there| there == value);
        let missing: Vec<&str> =
            wanted.iter().filter(|(label, value)| !is_there(label, value)).map(|(label, _)| *label).collect();
        if missing.is_empty() {
            record.settled();
        } else {
            let by = last_writer(&json_of(live));
            let (tampered, now) = (record.is_achieved(), Instant::now());
            if tampered && record.judge(now) == Verdict::Yield {
                let text = format!(
                    "{by} removes labels without which no speaker may run ({}) again and again; they are left alone \
                     until they are there or the spec changes: stop what removes them, or set them there",
                    missing.join(", ")
                );
                return Ok(Outcome::Contested(text));
            }
            let labels =
                wanted.iter().map(|(label, value)| ((*label).to_owned(), Value::from(*value))).collect();
            record.wrote(self.api.apply(key, &namespace_labels(&key.name, &labels), false).await?);
            if tampered {
                record.repaired(now);
                self.metrics.repaired(key.kind);
                self.deeds.push(Deed::Repaired(key.clone(), by));
            }
        }
        Ok(match live.labels().get(ENFORCE).map(String::as_str) {
            None | Some("privileged") => Outcome::AsRendered,
            Some(level) => Outcome::Foreign(format!(
                "enforces pod security level {level:?}, under which no speaker can run: \
                 kubectl label namespace {} {ENFORCE}=privileged --overwrite",
                key.name
            )),
        })
    }
}

/// What is applied to a namespace that is not ours.
pub(crate) fn namespace_labels(name: &str, labels: &Map<String, Value>) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

/// Labels of `live` that the operator applied.
pub(crate) fn owned_labels(live: &DynamicObject) -> Vec<String> {
    let entries = live.managed_fields().iter().filter(|entry| {
        entry.manager.as_deref() == Some(OPERATOR) && entry.operation.as_deref() == Some("Apply")
    });
    let labels =
        entries.filter_map(|entry| entry.fields_v1.as_ref()?.0["f:metadata"]["f:labels"].as_object());
    labels.flat_map(Map::keys).filter_map(|key| Some(key.strip_prefix("f:")?.to_owned())).collect()
}
