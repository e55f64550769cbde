//! The announcing node can be reached.

use super::*;

const BOTH: Option<Families> = Some(Families { ipv4: true, ipv6: true });
const ONLY_IPV4: Option<Families> = Some(Families { ipv4: true, ipv6: false });
const NEITHER: Option<Families> = Some(Families { ipv4: false, ipv6: false });
const PLACEMENTS: [Placement; 2] = [Placement::Balanced, Placement::Hash];

/// One Service with these addresses; each node has an `eth0` on the same subnet that supports both families.
fn with_addresses(addresses: &[&str], placement: Placement) -> Cluster {
    let mut cluster = Cluster::new();
    cluster.settings.placement = placement;
    cluster.pool("six", "fd00::/64");
    cluster.service("web", addresses, &["b"], &json!({}));
    for node in ["a", "b", "c"] {
        set_eth0(&mut cluster, node, &["10.0.0.1/24", "fd00::1/64"], BOTH);
    }
    cluster
}

fn set_eth0(cluster: &mut Cluster, node: &str, subnets: &[&str], families: Option<Families>) {
    cluster.objects.links.insert(node.into(), vec![link(node, "eth0", subnets, families)]);
}

fn order(view: &View) -> Vec<String> {
    view.groups.values().next().unwrap().candidates.iter().map(|c| c.node.to_string()).collect()
}

fn why(cluster: &Cluster) -> (Option<NotAnnounced>, String) {
    let view = cluster.view();
    let group = view.groups.values().next().unwrap();
    (group.not_announced, view.why_not_announced(group).unwrap_or_default())
}

#[test]
fn requirement_2_a_node_without_the_address_family_is_no_candidate() {
    for placement in PLACEMENTS {
        for (addresses, family, candidates) in [
            (&["fd00::5"][..], ONLY_IPV4, &["b", "c"][..]),
            (&["10.0.0.5"], ONLY_IPV4, &["a", "b", "c"]),
            (&["10.0.0.5", "fd00::5"], ONLY_IPV4, &["b", "c"]),
            (&["10.0.0.5"], NEITHER, &["b", "c"]),
            (&["fd00::5"], None, &["a", "b", "c"]),
        ] {
            let mut cluster = with_addresses(addresses, placement);
            set_eth0(&mut cluster, "a", &["10.0.0.1/24", "fd00::1/64"], family);
            assert_eq!(cluster.candidates(), candidates, "{addresses:?} {family:?} {placement:?}");
        }
    }
}

#[test]
fn an_ipv6_address_off_every_subnet_goes_to_a_node_that_can_announce_it() {
    for placement in PLACEMENTS {
        for n in 1..=20 {
            let mut cluster = with_addresses(&[&format!("fd00:99::{n:x}")], placement);
            cluster.pool("routed", "fd00:99::/64");
            set_eth0(&mut cluster, "a", &["10.0.0.1/24"], ONLY_IPV4);
            let view = cluster.view();
            assert!(view.placed.values().all(|node| **node != *"a"), "{n}");
        }
    }
}

#[test]
fn a_link_supports_the_families_of_its_broadcast_and_link_local_address() {
    let link = |broadcast, link_local: Option<&str>| crate::cluster::link::Link {
        index: 2,
        name: "eth0".into(),
        mac: smoltcp::wire::EthernetAddress([2, 0, 0, 0, 0, 1]),
        broadcast,
        link_local: link_local.map(|text| text.parse().unwrap()),
        subnets: BTreeSet::new(),
        carrier_ups: 0,
    };
    assert_eq!(LinkInfo::from(&link(true, None)).families, ONLY_IPV4);
    assert_eq!(LinkInfo::from(&link(true, Some("fe80::1"))).families, BOTH);
    assert_eq!(LinkInfo::from(&link(false, None)).families, NEITHER);
}

#[test]
fn a_family_that_no_node_supports_is_reported_as_the_reason() {
    let mut cluster = with_addresses(&["10.0.0.5", "fd00::5"], Placement::Balanced);
    for node in ["a", "b", "c"] {
        set_eth0(&mut cluster, node, &["10.0.0.1/24"], ONLY_IPV4);
    }
    let (not_announced, message) = why(&cluster);
    assert_eq!(not_announced, Some(NotAnnounced::NoIpv6));
    assert!(message.contains("IPv6") && message.contains("a, b, c"), "{message}");
}

