//! Validates a `LoadBalancerStack` and returns a [`ValidatedStack`], which can be rendered.
//!
//! The schema of the CustomResourceDefinition has checked most fields already. This module checks what a
//! schema cannot express, and what an older definition in the cluster may have admitted.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use crds::names::{
    ANNOTATION_ACCOUNT, CONTROLLER, LABEL_APP, LABEL_COMPONENT, LABEL_MANAGED_BY, LABEL_PART_OF, SPEAKER,
};
use crds::{
    AddressPool, ControllerSettings, ImagePullPolicy, LoadBalancerStack, LoadBalancerStackSpec, LogLevel,
    PodSettings, Resource, ResourceExt, SpeakerSettings,
};
use k8s_openapi::ByteString;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use crate::legacy::{self, Imported, Sources};
use crate::{Key, Object, pools, syntax};

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

/// The key with which speakers sign their beacons.
#[derive(Clone, PartialEq, Eq)]
pub struct BeaconKey(Vec<u8>);

impl BeaconKey {
    /// A new key. `random` must come from a cryptographically secure generator.
    pub fn new(random: [u8; 32]) -> Self {
        Self(random.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect())
    }

    /// The key stored in a Secret; none if it is too short.
    pub fn stored(bytes: &[u8]) -> Option<Self> {
        (bytes.len() >= 16).then(|| Self(bytes.to_vec()))
    }

    pub(crate) fn bytes(&self) -> ByteString {
        ByteString(self.0.clone())
    }
}

/// Hides the key: it must not appear in logs.
impl fmt::Debug for BeaconKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BeaconKey(…)")
    }
}

/// An error or warning about a field of the stack or of imported configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecFinding {
    /// The field, for example `spec.controller.labels[app]`.
    pub field: String,
    /// The value of the field.
    pub value: String,
    /// What is wrong.
    pub problem: String,
    /// How to fix it.
    pub hint: String,
}

impl fmt::Display for SpecFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, value, problem, hint } = self;
        let value = if value.is_empty() { String::new() } else { format!(" {value:?}") };
        write!(f, "{field}{value}: {problem}; {hint}")
    }
}

/// A stack that can be rendered.
#[derive(Clone, Debug)]
pub struct ValidatedStack {
    pub(crate) namespace: String,
    pub(crate) owner: OwnerReference,
    pub(crate) image: String,
    pub(crate) image_pull_policy: Option<ImagePullPolicy>,
    pub(crate) load_balancer_class: String,
    pub(crate) log_level: LogLevel,
    pub(crate) controller: ControllerSettings,
    pub(crate) speaker: SpeakerSettings,
    pub(crate) pools: Vec<AddressPool>,
    pub(crate) beacon_key: BeaconKey,
    pub(crate) nodes: i32,
    pub(crate) imported: Imported,
    rejected: Vec<String>,
    frozen: BTreeSet<Key>,
    warnings: Vec<SpecFinding>,
}

impl ValidatedStack {
    /// Whether an existing object that is not rendered is kept: either it was imported from a source that has
    /// an error now; or it belongs to an inline pool while some inline pool is rejected, which may be the
    /// same pool under a new name.
    pub fn retains(&self, key: &Key, imported_from: Option<&str>) -> bool {
        let unread = imported_from.is_some_and(|source| self.imported.retained.contains(&source));
        let renamed = imported_from.is_none() && key.kind.is_pool_object() && !self.rejected.is_empty();
        unread || renamed
    }

    /// Whether an object has the name of a rejected inline pool.
    pub(crate) fn rejects(&self, key: &Key) -> bool {
        key.kind.is_pool_object() && self.rejected.contains(&key.name)
    }

    /// Whether a rendered object, if it exists, is left unchanged because its source has an error: the object
    /// in the cluster is the last valid configuration.
    pub fn is_frozen(&self, key: &Key) -> bool {
        self.frozen.contains(key)
    }

    /// Findings that do not invalidate the whole spec: errors in inline pools and imported configuration, and
    /// warnings.
    pub fn warnings(&self) -> &[SpecFinding] {
        &self.warnings
    }

    /// Whether any configuration is left out because of an error.
    pub fn is_degraded(&self) -> bool {
        !self.rejected.is_empty() || self.imported.degraded
    }
}

