//! The `SpeakerState` of this node: its interfaces, which other speakers are heard, how many groups it owns, and which node
//! announced each Service last that no node announces.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use announce::cluster::NodeName;
use announce::cluster::link::Link;
use crds::conditions::{NewCondition, merge};
use crds::names::LABEL_EXCLUDE_NODE;
use crds::names::{CONDITION_BEACONS_BLOCKED, CONDITION_EXCLUDE_LABEL_IGNORED, CONDITION_KERNELS_ANSWER};
use crds::{InterfaceAddress, ResourceExt as _, SpeakerState, SpeakerStateStatus, UnheardPeer};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, OwnerReference, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use runtime::client::{CallError, with_timeout};
use serde_json::json;

use super::FIELD_MANAGER;
use crate::api::node_report::{interface, speaker_state_name};
use crate::api::watches::Caches;
use crate::layer2::driver::Published;
use crate::layer2::interfaces::OtherAddresses;

/// The shortest time between two writes. Anybody on a link can change its addresses, by router advertisements with another
/// prefix each (RFC 4862 §5.5.3), and every speaker reads what is written.
const WRITE_INTERVAL: Duration = Duration::from_secs(5);

/// What a speaker reports of its node beside what the driver publishes.
pub(super) struct Node<'a> {
    pub(super) links: &'a [Link],
    pub(super) other_addresses: &'a OtherAddresses,
    pub(super) last_announced: BTreeMap<String, BTreeMap<String, i64>>,
}

/// Keeps this node's object.
pub(super) struct SpeakerStates {
    api: Api<SpeakerState>,
    me: NodeName,
    caches: Caches,
    beacon_port: u16,
    /// When it was written last.
    written: Option<Instant>,
    /// When a change that was put off is to be written.
    due: Option<Instant>,
}

impl SpeakerStates {
    pub(super) fn new(
        client: Client,
        namespace: &str,
        me: NodeName,
        caches: Caches,
        beacon_port: u16,
    ) -> Self {
        let api = Api::namespaced(client, namespace);
        Self { api, me, caches, beacon_port, written: None, due: None }
    }

    /// Writes the object if what it reports has changed. False if that has to wait.
    pub(super) async fn write(
        &mut self,
        now: Instant,
        published: &Published,
        node: Node<'_>,
        owner: Option<&OwnerReference>,
    ) -> Result<bool, CallError> {
        self.due = None;
        let name = speaker_state_name(&self.me);
        let stored = self.caches.speaker_state();
        let owned = |object: &SpeakerState| owner.is_none() || !object.owner_references().is_empty();
        let is_new = !stored.as_ref().is_some_and(owned);
        let old = stored.and_then(|object| object.status).unwrap_or_default();
        let new = status(&self.me, &old, published, node, self.beacon_port);
        if !is_new && old == new {
            return Ok(true);
        }
        let next = self.written.and_then(|written| written.checked_add(WRITE_INTERVAL));
        if let Some(next) = next.filter(|next| now < *next) {
            self.due = Some(next);
            return Ok(false);
        }
        self.written = Some(now);
        let params = PatchParams::apply(FIELD_MANAGER).force();
        if is_new {
            let mut object = json!({
                "apiVersion": "lbstack.dev/v1alpha1",
                "kind": "SpeakerState",
                "metadata": {"name": name},
            });
            if let Some(owner) = owner {
                object["metadata"]["ownerReferences"] = json!([owner]);
            }
            with_timeout(self.api.patch(&name, &params, &Patch::Apply(object))).await?;
        }
        let patch = json!({
            "apiVersion": "lbstack.dev/v1alpha1",
            "kind": "SpeakerState",
            "status": new,
        });
        with_timeout(self.api.patch_status(&name, &params, &Patch::Apply(patch))).await?;
        Ok(true)
    }

    /// When to write again, if nothing changes.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due
    }

    /// Removes the objects of nodes that are not in the cluster any more.
    pub(super) async fn remove_others(&self, nodes: &BTreeSet<String>) -> Result<(), CallError> {
        super::remove_all_but(&self.api, &self.caches.states, nodes).await
    }
}