#[test]
fn an_interface_without_any_address_announces_ipv4_and_one_that_is_down_nothing() {
    let mut cluster = with_addresses(&["10.0.0.5"], Placement::Balanced);
    cluster.configured.l2_advertisements.clear();
    cluster.advertisement("uplink", &json!({"interfaces": ["eth1"]}));
    let eth0 = |node: &str| link(node, "eth0", &["10.0.0.1/24"], BOTH);
    let links = vec![eth0("c"), link("c", "eth1", &[], ONLY_IPV4)];
    cluster.objects.links.insert("c".into(), links);
    assert_eq!(cluster.candidates(), ["c"]);
    // A link that is down is not published.
    cluster.objects.links.insert("c".into(), vec![eth0("c")]);
    let (not_announced, message) = why(&cluster);
    assert_eq!(not_announced, Some(NotAnnounced::NoInterface));
    assert!(message.contains("eth1 is missing or down on a, b, c"), "{message}");
    for node in ["a", "b", "c"] {
        cluster.objects.links.insert(node.into(), Vec::new());
    }
    cluster.configured.l2_advertisements.clear();
    cluster.advertisement("all", &json!({}));
    assert_eq!(why(&cluster).0, Some(NotAnnounced::NoInterface), "no link at all");
}

#[test]
fn the_reason_is_the_first_condition_that_leaves_no_node() {
    let mut cluster = with_addresses(&["10.0.0.5"], Placement::Balanced);
    cluster.configured.l2_advertisements.clear();
    cluster.advertisement("rack", &json!({"nodeSelectors": [{"matchLabels": {"rack": "9"}}]}));
    assert_eq!(why(&cluster).0, Some(NotAnnounced::NoMatchingNode));
    cluster.service("web", &["10.0.0.5"], &["x"], &json!({"spec": {"externalTrafficPolicy": "Local"}}));
    let (not_announced, message) = why(&cluster);
    assert_eq!(not_announced, Some(NotAnnounced::NoLocalEndpoint));
    assert!(message.contains("its endpoints are on x"), "{message}");
    cluster.objects.pods.clear();
    assert_eq!(why(&cluster).0, Some(NotAnnounced::NoCandidate));
}

#[test]
fn a_node_on_the_subnet_comes_first_though_it_is_cordoned_and_another_is_preferred() {
    for placement in PLACEMENTS {
        for only in ["a", "b", "c"] {
            let mut cluster = with_addresses(&["10.0.0.5"], placement);
            for node in ["a", "b", "c"] {
                let subnet = if node == only { "10.0.0.1/24" } else { "172.16.0.1/16" };
                set_eth0(&mut cluster, node, &[subnet], BOTH);
            }
            cluster.node(only, &json!({"spec": {"unschedulable": true}}));
            let preference = json!({"weight": 100, "preference": {"matchExpressions": [
                {"key": "name", "operator": "NotIn", "values": [only]}]}});
            cluster.advertisement("prefers", &json!({"preferredNodeSelectors": [preference]}));
            let view = cluster.view();
            assert_eq!(order(&view)[0], only, "{placement:?}");
            assert_eq!(*view.placed[&ip("10.0.0.5")], *only, "{placement:?}");
        }
    }
}

#[test]
fn the_subnet_must_be_on_an_interface_that_is_announced_on() {
    let mut cluster = with_addresses(&["10.0.0.5"], Placement::Balanced);
    cluster.configured.l2_advertisements.clear();
    cluster.advertisement("eth1", &json!({"interfaces": ["eth1"]}));
    for (node, eth0, eth1) in [("a", "10.0.0.1/24", "172.16.0.1/16"), ("b", "172.16.0.2/16", "10.0.0.2/24")] {
        let links = vec![link(node, "eth0", &[eth0], BOTH), link(node, "eth1", &[eth1], BOTH)];
        cluster.objects.links.insert(node.into(), links);
    }
    assert_eq!(order(&cluster.view()), ["b", "a"]);
}

#[test]
fn a_node_that_never_publishes_its_links_does_not_switch_the_subnet_preference_off() {
    for placement in PLACEMENTS {
        let mut cluster = with_addresses(&["10.0.0.5"], placement);
        cluster.objects.links.remove("c");
        set_eth0(&mut cluster, "a", &["172.16.0.1/16"], BOTH);
        assert_eq!(order(&cluster.view())[2], "a", "b is on the subnet, c may be");
        set_eth0(&mut cluster, "b", &["172.16.0.2/16"], BOTH);
        let view = cluster.view();
        let tiers: Vec<bool> =
            view.groups[&ip("10.0.0.5")].candidates.iter().map(|c| c.tier.remote).collect();
        assert_eq!(tiers, [false; 3], "no node is known to be on the subnet");
    }
}

#[test]
fn the_end_of_the_reachability_of_this_node_takes_effect_at_once() {
    for placement in PLACEMENTS {
        let mut cluster = with_addresses(&["10.0.0.5"], placement);
        let own = |subnets: &[&str], families| Some(vec![link("a", "eth0", subnets, families)]);
        cluster.objects.own_links = own(&["10.0.0.1/24"], BOTH);
        assert_eq!(cluster.candidates(), ["a", "b", "c"]);
        cluster.objects.own_links = own(&[], BOTH);
        let view = cluster.view();
        assert_eq!(order(&view)[2], "a", "it is the first to know that its address is gone");
        cluster.objects.own_links = own(&["10.0.0.1/24"], NEITHER);
        assert_eq!(cluster.candidates(), ["b", "c"], "no packet socket");
        cluster.objects.own_links = Some(Vec::new());
        assert_eq!(cluster.candidates(), ["b", "c"], "the interface is down");
    }
}

