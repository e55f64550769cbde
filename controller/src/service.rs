//! Reads a Service, and plans the write that brings its status and annotation to the desired state.

use std::net::IpAddr;

use crds::annotations::{DEPRECATED_PREFIX, IP_ALLOCATED_FROM_POOL};
use crds::conditions::{NewCondition, merge, truncate_message};
use ipam::{Assignment, Refusal, RequestError};
use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::list;
use crate::reasons::{ConditionReason, ConditionType, EventReason};

/// Our conditions on Services: whether the Service has an address, and whether a machine uses its address.
/// The latter is present only while it is true.
const ADDRESS_ASSIGNED: &str = ConditionType::AddressAssigned.as_str();
const ADDRESS_CONFLICT: &str = ConditionType::AddressConflict.as_str();
const OURS: [&str; 2] = [ADDRESS_ASSIGNED, ADDRESS_CONFLICT];

/// A write of the status and annotation of one Service.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ServiceWrite {
    /// Merge patch of the status subresource.
    pub(crate) patch: Value,
    /// The addresses of the Service after the write.
    pub(crate) addresses: Vec<IpAddr>,
    /// The version of the Service that the write is made for.
    pub(crate) version: u64,
    /// The events to send after the write.
    pub(crate) events: Vec<NewEvent>,
    /// The state after the write.
    pub(crate) target: DesiredStatus,
    /// The parts of it that differ from the present state.
    changes: Changes,
}

/// The desired addresses, pool and conditions of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DesiredStatus {
    addresses: Vec<IpAddr>,
    pool: Option<String>,
    /// Type, status, reason and message of each condition.
    conditions: Vec<(&'static str, &'static str, &'static str, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Changes {
    addresses: bool,
    pool: bool,
    conditions: bool,
}

impl ServiceWrite {
    /// Whether the write only restores something of `last_written`.
    pub(crate) fn restores(&self, last_written: &DesiredStatus) -> bool {
        let Self { target, changes, .. } = self;
        (changes.addresses && target.addresses == last_written.addresses)
            || (changes.pool && target.pool == last_written.pool)
            || (changes.conditions && target.conditions == last_written.conditions)
    }
}

/// What the status of a Service is computed from, in addition to its assignment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StatusInputs {
    /// The machine that uses an assigned address: reason and message of the condition.
    pub(crate) conflict: Option<(ConditionReason, String)>,
    /// Message about another writer that repeatedly overwrites the status. Only conditions are written then.
    pub(crate) contested: Option<String>,
    /// Whether the addresses in the status are of no pool and not assigned by us. They stay while nothing is
    /// assigned.
    pub(crate) foreign: bool,
}

/// An event to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NewEvent {
    pub(crate) warning: bool,
    pub(crate) reason: EventReason,
    pub(crate) message: String,
    /// Whether to send it only if it is still true a moment later: a pool and its Services are often created
    /// together.
    pub(crate) delayed: bool,
}

/// The version of `service`, which increases with each write.
pub(crate) fn version(service: &Service) -> u64 {
    list::version(&service.metadata)
}

/// Whether this controller serves the Service: it has the right type and class, and is not being deleted.
pub(crate) fn is_ours(service: &Service, class: &str) -> bool {
    let Some(spec) = &service.spec else { return false };
    let of_class = match spec.load_balancer_class.as_deref() {
        None => class.is_empty(),
        Some(of) => !class.is_empty() && of == class,
    };
    spec.type_.as_deref() == Some("LoadBalancer") && of_class && service.metadata.deletion_timestamp.is_none()
}

/// Whether a Service that is no longer a load balancer still has an annotation or condition of ours.
///
/// A Service of another class belongs to another controller, whatever it has.
pub(crate) fn has_leftovers(service: &Service) -> bool {
    let load_balancer =
        service.spec.as_ref().is_some_and(|spec| spec.type_.as_deref() == Some("LoadBalancer"));
    let has_condition = || OURS.iter().any(|type_| stored_condition(service, type_).is_some());
    !load_balancer && (annotated_pool(service).is_some() || has_condition())
}