/// Validates `stack`. An invalid inline pool is rejected and the rest is rendered; any other error
/// invalidates the whole spec.
///
/// # Errors
///
/// All errors that invalidate the whole spec.
pub fn validate(stack: &LoadBalancerStack, inputs: RenderInputs) -> Result<ValidatedStack, Vec<SpecFinding>> {
    let LoadBalancerStackSpec {
        namespace,
        address_pools,
        // The ConfigMap that it names has been read already: `inputs.legacy`.
        legacy_config_map: _,
        image,
        image_pull_policy,
        load_balancer_class,
        log_level,
        controller,
        speaker,
    } = stack.spec.clone();
    let mut errors = SpecErrors::default();
    let image = image.or(inputs.default_image);
    if image.is_none() {
        errors.add(
            "spec.image",
            "",
            "the operator was started without an image to use by default",
            "set spec.image, or RELATED_IMAGE_LBSTACK in the operator's Deployment",
        );
    }
    if !syntax::is_dns_label(&namespace) {
        errors.add(
            "spec.namespace",
            &namespace,
            "is not a valid namespace name",
            "use at most 63 lowercase letters, digits and hyphens",
        );
    }
    if !load_balancer_class.is_empty() && !syntax::is_qualified_name(&load_balancer_class) {
        errors.add(
            "spec.loadBalancerClass",
            &load_balancer_class,
            "is not a valid load balancer class",
            "use the syntax of a label key, for example example.com/internal",
        );
    }
    if controller.replicas < 1 {
        errors.add(
            "spec.controller.replicas",
            &controller.replicas.to_string(),
            "no controller would run, and no Service would get an address",
            "set it to 1 or more",
        );
    }
    errors.check_pod("spec.controller", &controller.pod);
    errors.check_pod("spec.speaker", &speaker.pod);
    errors.check_interfaces(&speaker.exclude_interfaces);
    let (Some(image), true) = (image, errors.0.is_empty()) else { return Err(errors.0) };
    let validated_pools = pools::validate(&namespace, address_pools);
    let imported = legacy::import(&inputs.legacy, &namespace);
    let mut validated = ValidatedStack {
        owner: owner(stack),
        namespace,
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
        pools: validated_pools.valid,
        rejected: validated_pools.rejected,
        frozen: BTreeSet::new(),
        imported,
        warnings: validated_pools.findings,
        beacon_key: inputs.beacon_key,
        nodes: inputs.nodes,
    };
    let inline = pools::objects(&validated);
    let (imported, shadowed) = legacy::objects(&validated, inline.iter().map(Object::key).collect());
    validated.imported.validate(&inline, &imported);
    let conflicting =
        inline.iter().map(Object::key).filter(|key| validated_pools.conflicting.contains(&key.name));
    validated.frozen = validated.imported.frozen.iter().cloned().chain(conflicting).collect();
    validated.warnings.extend(validated.imported.findings.clone());
    validated.warnings.extend(shadowed.iter().map(legacy::shadowed));
    Ok(validated)
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

#[derive(Default)]
struct SpecErrors(Vec<SpecFinding>);

impl SpecErrors {
    fn add(&mut self, field: impl Into<String>, value: &str, problem: &str, hint: &str) {
        let (value, problem, hint) = (value.to_owned(), problem.to_owned(), hint.to_owned());
        self.0.push(SpecFinding { field: field.into(), value, problem, hint });
    }

    fn check_pod(&mut self, at: &str, settings: &PodSettings) {
        const RESERVED: [&str; 4] = [LABEL_APP, LABEL_COMPONENT, LABEL_MANAGED_BY, LABEL_PART_OF];
        self.check_labels(&format!("{at}.labels"), &settings.labels);
        self.check_labels(&format!("{at}.nodeSelector"), &settings.node_selector);
        for key in settings.labels.keys().filter(|key| RESERVED.contains(&key.as_str())) {
            self.add(
                format!("{at}.labels"),
                key,
                "is a label that selects the pods of the stack",
                "remove it, or use another key",
            );
        }
        for key in settings.annotations.keys().filter(|key| !syntax::is_qualified_name(key)) {
            self.add(
                format!("{at}.annotations"),
                key,
                "is not a valid annotation key",
                "use [prefix/]name with at most 63 letters, digits, '-', '_' and '.' in the name",
            );
        }
        if let Some(resources) = &settings.resources {
            let quantities = [("requests", &resources.requests), ("limits", &resources.limits)];
            for (list, quantity) in quantities.iter().flat_map(|(list, map)| {
                map.iter().flat_map(BTreeMap::values).map(move |quantity| (list, quantity))
            }) {
                if crate::quantity::parse(&quantity.0).is_none() {
                    self.add(
                        format!("{at}.resources.{list}"),
                        &quantity.0,
                        "is not a valid quantity",
                        "use a quantity such as 100m, 0.5, 64Mi or 1G",
                    );
                }
            }
        }
    }

    /// The speaker gets the list as a single, comma-separated argument.
    fn check_interfaces(&mut self, expressions: &[String]) {
        for (index, expression) in expressions.iter().enumerate() {
            let at = format!("spec.speaker.excludeInterfaces[{index}]");
            if let Err(error) = regex::Regex::new(expression) {
                let problem = error.to_string().replace('\n', " ");
                self.add(at, expression, &problem, "write a regular expression, for example ^veth.*");
            } else if expression.contains(',') {
                self.add(at, expression, "contains a comma", "write each expression as an entry of its own");
            }
        }
    }

    fn check_labels(&mut self, at: &str, labels: &BTreeMap<String, String>) {
        for (key, value) in labels {
            if !syntax::is_qualified_name(key) {
                self.add(
                    at,
                    key,
                    "is not a valid label key",
                    "use [prefix/]name with at most 63 letters, digits, '-', '_' and '.' in the name",
                );
            }
            if !syntax::is_label_value(value) {
                self.add(
                    format!("{at}[{key}]"),
                    value,
                    "is not a valid label value",
                    "use at most 63 letters, digits, '-', '_' and '.'",
                );
            }
        }
    }
}

/// Converts a `finding` of the rules about an inline pool into one about the field of the stack.
pub(crate) fn from_finding(index: usize, finding: &rules::Finding) -> SpecFinding {
    let field = finding.field.strip_prefix("spec.").unwrap_or(&finding.field);
    SpecFinding {
        field: format!("spec.addressPools[{index}].{field}"),
        value: finding.value.clone(),
        problem: finding.problem.clone(),
        hint: finding.hint.clone(),
    }
}

/// Wraps each object in an `Arc`, as the rules expect.
pub(crate) fn shared<T>(objects: impl IntoIterator<Item = T>) -> Vec<Arc<T>> {
    objects.into_iter().map(Arc::new).collect()
}

#[cfg(test)]
mod tests;
