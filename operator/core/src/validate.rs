//! From the resource as a user wrote it to a [`ValidatedStack`] that can be rendered without a doubt left.
//!
//! The schema has checked most already. What is checked here is what a schema cannot say, and what an older
//! definition in the cluster may have let through.

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
use crate::{Key, Object, names, pools};

/// What the spec points at, and what only the cluster can tell.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The image to use where the spec names none (`RELATED_IMAGE_LBSTACK`).
    pub default_image: Option<String>,
    /// The key of the speakers: the one in use, or a new one.
    pub beacon_key: BeaconKey,
    /// Nodes that run, or shall run, a speaker; 0 while that is not known.
    pub nodes: i32,
    /// Configuration of older versions of MetalLB.
    pub legacy: Sources,
    /// Accounts that are younger than the workload that uses them: the UID by the component's name. The tokens
    /// in pods are bound to the UID of the account that was, so these pods have to be made anew.
    pub renewed_accounts: BTreeMap<&'static str, String>,
}

/// The key with which speakers sign what they tell each other.
#[derive(Clone, PartialEq, Eq)]
pub struct BeaconKey(Vec<u8>);

impl BeaconKey {
    /// A new key. `random` must come from the system's generator.
    pub fn new(random: [u8; 32]) -> Self {
        Self(random.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect())
    }

    /// The key that a Secret holds; none if it is too short to be one.
    pub fn stored(bytes: &[u8]) -> Option<Self> {
        (bytes.len() >= 16).then(|| Self(bytes.to_vec()))
    }

    pub(crate) fn bytes(&self) -> ByteString {
        ByteString(self.0.clone())
    }
}

/// Shows nothing: keys do not belong into logs.
impl fmt::Debug for BeaconKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BeaconKey(…)")
    }
}

/// Something in the spec that cannot work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where, as `spec.controller.labels[app]`.
    pub field: String,
    /// What is there.
    pub value: String,
    /// What is wrong with it.
    pub problem: String,
    /// What would be right, or what to do.
    pub remedy: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, value, problem, remedy } = self;
        let value = if value.is_empty() { String::new() } else { format!(" {value:?}") };
        write!(f, "{field}{value}: {problem}; {remedy}")
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
    withheld: Vec<String>,
    frozen: BTreeSet<Key>,
    doubts: Vec<Fault>,
}

impl ValidatedStack {
    /// Whether an object that is not rendered stays all the same: it is a pool's, and an inline pool is left out because
    /// something is wrong with it, which may be the same one under another name; or it was imported from something that
    /// has an error now.
    pub fn keeps(&self, key: &Key, imported_from: Option<&str>) -> bool {
        let unread = imported_from.is_some_and(|source| self.imported.stays.contains(&source));
        let renamed = imported_from.is_none() && key.kind.is_of_pool() && !self.withheld.is_empty();
        unread || renamed
    }

    /// Whether an object is an inline pool's that is left out because something is wrong with it.
    pub(crate) fn withholds(&self, key: &Key) -> bool {
        key.kind.is_of_pool() && self.withheld.contains(&key.name)
    }

    /// Whether a rendered object that exists stays as it is: there is an error in what it is made of, and what is in the
    /// cluster is the last valid configuration.
    pub fn is_frozen(&self, key: &Key) -> bool {
        self.frozen.contains(key)
    }

    /// What is wrong with inline pools and imported configuration, warnings included.
    pub fn doubts(&self) -> &[Fault] {
        &self.doubts
    }

    /// Whether something is left out for it.
    pub fn is_spoiled(&self) -> bool {
        !self.withheld.is_empty() || self.imported.spoiled
    }
}

