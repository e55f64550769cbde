//! A namespace of the stack that somebody else created: the operator only adds the pod security labels that
//! speakers need, where they are missing.

use crds::names::OPERATOR;
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use render::ownership::last_writer;
use render::status::Outcome;
use render::{Key, POD_SECURITY};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::api::{Api, ApiError, json_of};
use crate::object_state::{Decision, ObjectState};

const ENFORCE: &str = "pod-security.kubernetes.io/enforce";

/// Adds the labels that `live` lacks, unless somebody keeps removing them. Returns the outcome and, if the
/// labels were added again, who had removed them.
pub(crate) async fn label_namespace(
    api: &Api,
    key: &Key,
    state: &mut ObjectState,
    live: &DynamicObject,
) -> Result<(Outcome, Option<String>), ApiError> {
    let ours = owned_labels(live);
    let may_apply = |label: &str| !live.labels().contains_key(label) || ours.iter().any(|our| our == label);
    let desired: Vec<_> = POD_SECURITY.into_iter().filter(|(label, _)| may_apply(label)).collect();
    let is_applied =
        |label: &str, value: &str| live.labels().get(label).is_some_and(|current| current == value);
    let missing: Vec<&str> =
        desired.iter().filter(|(label, value)| !is_applied(label, value)).map(|(label, _)| *label).collect();
    let mut repaired = None;
    if missing.is_empty() {
        state.on_in_sync();
    } else {
        let by = last_writer(&json_of(live));
        let (was_in_sync, now) = (state.was_in_sync(), Instant::now());
        if was_in_sync && state.decide_repair(now) == Decision::GiveUp {
            let text = format!(
                "{by} keeps removing labels that speakers need ({}); they are not added again until they are \
                 set or the spec changes: stop the other writer, or let it set the labels",
                missing.join(", ")
            );
            return Ok((Outcome::Contested(text), None));
        }
        let labels =
            desired.iter().map(|(label, value)| ((*label).to_owned(), Value::from(*value))).collect();
        state.on_written(api.apply(key, &namespace_labels(&key.name, &labels), false).await?);
        if was_in_sync {
            state.on_repaired(now);
            repaired = Some(by);
        }
    }
    let outcome = match live.labels().get(ENFORCE).map(String::as_str) {
        None | Some("privileged") => Outcome::AsRendered,
        Some(level) => Outcome::Foreign(format!(
            "enforces pod security level {level:?}, which forbids speakers to run: \
             kubectl label namespace {} {ENFORCE}=privileged --overwrite",
            key.name
        )),
    };
    Ok((outcome, repaired))
}

/// The body to apply to a namespace that the operator does not own.
pub(crate) fn namespace_labels(name: &str, labels: &Map<String, Value>) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

/// The labels of `live` that the operator applied.
pub(crate) fn owned_labels(live: &DynamicObject) -> Vec<String> {
    let entries = live.managed_fields().iter().filter(|entry| {
        entry.manager.as_deref() == Some(OPERATOR) && entry.operation.as_deref() == Some("Apply")
    });
    let labels =
        entries.filter_map(|entry| entry.fields_v1.as_ref()?.0["f:metadata"]["f:labels"].as_object());
    labels.flat_map(Map::keys).filter_map(|key| Some(key.strip_prefix("f:")?.to_owned())).collect()
}
