//! Addresses of Services and pools that nodes have.

use super::*;

fn holder<'a>(view: &'a View, address: &str) -> Option<(&'a str, Option<&'a str>)> {
    let holder = view.node_addresses.get(&ip(address))?;
    Some((&*holder.node, holder.interface.as_deref()))
}

#[test]
fn requirement_3_a_view_contains_the_node_of_an_address_of_a_pool_or_service() {
    let mut cluster = Cluster::new();
    // An address of a deleted pool.
    cluster.service("web", &["192.0.2.1", "fd00::1"], &["a"], &json!({}));
    cluster.links("a", "eth0", "10.0.0.11/24");
    cluster.links("b", "vlan7", "fd00::1/128");
    cluster.other_addresses("c", "192.0.2.1", "dummy0");
    let status = json!({"status": {"addresses": [
        {"type": "Hostname", "address": "d"},
        {"type": "InternalIP", "address": "10.0.0.14"},
        {"type": "ExternalIP", "address": "198.51.100.14"},
    ]}});
    // This node runs no speaker.
    cluster.node("d", &status);
    let view = cluster.view();
    assert_eq!(holder(&view, "10.0.0.11"), Some(("a", Some("eth0"))));
    assert_eq!(holder(&view, "fd00::1"), Some(("b", Some("vlan7"))));
    assert_eq!(holder(&view, "192.0.2.1"), Some(("c", Some("dummy0"))));
    assert_eq!(holder(&view, "10.0.0.14"), Some(("d", None)));
    assert_eq!(
        view.node_addresses.len(),
        4,
        "no pool or Service has other addresses: {:?}",
        view.node_addresses
    );
}

#[test]
fn requirement_3_an_address_of_a_node_that_has_left_the_cluster_is_free() {
    let mut cluster = Cluster::new();
    cluster.links("gone", "eth0", "10.0.0.11/24");
    assert!(cluster.view().node_addresses.is_empty());
}

#[test]
fn requirement_3_reports_of_a_speaker_stay_valid_during_its_restart_but_not_after_its_removal() {
    let mut cluster = Cluster::new();
    cluster.links("b", "eth0", "10.0.0.11/24");
    cluster.other_addresses("b", "10.0.0.12", "dummy0");
    cluster.pod("b", false);
    assert_eq!(cluster.view().node_addresses.len(), 2);
    cluster.objects.pods.retain(|pod| pod.metadata.name.as_deref() != Some("speaker-b"));
    assert!(cluster.view().node_addresses.is_empty(), "probes find out whether it still has them");
}