/// The pool in the annotation.
pub(crate) fn annotated_pool(service: &Service) -> Option<&str> {
    service.metadata.annotations.as_ref()?.get(IP_ALLOCATED_FROM_POOL).map(String::as_str)
}

/// The addresses in the status. Entries without an address are ignored.
pub(crate) fn stored_addresses(service: &Service) -> Vec<IpAddr> {
    ingress(service).iter().filter_map(|entry| entry.ip.as_deref()?.parse().ok()).collect()
}

/// Since when the Service waits for an address, if it does.
pub(crate) fn waiting_since(service: &Service) -> Option<Timestamp> {
    let condition =
        stored_condition(service, ADDRESS_ASSIGNED).filter(|condition| condition.status == "False")?;
    Some(condition.last_transition_time.0)
}

fn ingress(service: &Service) -> &[LoadBalancerIngress] {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    status.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default()
}

fn conditions(service: &Service) -> &[Condition] {
    service.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default()
}

fn stored_condition<'a>(service: &'a Service, type_: &str) -> Option<&'a Condition> {
    conditions(service).iter().find(|condition| condition.type_ == type_)
}

/// The write that brings `service` to `assignment`; `None` if no write is needed. Without an assignment
/// everything of ours is removed.
pub(crate) fn plan_write(
    service: &Service,
    assignment: Option<Assignment<'_>>,
    inputs: &StatusInputs,
    now: Timestamp,
) -> Option<ServiceWrite> {
    let addresses = assignment.map_or(&[][..], |assignment| assignment.addresses);
    let pool = assignment.and_then(|assignment| assignment.pool);
    let condition = assignment.map(|assignment| assigned_condition(service, assignment, inputs));
    let conflict = inputs.conflict.as_ref().map(|(reason, message)| NewCondition {
        type_: ADDRESS_CONFLICT,
        status: Some(true),
        reason: reason.as_str(),
        message: message.clone(),
    });

    let left_alone = inputs.contested.is_some() || (inputs.foreign && addresses.is_empty());
    let addresses_differ = !left_alone && stored_addresses(service) != addresses;
    let pool_differs = inputs.contested.is_none() && annotated_pool(service) != pool;
    // A Service that has what it asks for gets no condition, so that taking over from MetalLB writes nothing.
    let unneeded = condition.as_ref().is_some_and(|condition| condition.reason == ASSIGNED)
        && stored_condition(service, ADDRESS_ASSIGNED).is_none();
    let assigned_differs =
        !unneeded && condition_differs(stored_condition(service, ADDRESS_ASSIGNED), condition.as_ref());
    let conflict_differs = condition_differs(stored_condition(service, ADDRESS_CONFLICT), conflict.as_ref());
    if !(addresses_differ || pool_differs || assigned_differs || conflict_differs) {
        return None;
    }
    let mut status = json!({});
    if addresses_differ {
        status["loadBalancer"] = json!({ "ingress": ingress_entries(service, addresses) });
    }
    let old = conditions(service);
    let mut events = if inputs.contested.is_some() {
        Vec::new()
    } else {
        write_events(service, assignment, inputs, (assigned_differs, addresses_differ))
    };
    if conflict_differs {
        events.push(conflict_event(conflict.as_ref().map(|condition| condition.message.as_str())));
    }
    let new: Vec<NewCondition> = condition.into_iter().chain(conflict).collect();
    let mut merged = merge(old, &new, None, &Time(now));
    merged.retain(|condition| {
        !OURS.contains(&condition.type_.as_str()) || new.iter().any(|new| new.type_ == condition.type_)
    });
    if merged != old {
        status["conditions"] = json!(merged);
    }
    let mut metadata = json!({ "resourceVersion": service.metadata.resource_version });
    if pool_differs {
        metadata["annotations"] = json!({ IP_ALLOCATED_FROM_POOL: pool });
    }
    let conditions = new.into_iter().map(|new| (new.type_, new.status_text(), new.reason, new.message));
    Some(ServiceWrite {
        patch: json!({ "metadata": metadata, "status": status }),
        addresses: addresses.to_vec(),
        version: version(service),
        events,
        target: DesiredStatus {
            addresses: addresses.to_vec(),
            pool: pool.map(str::to_owned),
            conditions: conditions.collect(),
        },
        changes: Changes {
            addresses: addresses_differ,
            pool: pool_differs,
            conditions: assigned_differs || conflict_differs,
        },
    })
}

