//! An `AddressConflict` for each address that a stranger has. The controller hands such an address to nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

use announce::link::Link;
use announce::ownership::Conflict;
use announce::view::{Group, NodeName};
use crds::{AddressConflict, AddressConflictSpec, ResourceExt as _};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Client};
use runtime::client::{CallError, bounded};
use serde_json::json;

use super::{FIELD_MANAGER, nodes_to_tidy};
use crate::driver::Published;
use crate::watches::Stores;

/// Keeps the objects about strangers.
pub(super) struct Conflicts {
    api: Api<AddressConflict>,
    me: NodeName,
    stores: Stores,
    told: BTreeSet<IpAddr>,
}

impl Conflicts {
    pub(super) fn new(client: Client, namespace: &str, me: NodeName, stores: Stores) -> Self {
        Self { api: Api::namespaced(client, namespace), me, stores, told: BTreeSet::new() }
    }

    pub(super) async fn write(
        &mut self,
        published: &Published,
        links: &[Link],
        owner: Option<&OwnerReference>,
    ) -> Result<(), CallError> {
        self.tell(published, links);
        let mut stored: BTreeMap<String, AddressConflict> = BTreeMap::new();
        for object in self.stores.conflicts.all() {
            stored.insert(object.name_any(), (*object).clone());
        }
        for (address, conflict) in &published.conflicts {
            let name = AddressConflict::name_for(*address);
            let spec = self.spec(*address, conflict, links);
            if stored.remove(&name).is_some_and(|object| says_the_same(&object.spec, &spec)) {
                continue;
            }
            let mut object = json!({
                "apiVersion": "lbstack.dev/v1alpha1",
                "kind": "AddressConflict",
                "metadata": {"name": name},
                "spec": spec,
            });
            if let Some(owner) = owner {
                object["metadata"]["ownerReferences"] = json!([owner]);
            }
            let params = PatchParams::apply(FIELD_MANAGER).force();
            bounded(self.api.patch(&name, &params, &Patch::Apply(object))).await?;
        }
        let nodes = nodes_to_tidy(published, &self.me, &self.stores);
        for (name, object) in stored {
            if is_over(&object.spec, published, &self.me, nodes.as_ref()) {
                match bounded(self.api.delete(&name, &DeleteParams::default())).await {
                    Err(error) if !error.is_not_found() => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn spec(&self, address: IpAddr, conflict: &Conflict, links: &[Link]) -> AddressConflictSpec {
        AddressConflictSpec {
            address: address.to_string(),
            mac: mac(conflict),
            node: self.me.to_string(),
            interface: interface(conflict, links),
            announced: !conflict.withheld,
            first_seen: wall_clock(conflict.first),
            last_seen: wall_clock(conflict.last),
        }
    }

    /// One line of the log per conflict: events on Services are the controller's.
    fn tell(&mut self, published: &Published, links: &[Link]) {
        for (address, conflict) in &published.conflicts {
            if self.told.insert(*address) {
                let (mac, interface) = (mac(conflict), interface(conflict, links));
                tracing::warn!(%address, mac, interface, announced = !conflict.withheld, "a stranger uses an address");
            }
        }
        self.told.retain(|address| published.conflicts.contains_key(address));
    }
}

/// Ours to remove: this node announces the address and has asked the wire; or no group has the address any more, or the
/// node that wrote it is not one of `nodes`, and nobody else would. A node that has just started has written it in an
/// earlier life, and does not know yet.
fn is_over(
    spec: &AddressConflictSpec,
    published: &Published,
    me: &NodeName,
    nodes: Option<&BTreeSet<String>>,
) -> bool {
    let address = spec.address.parse::<IpAddr>().ok();
    let has = |group: &Group| address.is_some_and(|address| group.addresses.contains(address));
    let owned =
        || published.owned.keys().filter_map(|id| published.view.groups.get(id)).any(|group| has(group));
    let unused = || !published.view.groups.values().any(|group| has(group));
    let orphaned = |nodes: &BTreeSet<String>| !nodes.contains(&spec.node);
    let mine = spec.node == **me;
    let tidy = mine && unused() || nodes.is_some_and(|nodes| orphaned(nodes) || unused());
    published.settled && (owned() || tidy)
}

fn mac(conflict: &Conflict) -> String {
    let [a, b, c, d, e, f] = conflict.sighting.mac.0;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

fn interface(conflict: &Conflict, links: &[Link]) -> String {
    let link = links.iter().find(|link| link.index == conflict.sighting.link);
    link.map_or_else(|| conflict.sighting.link.to_string(), |link| link.name.clone())
}

/// When a moment of the monotonic clock was, for people.
fn wall_clock(at: Instant) -> Option<Time> {
    let ago = at.elapsed();
    let seconds = i64::try_from(ago.as_secs()).ok()?;
    let now = Timestamp::now().as_second();
    Timestamp::from_second(now.checked_sub(seconds)?).ok().map(Time)
}

/// Whether nothing has changed but the time, and that by less than a minute.
fn says_the_same(stored: &AddressConflictSpec, new: &AddressConflictSpec) -> bool {
    let second = |time: &Option<Time>| time.as_ref().map_or(0, |time| time.0.as_second());
    let untimed = |spec: &AddressConflictSpec| AddressConflictSpec {
        first_seen: None,
        last_seen: None,
        ..spec.clone()
    };
    untimed(stored) == untimed(new) && (second(&stored.last_seen) - second(&new.last_seen)).abs() < 60
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use announce::link::Scope;
    use announce::view::{Candidates, View};

    use super::*;

    #[test]
    fn a_conflict_is_over_once_the_wire_was_asked_or_nobody_would_ask_it() {
        let spec = AddressConflictSpec {
            address: "10.0.0.1".into(),
            mac: "02:00:00:00:66:66".into(),
            node: "node2".into(),
            interface: "eth0".into(),
            announced: false,
            first_seen: None,
            last_seen: None,
        };
        let id: IpAddr = "10.0.0.1".parse().unwrap();
        let group = Group {
            id,
            hashed: id,
            addresses: [(id, Scope::All)].into(),
            services: Box::default(),
            candidates: Candidates::default(),
            idle: None,
            last: None,
        };
        let mut view = View::default();
        view.groups.insert(id, Arc::new(group));
        let mut published = Published { settled: true, view: Arc::new(view), ..Published::default() };
        let nodes = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let (with, without) = (nodes(&["node1", "node2"]), nodes(&["node1"]));
        let over = |published: &Published, me: &str, nodes| is_over(&spec, published, &me.into(), nodes);
        assert!(!over(&published, "node1", None), "another speaker tidies");
        assert!(!over(&published, "node1", Some(&with)), "who saw it is there");
        assert!(over(&published, "node1", Some(&without)), "who saw it is gone");
        assert!(!over(&published, "node2", None), "it has just started and has not asked");
        published.owned.insert(id, 1);
        assert!(over(&published, "node1", None) && over(&published, "node2", None), "the owner has asked");
        let unused = Published { settled: true, ..Published::default() };
        assert!(over(&unused, "node2", None) && over(&unused, "node1", Some(&with)), "nobody will ask");
        assert!(!over(&unused, "node1", None));
        assert!(!over(&Published::default(), "node2", Some(&without)), "it has not looked around");
    }
}