fn status(
    me: &NodeName,
    old: &SpeakerStateStatus,
    published: &Published,
    node: Node<'_>,
    beacon_port: u16,
) -> SpeakerStateStatus {
    let matters = |address: &IpAddr| {
        published.view.is_in_pool(*address)
            || published.view.groups.values().any(|group| group.addresses.contains(*address))
    };
    let others = node.other_addresses.iter().filter(|(address, _)| matters(address));
    let other = |(address, interface): (&IpAddr, &String)| InterfaceAddress {
        address: address.to_string(),
        interface: interface.clone(),
    };
    let unheard =
        |(node, reason): &(NodeName, String)| UnheardPeer { node: node.to_string(), reason: reason.clone() };
    let (heard, not_heard) = (published.heard.len(), published.blocked.len());
    let names: Vec<&str> = node.links.iter().map(|link| &*link.name).collect();
    SpeakerStateStatus {
        node: me.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        interface_names: names.join(", "),
        interfaces: node.links.iter().map(interface).collect(),
        other_addresses: others.map(other).collect(),
        owned: i64::try_from(published.owned.len()).unwrap_or(i64::MAX),
        peers: format!("{heard}/{}", heard + not_heard),
        heard: published.heard.iter().map(ToString::to_string).collect(),
        not_heard: published.blocked.iter().map(unheard).collect(),
        last_announced: node.last_announced,
        conditions: conditions(old, published, beacon_port),
    }
}

