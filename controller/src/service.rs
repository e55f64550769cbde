//! Reading a Service, and planning the one write that brings its status to what it shall be.

use std::net::IpAddr;

use crds::annotations::{DEPRECATED_PREFIX, IP_ALLOCATED_FROM_POOL};
use crds::conditions::{NewCondition, merge, truncate_message};
use ipam::{Outcome, Refusal, RequestFault};
use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::list;

/// Our conditions on Services: whether it has what it asks for, and whether a stranger uses what it has. The latter is
/// there only while that is so.
const ADDRESS_ASSIGNED: &str = "lbstack.dev/AddressAssigned";
const ADDRESS_CONFLICT: &str = "lbstack.dev/AddressConflict";
const OURS: [&str; 2] = [ADDRESS_ASSIGNED, ADDRESS_CONFLICT];

/// A write of one Service's status.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan {
    /// Merge patch of the status subresource.
    pub(crate) patch: Value,
    /// The addresses that the Service has after it.
    pub(crate) addresses: Vec<IpAddr>,
    /// The version of the Service that it is made for.
    pub(crate) version: u64,
    /// What to tell about it once it is done.
    pub(crate) notes: Vec<Note>,
    /// What it brings about.
    pub(crate) target: Target,
    /// Which of that is not so yet.
    lacks: Lacks,
}

/// What a Service's status and annotation say of its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    addresses: Vec<IpAddr>,
    pool: Option<String>,
    /// Type, status, reason and message of each condition.
    said: Vec<(&'static str, &'static str, &'static str, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lacks {
    addresses: bool,
    pool: bool,
    conditions: bool,
}

impl Plan {
    /// Whether it restores something that an earlier write `established`.
    pub(crate) fn restores(&self, established: &Target) -> bool {
        let Self { target, lacks, .. } = self;
        (lacks.addresses && target.addresses == established.addresses)
            || (lacks.pool && target.pool == established.pool)
            || (lacks.conditions && target.said == established.said)
    }
}

/// What there is to say on a Service beside the outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Remarks {
    /// Which machine uses an address of the outcome: reason and message.
    pub(crate) conflict: Option<(&'static str, String)>,
    /// Who else writes the status again and again, so that only conditions are written.
    pub(crate) contested: Option<String>,
    /// What the status has is neither of a pool nor was it assigned by us: it stays while there is nothing to assign.
    pub(crate) foreign: bool,
}

/// An event to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) warning: bool,
    pub(crate) reason: &'static str,
    pub(crate) text: String,
    /// Whether it may not be so any more in a moment: a pool and its Services are often created together.
    pub(crate) premature: bool,
}

/// The version of `service`, which grows with each write.
pub(crate) fn version(service: &Service) -> u64 {
    list::version(&service.metadata)
}

/// Whether the Service is one that this controller serves: of the right type and class, and not being deleted.
pub(crate) fn is_ours(service: &Service, class: &str) -> bool {
    let Some(spec) = &service.spec else { return false };
    let of_class = match spec.load_balancer_class.as_deref() {
        None => class.is_empty(),
        Some(of) => !class.is_empty() && of == class,
    };
    spec.type_.as_deref() == Some("LoadBalancer") && of_class && service.metadata.deletion_timestamp.is_none()
}

/// Whether a Service that is not ours still carries what we wrote.
///
/// Only one that is no load balancer any more: of another class it is somebody else's, whatever it carries.
pub(crate) fn has_leftovers(service: &Service) -> bool {
    let load_balancer =
        service.spec.as_ref().is_some_and(|spec| spec.type_.as_deref() == Some("LoadBalancer"));
    let told = || OURS.iter().any(|type_| stored_condition(service, type_).is_some());
    !load_balancer && (annotated_pool(service).is_some() || told())
}

/// The pool that the annotation names.
pub(crate) fn annotated_pool(service: &Service) -> Option<&str> {
    service.metadata.annotations.as_ref()?.get(IP_ALLOCATED_FROM_POOL).map(String::as_str)
}

/// The addresses that the status has. Entries without an address are ignored.
pub(crate) fn stored(service: &Service) -> Vec<IpAddr> {
    ingress(service).iter().filter_map(|entry| entry.ip.as_deref()?.parse().ok()).collect()
}

/// Since when the Service waits, if it does.
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