/// Whether the stored condition differs from the desired one.
fn condition_differs(old: Option<&Condition>, new: Option<&NewCondition>) -> bool {
    let stored = old.map(|old| (old.status.as_str(), old.reason.as_str(), old.message.clone()));
    stored != new.map(|new| (new.status_text(), new.reason, truncate_message(new.message.clone())))
}

/// Ingress entries for `addresses`. Present entries stay as they are, including `ipMode`.
fn ingress_entries(service: &Service, addresses: &[IpAddr]) -> Option<Vec<LoadBalancerIngress>> {
    let entry = |ip: &IpAddr| {
        let old = ingress(service)
            .iter()
            .find(|entry| entry.ip.as_deref().and_then(|text| text.parse::<IpAddr>().ok()) == Some(*ip));
        old.cloned().unwrap_or_else(|| LoadBalancerIngress { ip: Some(ip.to_string()), ..Default::default() })
    };
    (!addresses.is_empty()).then(|| addresses.iter().map(entry).collect())
}

const ASSIGNED: &str = ConditionReason::Assigned.as_str();

fn assigned_condition(service: &Service, assignment: Assignment<'_>, inputs: &StatusInputs) -> NewCondition {
    let has = join(assignment.addresses);
    if let Some(contested) = &inputs.contested {
        let message =
            if has.is_empty() { contested.clone() } else { format!("{has} is assigned, but {contested}") };
        let reason = ConditionReason::StatusContested.as_str();
        return NewCondition { type_: ADDRESS_ASSIGNED, status: Some(false), reason, message };
    }
    let (reason, mut message) = match (assignment.refusal, assignment.pool) {
        (Some(refusal), _) if has.is_empty() => (refusal.reason().as_str(), refusal.to_string()),
        (Some(refusal), _) => (refusal.reason().as_str(), format!("has {has}; {refusal}")),
        (None, Some(pool)) => (ASSIGNED, format!("{has} from pool {pool}")),
        (None, None) => (ASSIGNED, has.clone()),
    };
    message.push_str(&foreign_entry_hint(service, assignment, inputs.foreign).unwrap_or_default());
    NewCondition { type_: ADDRESS_ASSIGNED, status: Some(!has.is_empty()), reason, message }
}

/// Addition to the message of a Service without assignment whose status has an entry of another load
/// balancer.
fn foreign_entry_hint(service: &Service, assignment: Assignment<'_>, foreign: bool) -> Option<String> {
    (foreign && assignment.addresses.is_empty()).then(|| {
        format!(
            "; {} in its status is in no IPAddressPool and stays: if another load balancer serves this \
             Service, separate them by spec.loadBalancerClass",
            join(&stored_addresses(service))
        )
    })
}

