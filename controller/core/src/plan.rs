//! Computes the effects of a change without applying it.
//!
//! Runs the allocator on a copy of the cluster: restore the existing Services, apply the change, confirm all
//! writes, let the grace periods end. So the result is what the controller would do, including the order of
//! waiting Services.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crds::ServiceKey;
use k8s_openapi::jiff::Timestamp;
use rules::Configuration;

use crate::allocator::{Allocator, ExistingService, GRACE};
use crate::occupant::Occupant;

/// A cluster: its configuration and its Services.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// The validated configuration.
    pub configuration: Arc<Configuration>,
    /// The Services that are ours, with their current addresses.
    pub services: Vec<ExistingService>,
    /// Addresses in the statuses of other Services, which stay there.
    pub others: BTreeMap<ServiceKey, Vec<IpAddr>>,
    /// Addresses that machines use.
    pub quarantine: BTreeMap<IpAddr, Occupant>,
}

/// The effect of a change on one Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effect {
    /// The name of the Service.
    pub service: ServiceKey,
    /// Its current addresses.
    pub before: Vec<IpAddr>,
    /// Its addresses after the change.
    pub after: Vec<IpAddr>,
    /// The kind of the effect.
    pub kind: EffectKind,
    /// Why its request would not be met.
    pub refusal: Option<String>,
}

/// The kind of effect that a change has on a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EffectKind {
    /// It would lose an address without replacement.
    Loses,
    /// It would get another address in place of a current one.
    Moves,
    /// It would get an additional address.
    Gains,
    /// It has no address and would get none.
    Waits,
    /// Nothing would change.
    Keeps,
}

/// The effect on every Service of changing the cluster from `before` to `after`, worst first.
pub fn plan(before: &Cluster, after: &Cluster, now: Timestamp) -> Vec<Effect> {
    let mut allocator = Allocator::new();
    allocator.configure(Arc::clone(&before.configuration), before.quarantine.clone(), now);
    for (service, stored) in &before.others {
        allocator.release(service, stored, now);
    }
    allocator.restore(before.services.clone(), now);
    write_all(&mut allocator, before, now);

    let has: BTreeMap<&ServiceKey, &ExistingService> =
        before.services.iter().map(|existing| (&existing.service, existing)).collect();
    let stay: BTreeSet<&ServiceKey> = after.services.iter().map(|new| &new.service).collect();
    let removed_services: Vec<&ExistingService> =
        before.services.iter().filter(|old| !stay.contains(&old.service)).collect();
    for (service, stored) in &after.others {
        allocator.release(service, stored, now);
    }
    let known = removed_services.iter().map(|existing| &existing.service).chain(before.others.keys());
    for service in known.filter(|service| !after.others.contains_key(*service) && !stay.contains(service)) {
        allocator.remove(service, now);
    }
    allocator.configure(Arc::clone(&after.configuration), after.quarantine.clone(), now);
    for existing in &after.services {
        let known = allocator.assignment(&existing.service).map(|assignment| assignment.addresses.to_vec());
        let stored = known.unwrap_or_else(|| existing.current.clone());
        allocator.assign(&existing.service, existing.request.clone(), &stored, now);
        write_all(&mut allocator, after, now);
    }
    let later = now.checked_add(GRACE).unwrap_or(now);
    allocator.handle_timeout(later);
    write_all(&mut allocator, after, later);

    let mut effects: Vec<Effect> = after
        .services
        .iter()
        .map(|existing| {
            let before = has.get(&existing.service).map(|old| old.current.clone()).unwrap_or_default();
            let assignment = allocator.assignment(&existing.service);
            let after = assignment.map(|assignment| assignment.addresses.to_vec()).unwrap_or_default();
            Effect {
                kind: kind(&before, &after),
                refusal: assignment.and_then(|assignment| assignment.refusal).map(ToString::to_string),
                service: existing.service.clone(),
                before,
                after,
            }
        })
        .chain(removed_services.into_iter().filter(|existing| !existing.current.is_empty()).map(removed))
        .collect();
    effects.sort_by(|a, b| (a.kind, &a.service).cmp(&(b.kind, &b.service)));
    effects
}

/// The effect on a Service that is no longer one of ours.
fn removed(existing: &ExistingService) -> Effect {
    Effect {
        service: existing.service.clone(),
        before: existing.current.clone(),
        after: Vec::new(),
        kind: EffectKind::Loses,
        refusal: Some("it would be deleted, or have another type or class".to_owned()),
    }
}

fn kind(before: &[IpAddr], after: &[IpAddr]) -> EffectKind {
    let lost = before.iter().any(|ip| !after.contains(ip));
    let gained = after.iter().any(|ip| !before.contains(ip));
    match (lost, gained) {
        (true, false) => EffectKind::Loses,
        (true, true) => EffectKind::Moves,
        (false, true) => EffectKind::Gains,
        (false, false) if after.is_empty() => EffectKind::Waits,
        (false, false) => EffectKind::Keeps,
    }
}

