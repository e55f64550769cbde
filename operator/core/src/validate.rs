//! Validates a `LoadBalancerStack` and returns a [`ValidatedStack`], which can be rendered.
//!
//! The schema of the CustomResourceDefinition has checked most fields already. This module checks what a
//! schema cannot express, and what an older definition in the cluster may have admitted.

use std::collections::{BTreeMap, BTreeSet};

use crds::names::{ANNOTATION_ACCOUNT, CONTROLLER, SPEAKER};
use crds::{
    ControllerSettings, LoadBalancerStack, LoadBalancerStackSpec, PodSettings, Resource, ResourceExt,
    SpeakerSettings,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use self::legacy::Sources;
use self::spec::SpecErrors;
use crate::finding::SpecFinding;
use crate::meta::StackMeta;
use crate::object::{Key, Object};
use crate::stack::{BeaconKey, ValidatedStack};

pub mod legacy;
mod pools;
mod spec;
mod syntax;

/// Everything beside the spec that rendering depends on: what the spec refers to, and the state of the
/// cluster.
#[derive(Clone, Debug)]
pub struct RenderInputs {
    /// The image to use where the spec names none (`RELATED_IMAGE_LBSTACK`).
    pub default_image: Option<String>,
    /// The key of the speakers: the one in use, or a new one.
    pub beacon_key: BeaconKey,
    /// The number of nodes that run, or should run, a speaker; 0 while unknown.
    pub nodes: i32,
    /// The configuration of older versions of MetalLB.
    pub legacy: Sources,
    /// Service accounts that were recreated after the workload that uses them: the UID by the component's
    /// name. Tokens are bound to the UID of the account, so the pods have to be recreated.
    pub recreated_accounts: BTreeMap<&'static str, String>,
}

/// Validates `stack`. An invalid inline pool is rejected and the rest is rendered; any other error
/// invalidates the whole spec.
///
/// # Errors
///
/// All errors that invalidate the whole spec.
pub fn validate(stack: &LoadBalancerStack, inputs: RenderInputs) -> Result<ValidatedStack, Vec<SpecFinding>> {
    let image = stack.spec.image.clone().or(inputs.default_image);
    let errors = SpecErrors::check(&stack.spec, image.as_ref());
    let (Some(image), true) = (image, errors.0.is_empty()) else { return Err(errors.0) };
    let LoadBalancerStackSpec {
        namespace,
        address_pools,
        // The ConfigMap that it names has been read already: `inputs.legacy`.
        legacy_config_map: _,
        // Replaced by the default if there is none.
        image: _,
        image_pull_policy,
        load_balancer_class,
        log_level,
        controller,
        speaker,
    } = stack.spec.clone();
    let meta = StackMeta { namespace, owner: owner(stack) };
    let pools = pools::validate(&meta.namespace, address_pools);
    let inline = pools::objects(&meta, &pools.valid);
    let inline_keys: BTreeSet<Key> = inline.iter().map(Object::key).collect();
    let import = legacy::import(&inputs.legacy, &meta, &inline, &pools.rejected);
    let conflicting = inline_keys.into_iter().filter(|key| pools.conflicting.contains(&key.name));
    Ok(ValidatedStack {
        meta,
        image,
        image_pull_policy,
        load_balancer_class,
        log_level,
        controller: ControllerSettings {
            pod: with_account(controller.pod, inputs.recreated_accounts.get(CONTROLLER)),
            ..controller
        },
        speaker: SpeakerSettings {
            pod: with_account(speaker.pod, inputs.recreated_accounts.get(SPEAKER)),
            ..speaker
        },
        beacon_key: inputs.beacon_key,
        nodes: inputs.nodes,
        configuration: inline.into_iter().chain(import.objects).collect(),
        degraded: import.degraded || !pools.rejected.is_empty(),
        rejected: pools.rejected,
        retained_sources: import.retained,
        frozen: import.frozen.into_iter().chain(conflicting).collect(),
        warnings: pools.findings.into_iter().chain(import.findings).collect(),
    })
}

/// Adds the account's UID to the pod template if the account was recreated, which causes a rollout.
fn with_account(mut pod: PodSettings, recreated: Option<&String>) -> PodSettings {
    pod.annotations.extend(recreated.map(|uid| (ANNOTATION_ACCOUNT.to_owned(), uid.clone())));
    pod
}

/// The stack as owner, so that garbage collection deletes its objects even when the operator is gone. (The
/// namespace has no owner.)
fn owner(stack: &LoadBalancerStack) -> OwnerReference {
    OwnerReference {
        api_version: LoadBalancerStack::api_version(&()).into_owned(),
        kind: LoadBalancerStack::kind(&()).into_owned(),
        name: stack.name_any(),
        uid: stack.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: None,
    }
}

#[cfg(test)]
mod tests;
