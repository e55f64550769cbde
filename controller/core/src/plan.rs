//! What a change would do, without doing it.
//!
//! The allocator itself is asked, on a copy of the cluster: adopt what is, change, write everything, let graces end.
//! So the answer is what the controller would do, order of waiting included.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crds::ServiceKey;
use k8s_openapi::jiff::Timestamp;
use rules::Configuration;

use crate::allocator::{Adoptee, Allocator, GRACE, Occupant};

/// A cluster: its configuration and its Services.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// What the configuration objects mean.
    pub configuration: Arc<Configuration>,
    /// The Services that are ours, with the addresses that they have.
    pub services: Vec<Adoptee>,
    /// What stands in the statuses of others, and stays there.
    pub others: BTreeMap<ServiceKey, Vec<IpAddr>>,
    /// Addresses that machines use.
    pub quarantine: BTreeMap<IpAddr, Occupant>,
}

/// What a change would do to one Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effect {
    /// Which Service.
    pub service: ServiceKey,
    /// The addresses that it has.
    pub before: Vec<IpAddr>,
    /// The addresses that it would have.
    pub after: Vec<IpAddr>,
    /// What that means.
    pub kind: EffectKind,
    /// Why it would not get all that it asks for.
    pub refusal: Option<String>,
}

/// What a change means for a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EffectKind {
    /// It would lose an address and get none for it.
    Loses,
    /// It would get another address for one that it has.
    Moves,
    /// It would get an address and lose none.
    Gains,
    /// It has no address and would have none.
    Waits,
    /// Nothing would change.
    Keeps,
}

/// What would become of every Service if the cluster became `after`. Worst first.
pub fn plan(before: &Cluster, after: &Cluster, now: Timestamp) -> Vec<Effect> {
    let mut allocator = Allocator::new();
    allocator.configure(Arc::clone(&before.configuration), before.quarantine.clone(), now);
    for (service, stored) in &before.others {
        allocator.release(service, stored, now);
    }
    allocator.adopt(before.services.clone(), now);
    settle(&mut allocator, before, now);

    let has: BTreeMap<&ServiceKey, &Adoptee> =
        before.services.iter().map(|adoptee| (&adoptee.service, adoptee)).collect();
    let stay: BTreeSet<&ServiceKey> = after.services.iter().map(|new| &new.service).collect();
    let gone: Vec<&Adoptee> = before.services.iter().filter(|old| !stay.contains(&old.service)).collect();
    for (service, stored) in &after.others {
        allocator.release(service, stored, now);
    }
    let known = gone.iter().map(|adoptee| &adoptee.service).chain(before.others.keys());
    for service in known.filter(|service| !after.others.contains_key(*service) && !stay.contains(service)) {
        allocator.forget(service, now);
    }
    allocator.configure(Arc::clone(&after.configuration), after.quarantine.clone(), now);
    for adoptee in &after.services {
        let known = allocator.outcome(&adoptee.service).map(|outcome| outcome.addresses.to_vec());
        let stored = known.unwrap_or_else(|| adoptee.current.clone());
        allocator.assign(&adoptee.service, adoptee.request.clone(), &stored, now);
        settle(&mut allocator, after, now);
    }
    let later = now.checked_add(GRACE).unwrap_or(now);
    allocator.poll(later);
    settle(&mut allocator, after, later);

    let mut effects: Vec<Effect> = after
        .services
        .iter()
        .map(|adoptee| {
            let before = has.get(&adoptee.service).map(|old| old.current.clone()).unwrap_or_default();
            let outcome = allocator.outcome(&adoptee.service);
            let after = outcome.map(|outcome| outcome.addresses.to_vec()).unwrap_or_default();
            Effect {
                kind: kind(&before, &after),
                refusal: outcome.and_then(|outcome| outcome.refusal).map(ToString::to_string),
                service: adoptee.service.clone(),
                before,
                after,
            }
        })
        .chain(gone.into_iter().filter(|adoptee| !adoptee.current.is_empty()).map(given_up))
        .collect();
    effects.sort_by(|a, b| (a.kind, &a.service).cmp(&(b.kind, &b.service)));
    effects
}