#[test]
fn nodes_that_start_together_do_not_each_consider_themselves_the_only_one_on_the_subnet() {
    let mut cluster = with_addresses(&["10.0.0.5"], Placement::Balanced);
    cluster.objects.links.clear();
    let placed: BTreeSet<NodeName> = ["a", "b", "c"]
        .into_iter()
        .map(|node| {
            cluster.settings.me = node.into();
            cluster.objects.own_links = Some(vec![link(node, "eth0", &["10.0.0.1/24"], BOTH)]);
            cluster.view().placed[&ip("10.0.0.5")].clone()
        })
        .collect();
    assert_eq!(placed.len(), 1, "all agree while nothing is published");
}

#[test]
fn an_owner_that_has_to_hand_over_keeps_its_links_until_then() {
    let selector = |node: &str| json!({"nodeSelectors": [{"matchLabels": {"name": node}}]});
    let mut cluster = with_service();
    cluster.configured.l2_advertisements.clear();
    cluster.advertisement("some", &selector("a"));
    let before = cluster.view();
    let scope = |view: &View| view.groups[&ip("10.0.0.5")].addresses.get(ip("10.0.0.5")).cloned().unwrap();
    assert_eq!(scope(&before), Scope::All);
    let mut excluded = cluster.clone();
    excluded.node("a", &json!({"metadata": {"labels": {crds::names::LABEL_EXCLUDE_NODE: ""}}}));
    assert_eq!(scope(&excluded.view_after(Some(&before))), Scope::All);
    cluster.configured.l2_advertisements.clear();
    cluster.advertisement("some", &selector("b"));
    let after = cluster.view_after(Some(&before));
    assert_eq!((names(&after), scope(&after)), (vec!["b".to_owned()], Scope::All));
}

/// The number of candidates of the only group, and whether this node may keep it if it owns it.
fn who(cluster: &Cluster) -> (usize, bool) {
    let view = cluster.view();
    let group = view.groups.values().next().unwrap();
    (group.candidates.iter().count(), group.retainable)
}

#[test]
fn requirement_4_an_owner_that_is_not_ready_may_keep_a_group_that_no_other_node_can_announce() {
    let unavailable = json!({"status": {"conditions": [{"type": "NetworkUnavailable", "status": "True"}]}});
    for policy in ["Cluster", "Local"] {
        let mut cluster = Cluster::new();
        cluster.service("web", &["10.0.0.5"], &["a"], &json!({"spec": {"externalTrafficPolicy": policy}}));
        cluster.pod("a", false);
        let others = if policy == "Local" { 0 } else { 2 };
        assert_eq!(who(&cluster), (others, others == 0), "{policy}");
        cluster.pod("b", false);
        cluster.pod("c", false);
        assert_eq!(who(&cluster), (0, true), "{policy}: no speaker is ready");
        cluster.objects.pods.clear();
        assert_eq!(who(&cluster), (0, true), "{policy}: nor is there a pod");
        cluster.node("a", &unavailable);
        assert_eq!(who(&cluster), (0, true), "{policy}: nor has the node a network, as it seems");
    }
}

#[test]
fn requirement_8_a_speaker_that_is_not_ready_may_be_running_and_one_on_a_lost_node_is_not() {
    let mut cluster = Cluster::new();
    cluster.pod("a", false);
    let runs = |cluster: &Cluster| cluster.view().speakers["a"].running;
    assert!(runs(&cluster));
    for (condition, status, expected) in
        [("Ready", "False", true), ("NetworkUnavailable", "True", true), ("Ready", "Unknown", false)]
    {
        let conditions = json!({"status": {"conditions": [{"type": condition, "status": status}]}});
        cluster.node("a", &conditions);
        assert_eq!(runs(&cluster), expected, "{condition} {status}");
    }
}

#[test]
fn an_owner_that_may_not_announce_does_not_keep_a_group_because_it_is_not_ready() {
    let label = |value: &str| json!({"metadata": {"labels": {"node.kubernetes.io/exclude-from-external-load-balancers": value}}});
    let mut cluster = Cluster::new();
    cluster.service("web", &["10.0.0.5"], &["b"], &json!({"spec": {"externalTrafficPolicy": "Local"}}));
    cluster.pod("a", false);
    cluster.pod("b", false);
    assert_eq!(who(&cluster), (0, false), "it has no endpoint");
    cluster.service("web", &["10.0.0.5"], &[], &json!({}));
    assert_eq!(who(&cluster), (0, false), "no node has");
    cluster.service("web", &["10.0.0.5"], &["a"], &json!({}));
    cluster.pod("c", false);
    assert_eq!(who(&cluster), (0, true));
    cluster.settings.exclude_label = ExcludeLabel::Honour;
    cluster.node("a", &label("true"));
    assert_eq!(who(&cluster), (0, false), "the label says so");
}