fn join(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The events of a write, with the reasons that MetalLB uses.
fn write_events(
    service: &Service,
    assignment: Option<Assignment<'_>>,
    inputs: &StatusInputs,
    (assigned_differs, addresses_differ): (bool, bool),
) -> Vec<NewEvent> {
    let before = if addresses_differ { stored_addresses(service) } else { Vec::new() };
    let after = assignment.map_or(&[][..], |assignment| assignment.addresses);
    let gained: Vec<IpAddr> =
        after.iter().copied().filter(|ip| addresses_differ && !before.contains(ip)).collect();
    let lost: Vec<IpAddr> = before.iter().copied().filter(|ip| !after.contains(ip)).collect();
    let mut events = Vec::new();
    if !lost.is_empty() {
        let why = match assignment {
            None => "lbstack no longer serves the Service",
            Some(_) if after.is_empty() => "the Service may no longer have the address",
            Some(_) => "replaced by a new assignment",
        };
        events.push(normal(EventReason::ClearAssignment, format!("{} withdrawn: {why}", join(&lost))));
    }
    if !gained.is_empty() {
        let pool = assignment.and_then(|assignment| assignment.pool).unwrap_or_default();
        events.push(normal(EventReason::IpAllocated, format!("Assigned {} from pool {pool}", join(&gained))));
    }
    events.extend(
        assignment
            .filter(|_| assigned_differs)
            .and_then(|assignment| refusal_event(service, assignment, inputs.foreign)),
    );
    if !(gained.is_empty() && lost.is_empty()) {
        events.extend(deprecated_annotation_events(service));
    }
    events
}

/// The event to repeat for a Service that waits.
pub(crate) fn repeated_warning(
    service: &Service,
    assignment: Assignment<'_>,
    foreign: bool,
) -> Option<NewEvent> {
    assignment.refusal.filter(|refusal| !matches!(refusal, Refusal::MissingFamily { .. }))?;
    refusal_event(service, assignment, foreign)
}

/// The event about the refusal of a Service, if it has one.
fn refusal_event(service: &Service, assignment: Assignment<'_>, foreign: bool) -> Option<NewEvent> {
    let (refusal, pending) = (assignment.refusal?, assignment.addresses.is_empty());
    let message = refusal.to_string() + &foreign_entry_hint(service, assignment, foreign).unwrap_or_default();
    let event = match refusal {
        Refusal::MissingFamily { .. } => normal(EventReason::AdditionalAssignFailed, message),
        Refusal::Request(RequestError::NotEnoughClusterIps) => {
            warning(EventReason::NotEnoughClusterIps, message)
        }
        Refusal::Request(RequestError::NoClusterIp) => warning(EventReason::NoClusterIp, message),
        _ if pending => warning(EventReason::AllocationFailed, message),
        _ => warning(EventReason::LoadBalancerFailed, message),
    };
    Some(NewEvent { delayed: refusal.is_missing_pool(), ..event })
}

/// The event about another writer that repeatedly overwrites a status.
pub(crate) fn contested_event(contested: &str) -> NewEvent {
    warning(EventReason::StatusContested, contested.to_owned())
}

/// The event about a machine that uses an address, or that it no longer does.
pub(crate) fn conflict_event(conflict: Option<&str>) -> NewEvent {
    match conflict {
        Some(message) => warning(EventReason::AddressConflict, message.to_owned()),
        None => {
            normal(EventReason::AddressConflictEnded, "no other machine uses the address any more".to_owned())
        }
    }
}

fn deprecated_annotation_events(service: &Service) -> impl Iterator<Item = NewEvent> + '_ {
    let keys = service.metadata.annotations.iter().flatten().map(|(key, _)| key);
    keys.filter_map(|key| key.strip_prefix(DEPRECATED_PREFIX)).map(|name| {
        let message = format!("{DEPRECATED_PREFIX}{name} is deprecated: use metallb.io/{name}");
        warning(EventReason::DeprecatedAnnotation, message)
    })
}

fn normal(reason: EventReason, message: String) -> NewEvent {
    NewEvent { warning: false, reason, message, delayed: false }
}

fn warning(reason: EventReason, message: String) -> NewEvent {
    NewEvent { warning: true, reason, message, delayed: false }
}

#[cfg(test)]
mod tests;