/// Of a Service that is not among those that are served any more.
fn given_up(adoptee: &Adoptee) -> Effect {
    Effect {
        service: adoptee.service.clone(),
        before: adoptee.current.clone(),
        after: Vec::new(),
        kind: EffectKind::Loses,
        refusal: Some("it would be gone, or of another type or class".to_owned()),
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

/// Does every write at once, until none is due. What others have is not ours to write.
fn settle(allocator: &mut Allocator, cluster: &Cluster, now: Timestamp) {
    loop {
        let changed = allocator.take_changed();
        if changed.is_empty() {
            return;
        }
        for service in changed.into_iter().filter(|service| !cluster.others.contains_key(service)) {
            let addresses = allocator.outcome(&service).map(|outcome| outcome.addresses.to_vec());
            allocator.stored(&service, &addresses.unwrap_or_default(), now);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::allocator::tests::{at, configuration, foreign, ips, key, request};

    fn adoptee(name: &str, second: i64, wish: &serde_json::Value, current: &[&str]) -> Adoptee {
        Adoptee {
            service: key(name),
            request: request(second, wish, &json!({})),
            current: ips(current),
            pool: None,
            waiting_since: None,
        }
    }

    fn cluster(addresses: &[&str], services: Vec<Adoptee>) -> Cluster {
        let configuration = configuration(&[("lan", json!({ "addresses": addresses }))]);
        Cluster { configuration, services, others: BTreeMap::new(), quarantine: BTreeMap::new() }
    }

    #[test]
    fn a_shrunk_pool_says_who_moves_who_loses_and_who_keeps() {
        let services = vec![
            adoptee("a", 1, &json!({}), &["10.0.0.1"]),
            adoptee("b", 2, &json!({}), &["10.0.0.2"]),
            adoptee("c", 3, &json!({"loadBalancerIPs": "10.0.0.3"}), &["10.0.0.3"]),
        ];
        let before = cluster(&["10.0.0.1-10.0.0.3"], services.clone());
        let effects = plan(&before, &cluster(&["10.0.0.2-10.0.0.2", "10.0.0.4/32"], services), at(9));
        let said: Vec<_> = effects.iter().map(|e| (e.service.name.as_str(), e.kind)).collect();
        assert_eq!(said, [("c", EffectKind::Loses), ("a", EffectKind::Moves), ("b", EffectKind::Keeps)]);
        assert_eq!(effects[1].after, ips(&["10.0.0.4"]));
        assert!(effects[0].refusal.as_ref().unwrap().contains("no IPAddressPool has it"));
    }

    #[test]
    fn a_grown_pool_says_who_gains_and_who_still_waits() {
        let services = vec![
            adoptee("a", 1, &json!({}), &["10.0.0.1"]),
            adoptee("b", 2, &json!({}), &[]),
            adoptee("c", 3, &json!({}), &[]),
        ];
        let before = cluster(&["10.0.0.1/32"], services.clone());
        let effects = plan(&before, &cluster(&["10.0.0.1-10.0.0.2"], services), at(9));
        let said: Vec<_> = effects.iter().map(|e| (e.service.name.as_str(), e.kind)).collect();
        assert_eq!(said, [("b", EffectKind::Gains), ("c", EffectKind::Waits), ("a", EffectKind::Keeps)]);
    }

    #[test]
    fn nothing_changed_means_that_everybody_keeps_what_it_has() {
        let before = cluster(&["10.0.0.0/24"], vec![adoptee("a", 1, &json!({}), &["10.0.0.7"])]);
        let effects = plan(&before, &before.clone(), at(9));
        assert_eq!((effects.len(), effects[0].kind), (1, EffectKind::Keeps));
    }

    #[test]
    fn a_service_that_goes_loses_its_address_to_who_waits() {
        let services = vec![adoptee("a", 1, &json!({}), &["10.0.0.1"]), adoptee("b", 2, &json!({}), &[])];
        let before = cluster(&["10.0.0.1/32"], services.clone());
        let effects = plan(&before, &cluster(&["10.0.0.1/32"], services[1..].to_vec()), at(9));
        let said: Vec<_> = effects.iter().map(|e| (e.service.name.as_str(), e.kind)).collect();
        assert_eq!(said, [("a", EffectKind::Loses), ("b", EffectKind::Gains)]);
    }

    #[test]
    fn an_address_that_a_stranger_uses_is_promised_to_nobody() {
        let services = vec![adoptee("a", 1, &json!({}), &[])];
        let before = cluster(&["10.0.0.1/32"], services.clone());
        let strangers = |cluster: Cluster| Cluster { quarantine: foreign(&["10.0.0.2"]), ..cluster };
        let before =
            Cluster { services: vec![adoptee("b", 0, &json!({}), &["10.0.0.1"])], ..strangers(before) };
        let after = Cluster {
            services: [before.services.clone(), services].concat(),
            ..strangers(cluster(&["10.0.0.1-10.0.0.2"], Vec::new()))
        };
        let effects = plan(&before, &after, at(9));
        assert_eq!(effects[0].kind, EffectKind::Waits, "{effects:?}");
    }

    #[test]
    fn what_a_service_of_another_class_has_is_promised_to_nobody() {
        let had = |service: &Adoptee| (service.service.clone(), service.current.clone());
        let old = adoptee("old", 1, &json!({}), &["10.0.0.1"]);
        let waits = vec![adoptee("a", 2, &json!({}), &[])];
        let before = cluster(&["10.0.0.1/32"], [vec![old.clone()], waits.clone()].concat());
        let after = Cluster { others: [had(&old)].into(), ..cluster(&["10.0.0.1/32"], waits) };
        for before in [before, after.clone()] {
            let effects = plan(&before, &after, at(9));
            let of_a = effects.iter().find(|effect| effect.service == key("a")).unwrap();
            assert_eq!(of_a.kind, EffectKind::Waits, "{effects:?}");
        }
    }
}