/// Judges `stack`. One bad inline pool is withheld, the rest works; any other fault spoils the whole.
///
/// # Errors
///
/// All faults that spoil the whole.
pub fn validate(stack: &LoadBalancerStack, facts: Facts) -> Result<ValidatedStack, Vec<Fault>> {
    let LoadBalancerStackSpec {
        namespace,
        address_pools,
        // What it names was read by whoever gathered the facts.
        legacy_config_map: _,
        image,
        image_pull_policy,
        load_balancer_class,
        log_level,
        controller,
        speaker,
    } = stack.spec.clone();
    let mut faults = Faults::default();
    let image = image.or(facts.default_image);
    if image.is_none() {
        faults.add(
            "spec.image",
            "",
            "the operator was started without an image to use by default",
            "set spec.image, or RELATED_IMAGE_LBSTACK in the operator's Deployment",
        );
    }
    if !names::is_dns_label(&namespace) {
        faults.add(
            "spec.namespace",
            &namespace,
            "is no name of a namespace",
            "use at most 63 lowercase letters, digits and hyphens",
        );
    }
    if !load_balancer_class.is_empty() && !names::is_qualified_name(&load_balancer_class) {
        faults.add(
            "spec.loadBalancerClass",
            &load_balancer_class,
            "is no name of a class",
            "write it like a label's key, as in example.com/internal",
        );
    }
    if controller.replicas < 1 {
        faults.add(
            "spec.controller.replicas",
            &controller.replicas.to_string(),
            "no controller would run, and no Service would get an address",
            "set it to 1 or more",
        );
    }
    faults.pod("spec.controller", &controller.pod);
    faults.pod("spec.speaker", &speaker.pod);
    faults.interfaces(&speaker.exclude_interfaces);
    let (Some(image), true) = (image, faults.0.is_empty()) else { return Err(faults.0) };
    let judged = pools::judge(&namespace, address_pools);
    let imported = legacy::import(&facts.legacy, &namespace);
    let mut validated = ValidatedStack {
        owner: owner(stack),
        namespace,
        image,
        image_pull_policy,
        load_balancer_class,
        log_level,
        controller: ControllerSettings {
            pod: with_account(controller.pod, facts.renewed_accounts.get(CONTROLLER)),
            ..controller
        },
        speaker: SpeakerSettings {
            pod: with_account(speaker.pod, facts.renewed_accounts.get(SPEAKER)),
            ..speaker
        },
        pools: judged.sound,
        withheld: judged.withheld,
        frozen: BTreeSet::new(),
        imported,
        doubts: judged.faults,
        beacon_key: facts.beacon_key,
        nodes: facts.nodes,
    };
    let inline = pools::objects(&validated);
    let (imported, shadowed) = legacy::objects(&validated, inline.iter().map(Object::key).collect());
    validated.imported.validate(&inline, &imported);
    let disputed = inline.iter().map(Object::key).filter(|key| judged.disputed.contains(&key.name));
    validated.frozen = validated.imported.frozen.iter().cloned().chain(disputed).collect();
    validated.doubts.extend(validated.imported.faults.clone());
    validated.doubts.extend(shadowed.iter().map(legacy::shadowed));
    Ok(validated)
}

/// The account's UID in the pods' template rolls them when the account was made anew.
fn with_account(mut pod: PodSettings, renewed: Option<&String>) -> PodSettings {
    pod.annotations.extend(renewed.map(|uid| (ANNOTATION_ACCOUNT.to_owned(), uid.clone())));
    pod
}

/// Garbage collection takes the stack's objects even when the operator is gone. (The namespace is never owned.)
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
struct Faults(Vec<Fault>);

impl Faults {
    fn add(&mut self, field: impl Into<String>, value: &str, problem: &str, remedy: &str) {
        let (value, problem, remedy) = (value.to_owned(), problem.to_owned(), remedy.to_owned());
        self.0.push(Fault { field: field.into(), value, problem, remedy });
    }

    fn pod(&mut self, at: &str, settings: &PodSettings) {
        const RESERVED: [&str; 4] = [LABEL_APP, LABEL_COMPONENT, LABEL_MANAGED_BY, LABEL_PART_OF];
        self.labels(&format!("{at}.labels"), &settings.labels);
        self.labels(&format!("{at}.nodeSelector"), &settings.node_selector);
        for key in settings.labels.keys().filter(|key| RESERVED.contains(&key.as_str())) {
            self.add(
                format!("{at}.labels"),
                key,
                "is a label by which the stack finds its own pods",
                "leave it out, or use another key",
            );
        }
        for key in settings.annotations.keys().filter(|key| !names::is_qualified_name(key)) {
            self.add(
                format!("{at}.annotations"),
                key,
                "is no key of an annotation",
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
                        "is no quantity",
                        "write it like 100m, 0.5, 64Mi or 1G",
                    );
                }
            }
        }
    }

    /// The list reaches the speaker as one argument.
    fn interfaces(&mut self, expressions: &[String]) {
        for (index, expression) in expressions.iter().enumerate() {
            let at = format!("spec.speaker.excludeInterfaces[{index}]");
            if let Err(error) = regex::Regex::new(expression) {
                let problem = error.to_string().replace('\n', " ");
                self.add(at, expression, &problem, "write a regular expression, as ^veth.*");
            } else if expression.contains(',') {
                self.add(at, expression, "has a comma", "give each expression its own entry");
            }
        }
    }

    fn labels(&mut self, at: &str, labels: &BTreeMap<String, String>) {
        for (key, value) in labels {
            if !names::is_qualified_name(key) {
                self.add(
                    at,
                    key,
                    "is no key of a label",
                    "use [prefix/]name with at most 63 letters, digits, '-', '_' and '.' in the name",
                );
            }
            if !names::is_label_value(value) {
                self.add(
                    format!("{at}[{key}]"),
                    value,
                    "is no value of a label",
                    "use at most 63 letters, digits, '-', '_' and '.'",
                );
            }
        }
    }
}

/// What the judge has to say about `finding`s of inline pools, told in terms of the stack's own fields.
pub(crate) fn from_finding(index: usize, finding: &rules::Finding) -> Fault {
    let field = finding.field.strip_prefix("spec.").unwrap_or(&finding.field);
    Fault {
        field: format!("spec.addressPools[{index}].{field}"),
        value: finding.value.clone(),
        problem: finding.problem.clone(),
        remedy: finding.hint.clone(),
    }
}

/// Shared, as the judge takes them.
pub(crate) fn shared<T>(objects: impl IntoIterator<Item = T>) -> Vec<Arc<T>> {
    objects.into_iter().map(Arc::new).collect()
}

#[cfg(test)]
mod tests;