fn conditions(old: &SpeakerStateStatus, published: &Published, beacon_port: u16) -> Vec<Condition> {
    let unheard: Vec<String> =
        published.blocked.iter().map(|(node, why)| format!("{node} ({why})")).collect();
    let blocked = NewCondition {
        type_: CONDITION_BEACONS_BLOCKED,
        status: Some(!unheard.is_empty()),
        reason: if unheard.is_empty() { "AllHeard" } else { "NotHeard" },
        message: if unheard.is_empty() {
            String::new()
        } else {
            format!(
                "no beacons arrive from the speakers of {}; let UDP port {beacon_port} (speaker.beacon.port) pass between \
                 the nodes. Until then a node that dies is followed only when the API says so",
                unheard.join(", ")
            )
        },
    };
    let kernels: Vec<&str> = published.reports.answering_kernels.iter().map(|node| &**node).collect();
    let kernels_answer = NewCondition {
        type_: CONDITION_KERNELS_ANSWER,
        status: Some(!kernels.is_empty()),
        reason: if kernels.is_empty() { "AsExpected" } else { "UnannouncedAnswers" },
        message: if kernels.is_empty() {
            String::new()
        } else {
            format!(
                "{} answer ARP or NDP for addresses of Services that their speakers do not announce, so that traffic goes \
                 to several nodes. With kube-proxy in ipvs mode set ipvs.strictARP: true in its configuration; otherwise \
                 stop the other load balancer on these nodes, such as MetalLB",
                kernels.join(", ")
            )
        },
    };
    let label_ignored = NewCondition {
        type_: CONDITION_EXCLUDE_LABEL_IGNORED,
        status: Some(published.view.label_ignored),
        reason: if published.view.label_ignored { "OnEveryNode" } else { "AsExpected" },
        message: if published.view.label_ignored {
            format!(
                "every node carries the label {LABEL_EXCLUDE_NODE}, so that none could announce: it is ignored. Remove it \
                 from those that are to announce, or set speaker.excludeLabel to Honour or Ignore"
            )
        } else {
            String::new()
        },
    };
    let now = Time(Timestamp::now());
    merge(&old.conditions, &[blocked, kernels_answer, label_ignored], None, &now)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use announce::EthernetAddress;
    use announce::cluster::link::LinkInfo;
    use announce::layer2::view::View;

    use super::*;
    use crate::api::node_report::NodeReport;

    fn first(published: &Published) -> SpeakerStateStatus {
        status_with(published, &[], &OtherAddresses::new())
    }

    fn status_with(published: &Published, links: &[Link], others: &OtherAddresses) -> SpeakerStateStatus {
        let node = Node { links, other_addresses: others, last_announced: BTreeMap::new() };
        status(&"node1".into(), &SpeakerStateStatus::default(), published, node, 7_000)
    }

    fn read(status: SpeakerStateStatus) -> NodeReport {
        let mut object = SpeakerState::new("node1", crds::SpeakerStateSpec {});
        object.status = Some(status);
        NodeReport::from_speaker_state(&object)
    }

    #[test]
    fn the_interfaces_of_a_node_are_read_as_they_were_written() {
        let link = Link {
            index: 2,
            name: "eth0".into(),
            mac: EthernetAddress([2, 0, 10, 77, 0, 11]),
            broadcast: true,
            link_local: None,
            subnets: [("10.77.0.11".parse().unwrap(), 24), ("fd00::11".parse().unwrap(), 64)].into(),
            carrier_ups: 1,
        };
        let written = status_with(&Published::default(), std::slice::from_ref(&link), &OtherAddresses::new());
        assert_eq!(written.interface_names, "eth0");
        let report = read(written.clone());
        assert_eq!(
            (report.node.as_deref(), report.links),
            (Some("node1"), Some(vec![LinkInfo::from(&link)]))
        );
        let mut damaged = written;
        damaged.interfaces[0].mac = "02:00".into();
        assert_eq!(read(damaged).links, None);
    }

    #[test]
    fn of_other_addresses_those_of_pools_and_services_are_reported() {
        let mut view = View::default();
        let range = rules::IpRange::new("10.0.0.1".parse().unwrap(), "10.0.0.9".parse().unwrap()).unwrap();
        view.pools.push(range);
        let published = Published { view: Arc::new(view), ..Published::default() };
        let others: OtherAddresses =
            [("10.0.0.5".parse().unwrap(), "dummy0".into()), ("10.9.0.5".parse().unwrap(), "cni0".into())]
                .into();
        let report = read(status_with(&published, &[], &others));
        assert_eq!(report.other_addresses, [("10.0.0.5".parse().unwrap(), "dummy0".to_owned())].into());
    }

    #[test]
    fn peers_that_are_heard_and_not_heard_are_counted_and_named() {
        let published = Published {
            heard: Arc::new(["node2".into()].into()),
            blocked: vec![("node3".into(), "it answers on the link".into())],
            ..Published::default()
        };
        let status = first(&published);
        assert_eq!((&*status.peers, &*status.heard), ("1/2", &["node2".to_owned()][..]));
        assert_eq!(
            (&*status.not_heard[0].node, &*status.not_heard[0].reason),
            ("node3", "it answers on the link")
        );
        let blocked = status.conditions.iter().find(|c| c.type_ == CONDITION_BEACONS_BLOCKED).unwrap();
        assert_eq!(blocked.status, "True");
        assert!(blocked.message.contains("node3 (it answers on the link)"));
        assert!(blocked.message.contains("UDP port 7000"));
    }

    #[test]
    fn requirement_3_kernels_that_answer_for_addresses_are_reported_with_the_setting_that_ends_it() {
        let reports = crate::layer2::driver::Reports {
            answering_kernels: ["node2".into()].into(),
            ..Default::default()
        };
        let status = first(&Published { reports: Arc::new(reports), ..Published::default() });
        let condition = status.conditions.iter().find(|c| c.type_ == CONDITION_KERNELS_ANSWER).unwrap();
        assert_eq!(condition.status, "True");
        assert!(condition.message.contains("node2") && condition.message.contains("strictARP: true"));
    }

    #[test]
    fn an_exclude_label_that_is_ignored_is_reported() {
        for label_ignored in [true, false] {
            let mut view = View::default();
            view.label_ignored = label_ignored;
            let status = first(&Published { view: Arc::new(view), ..Published::default() });
            let reported = crds::conditions::is_true(&status.conditions, CONDITION_EXCLUDE_LABEL_IGNORED);
            assert_eq!(reported, label_ignored);
        }
    }
}