/// The write that brings `service` to `outcome`; none if it is there. Without an outcome it shall have nothing of
/// ours.
pub(crate) fn plan(
    service: &Service,
    outcome: Option<Outcome<'_>>,
    remarks: &Remarks,
    now: Timestamp,
) -> Option<Plan> {
    let addresses = outcome.map_or(&[][..], |outcome| outcome.addresses);
    let pool = outcome.and_then(|outcome| outcome.pool);
    let condition = outcome.map(|outcome| condition(service, outcome, remarks));
    let conflict = remarks.conflict.as_ref().map(|(reason, message)| NewCondition {
        type_: ADDRESS_CONFLICT,
        status: Some(true),
        reason,
        message: message.clone(),
    });

    let left_alone = remarks.contested.is_some() || (remarks.foreign && addresses.is_empty());
    let moved = !left_alone && stored(service) != addresses;
    let renamed = remarks.contested.is_none() && annotated_pool(service) != pool;
    // A Service that has what it wants needs no word of ours: so taking over from MetalLB writes nothing.
    let needless = condition.as_ref().is_some_and(|condition| condition.reason == ASSIGNED)
        && stored_condition(service, ADDRESS_ASSIGNED).is_none();
    let retold = !needless && tells_other(stored_condition(service, ADDRESS_ASSIGNED), condition.as_ref());
    let contested = tells_other(stored_condition(service, ADDRESS_CONFLICT), conflict.as_ref());
    if !(moved || renamed || retold || contested) {
        return None;
    }
    let mut status = json!({});
    if moved {
        status["loadBalancer"] = json!({ "ingress": entries(service, addresses) });
    }
    let old = conditions(service);
    let mut notes = if remarks.contested.is_some() {
        Vec::new()
    } else {
        notes(service, outcome, remarks, (retold, moved))
    };
    if contested {
        notes.push(conflict_note(conflict.as_ref().map(|condition| condition.message.as_str())));
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
    if renamed {
        metadata["annotations"] = json!({ IP_ALLOCATED_FROM_POOL: pool });
    }
    let said = new.into_iter().map(|new| (new.type_, new.status_text(), new.reason, new.message));
    Some(Plan {
        patch: json!({ "metadata": metadata, "status": status }),
        addresses: addresses.to_vec(),
        version: version(service),
        notes,
        target: Target { addresses: addresses.to_vec(), pool: pool.map(str::to_owned), said: said.collect() },
        lacks: Lacks { addresses: moved, pool: renamed, conditions: retold || contested },
    })
}

/// Whether the stored condition is another than it shall be.
fn tells_other(old: Option<&Condition>, new: Option<&NewCondition>) -> bool {
    let said = old.map(|old| (old.status.as_str(), old.reason.as_str(), old.message.clone()));
    said != new.map(|new| (new.status_text(), new.reason, truncate_message(new.message.clone())))
}

/// Entries for `addresses`; those that the status has already stay as they are, `ipMode` included.
fn entries(service: &Service, addresses: &[IpAddr]) -> Option<Vec<LoadBalancerIngress>> {
    let entry = |ip: &IpAddr| {
        let old = ingress(service)
            .iter()
            .find(|entry| entry.ip.as_deref().and_then(|text| text.parse::<IpAddr>().ok()) == Some(*ip));
        old.cloned().unwrap_or_else(|| LoadBalancerIngress { ip: Some(ip.to_string()), ..Default::default() })
    };
    (!addresses.is_empty()).then(|| addresses.iter().map(entry).collect())
}

const ASSIGNED: &str = "Assigned";

/// Reason of condition and event while another writer insists on what the status says.
pub(crate) const CONTESTED: &str = "StatusContested";

fn condition(service: &Service, outcome: Outcome<'_>, remarks: &Remarks) -> NewCondition {
    let has = list(outcome.addresses);
    if let Some(contested) = &remarks.contested {
        let message =
            if has.is_empty() { contested.clone() } else { format!("{has} is assigned, but {contested}") };
        return NewCondition { type_: ADDRESS_ASSIGNED, status: Some(false), reason: CONTESTED, message };
    }
    let (reason, mut message) = match (outcome.refusal, outcome.pool) {
        (Some(refusal), _) if has.is_empty() => (refusal.reason(), refusal.to_string()),
        (Some(refusal), _) => (refusal.reason(), format!("has {has}; {refusal}")),
        (None, Some(pool)) => (ASSIGNED, format!("{has} from pool {pool}")),
        (None, None) => (ASSIGNED, has.clone()),
    };
    message.push_str(&foreign_entry(service, outcome, remarks.foreign).unwrap_or_default());
    NewCondition { type_: ADDRESS_ASSIGNED, status: Some(!has.is_empty()), reason, message }
}

/// What to add to the reason why a Service has nothing while another load balancer's entry stays in its status.
fn foreign_entry(service: &Service, outcome: Outcome<'_>, foreign: bool) -> Option<String> {
    (foreign && outcome.addresses.is_empty()).then(|| {
        format!(
            "; {} in its status is of no IPAddressPool and stays: if another load balancer serves this Service, tell \
             them apart by spec.loadBalancerClass",
            list(&stored(service))
        )
    })
}

fn list(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// What to tell: reasons are MetalLB's (`reference/metallb.md` §3.8).
fn notes(
    service: &Service,
    outcome: Option<Outcome<'_>>,
    remarks: &Remarks,
    (retold, moved): (bool, bool),
) -> Vec<Note> {
    let before = if moved { stored(service) } else { Vec::new() };
    let after = outcome.map_or(&[][..], |outcome| outcome.addresses);
    let gained: Vec<IpAddr> = after.iter().copied().filter(|ip| moved && !before.contains(ip)).collect();
    let lost: Vec<IpAddr> = before.iter().copied().filter(|ip| !after.contains(ip)).collect();
    let mut notes = Vec::new();
    if !lost.is_empty() {
        let why = match outcome {
            None => "the Service is no longer one that lbstack serves",
            Some(_) if after.is_empty() => "the Service may no longer have it",
            Some(_) => "replaced by what the Service shall have now",
        };
        notes.push(normal("ClearAssignment", format!("{} taken away: {why}", list(&lost))));
    }
    if !gained.is_empty() {
        let pool = outcome.and_then(|outcome| outcome.pool).unwrap_or_default();
        notes.push(normal("IPAllocated", format!("Assigned {} from pool {pool}", list(&gained))));
    }
    notes.extend(
        outcome.filter(|_| retold).and_then(|outcome| refusal_note(service, outcome, remarks.foreign)),
    );
    if !(gained.is_empty() && lost.is_empty()) {
        notes.extend(deprecated(service));
    }
    notes
}

/// What to say again of a Service that waits.
pub(crate) fn reminder(service: &Service, outcome: Outcome<'_>, foreign: bool) -> Option<Note> {
    outcome.refusal.filter(|refusal| !matches!(refusal, Refusal::Additional { .. }))?;
    refusal_note(service, outcome, foreign)
}

/// What to say of what a Service is refused, if it is refused something.
fn refusal_note(service: &Service, outcome: Outcome<'_>, foreign: bool) -> Option<Note> {
    let (refusal, pending) = (outcome.refusal?, outcome.addresses.is_empty());
    let text = refusal.to_string() + &foreign_entry(service, outcome, foreign).unwrap_or_default();
    let note = match refusal {
        Refusal::Additional { .. } => normal("AdditionalAssignFailed", text),
        Refusal::Request(RequestFault::NotEnoughClusterIps) => warning("not enough clusterips", text),
        Refusal::Request(RequestFault::NoClusterIp) => warning("noclusterIPsIPFamily", text),
        _ if pending => warning("AllocationFailed", text),
        _ => warning("LoadBalancerFailed", text),
    };
    Some(Note { premature: refusal.lacks_pool(), ..note })
}

/// What to say of another writer who insists on what the status of a Service says.
pub(crate) fn contested_note(contested: &str) -> Note {
    warning(CONTESTED, contested.to_owned())
}

/// What to say of a machine that uses an address, or of its end.
pub(crate) fn conflict_note(conflict: Option<&str>) -> Note {
    match conflict {
        Some(message) => warning("AddressConflict", message.to_owned()),
        None => normal("AddressConflictEnded", "no other machine uses the address any more".to_owned()),
    }
}

fn deprecated(service: &Service) -> impl Iterator<Item = Note> + '_ {
    let keys = service.metadata.annotations.iter().flatten().map(|(key, _)| key);
    keys.filter_map(|key| key.strip_prefix(DEPRECATED_PREFIX)).map(|name| {
        let text = format!("{DEPRECATED_PREFIX}{name} is deprecated: use metallb.io/{name}");
        warning("deprecatedAnnotation", text)
    })
}

fn normal(reason: &'static str, text: String) -> Note {
    Note { warning: false, reason, text, premature: false }
}

fn warning(reason: &'static str, text: String) -> Note {
    Note { warning: true, reason, text, premature: false }
}

#[cfg(test)]
mod tests;