/// Confirms every write at once, until none is due. The statuses of other Services are not written.
fn write_all(allocator: &mut Allocator, cluster: &Cluster, now: Timestamp) {
    loop {
        let changed = allocator.take_changed();
        if changed.is_empty() {
            return;
        }
        for service in changed.into_iter().filter(|service| !cluster.others.contains_key(service)) {
            let addresses = allocator.assignment(&service).map(|assignment| assignment.addresses.to_vec());
            allocator.observed(&service, &addresses.unwrap_or_default(), now);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::allocator::tests::{at, configuration, existing, foreign, ips, key, request};

    /// A Service created at `second` with these annotations and addresses.
    fn service(
        name: &str,
        second: i64,
        annotations: &serde_json::Value,
        current: &[&str],
    ) -> ExistingService {
        existing(name, request(second, annotations, &json!({})), current)
    }

    fn cluster(addresses: &[&str], services: Vec<ExistingService>) -> Cluster {
        let configuration = configuration(&[("lan", json!({ "addresses": addresses }))]);
        Cluster { configuration, services, others: BTreeMap::new(), quarantine: BTreeMap::new() }
    }

    #[test]
    fn shrinking_a_pool_lists_the_services_that_lose_move_and_keep_addresses() {
        let services = vec![
            service("a", 1, &json!({}), &["10.0.0.1"]),
            service("b", 2, &json!({}), &["10.0.0.2"]),
            service("c", 3, &json!({"loadBalancerIPs": "10.0.0.3"}), &["10.0.0.3"]),
        ];
        let before = cluster(&["10.0.0.1-10.0.0.3"], services.clone());
        let effects = plan(&before, &cluster(&["10.0.0.2-10.0.0.2", "10.0.0.4/32"], services), at(9));
        let kinds: Vec<_> = effects.iter().map(|e| (e.service.name.as_str(), e.kind)).collect();
        assert_eq!(kinds, [("c", EffectKind::Loses), ("a", EffectKind::Moves), ("b", EffectKind::Keeps)]);
        assert_eq!(effects[1].after, ips(&["10.0.0.4"]));
        assert!(effects[0].refusal.as_ref().unwrap().contains("no IPAddressPool contains it"));
    }

    #[test]
    fn growing_a_pool_lists_the_services_that_gain_addresses_and_still_wait() {
        let services = vec![
            service("a", 1, &json!({}), &["10.0.0.1"]),
            service("b", 2, &json!({}), &[]),
            service("c", 3, &json!({}), &[]),
        ];
        let before = cluster(&["10.0.0.1/32"], services.clone());
        let effects = plan(&before, &cluster(&["10.0.0.1-10.0.0.2"], services), at(9));
        let kinds: Vec<_> = effects.iter().map(|e| (e.service.name.as_str(), e.kind)).collect();
        assert_eq!(kinds, [("b", EffectKind::Gains), ("c", EffectKind::Waits), ("a", EffectKind::Keeps)]);
    }

    #[test]
    fn without_a_change_every_service_keeps_its_address() {
        let before = cluster(&["10.0.0.0/24"], vec![service("a", 1, &json!({}), &["10.0.0.7"])]);
        let effects = plan(&before, &before.clone(), at(9));
        assert_eq!((effects.len(), effects[0].kind), (1, EffectKind::Keeps));
    }

    #[test]
    fn the_address_of_a_removed_service_goes_to_a_waiting_one() {
        let services = vec![service("a", 1, &json!({}), &["10.0.0.1"]), service("b", 2, &json!({}), &[])];
        let before = cluster(&["10.0.0.1/32"], services.clone());
        let effects = plan(&before, &cluster(&["10.0.0.1/32"], services[1..].to_vec()), at(9));
        let kinds: Vec<_> = effects.iter().map(|e| (e.service.name.as_str(), e.kind)).collect();
        assert_eq!(kinds, [("a", EffectKind::Loses), ("b", EffectKind::Gains)]);
    }

    #[test]
    fn an_address_used_by_a_foreign_host_is_planned_for_no_service() {
        let services = vec![service("a", 1, &json!({}), &[])];
        let before = cluster(&["10.0.0.1/32"], services.clone());
        let with_foreign_host = |cluster: Cluster| Cluster { quarantine: foreign(&["10.0.0.2"]), ..cluster };
        let before = Cluster {
            services: vec![service("b", 0, &json!({}), &["10.0.0.1"])],
            ..with_foreign_host(before)
        };
        let after = Cluster {
            services: [before.services.clone(), services].concat(),
            ..with_foreign_host(cluster(&["10.0.0.1-10.0.0.2"], Vec::new()))
        };
        let effects = plan(&before, &after, at(9));
        assert_eq!(effects[0].kind, EffectKind::Waits, "{effects:?}");
    }

    #[test]
    fn an_address_of_a_service_of_another_class_is_planned_for_no_service() {
        let had = |service: &ExistingService| (service.service.clone(), service.current.clone());
        let old = service("old", 1, &json!({}), &["10.0.0.1"]);
        let waits = vec![service("a", 2, &json!({}), &[])];
        let before = cluster(&["10.0.0.1/32"], [vec![old.clone()], waits.clone()].concat());
        let after = Cluster { others: [had(&old)].into(), ..cluster(&["10.0.0.1/32"], waits) };
        for before in [before, after.clone()] {
            let effects = plan(&before, &after, at(9));
            let of_a = effects.iter().find(|effect| effect.service == key("a")).unwrap();
            assert_eq!(of_a.kind, EffectKind::Waits, "{effects:?}");
        }
    }
}
