//! What is reported of announcements.

use super::*;

fn what(addresses: &[&str]) -> DesiredStatus {
    DesiredStatus {
        interfaces: Box::default(),
        epoch: 1,
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
    }
}

#[test]
fn requirement_8_events_refer_to_the_service_by_its_uid_for_kubectl_describe() {
    assert_eq!(reference(&service("web"), "3d0e").uid.as_deref(), Some("3d0e"));
    assert_eq!(reference(&service("web"), "").uid, None, "not known while the API server is away");
}

#[test]
fn requirement_8_a_service_whose_addresses_are_all_withheld_is_not_reported_as_announced() {
    use announce::layer2::view::NodeAddress;

    use crate::fixtures::{address, group, view};

    let (address, mut view) = (address(), view());
    let services = [Arc::new(service("web"))].into();
    view.groups.insert(address, Arc::new(announce::layer2::view::Group { services, ..group(&["a"]) }));
    let owned = Arc::new([(address, 3)].into());
    let mut published = Published { view: Arc::new(view.clone()), owned, ..Published::default() };
    assert_eq!(desired(&published).len(), 1);
    view.node_addresses.insert(address, NodeAddress { node: "node2".into(), interface: None, mac: None });
    published.view = Arc::new(view);
    assert!(desired(&published).is_empty());
}

#[test]
fn requirement_8_a_service_whose_only_candidate_is_not_ready_is_announced_as_long_as_its_speaker_runs() {
    let status = |node: &str| {
        let (name, service) = (node.into(), service(node));
        Arc::new(AnnouncementInfo { name, service, node: node.into(), epoch: 1, interfaces: None })
    };
    let mut view = announce::layer2::view::View::default();
    for (node, running) in [("node1", true), ("node2", false)] {
        let speaker = announce::cluster::Speaker { address: None, ready: false, running, generation: 1 };
        view.speakers.insert(node.into(), speaker);
    }
    let published = Published { view: Arc::new(view), ..Published::default() };
    let statuses = ["node1", "node2", "node3"].map(status);
    assert_eq!(announced(&statuses, &published), [&service("node1")].into());
}

fn service(name: &str) -> ServiceKey {
    ServiceKey { namespace: "default".into(), name: name.into() }
}

/// Names of the objects to be deleted.
fn stale(objects: &[(&str, &str, &str)], announced: &[&str], stay: &[&str]) -> Vec<String> {
    let object = |(name, name_of_service, node): &(&str, &str, &str)| {
        let (name, service) = ((*name).into(), service(name_of_service));
        Arc::new(AnnouncementInfo { name, service, node: (*node).into(), epoch: 1, interfaces: None })
    };
    let objects: Vec<_> = objects.iter().map(object).collect();
    let announced = announced.iter().map(|name| (Arc::new(service(name)), what(&[]))).collect();
    let stays = |status: &AnnouncementInfo| stay.contains(&&*status.service.name);
    let is_orphan = |status: &AnnouncementInfo| *status.node == *"gone";
    let (_, stale) = classify(&objects, &"node1".into(), &announced, stays, is_orphan);
    stale.into_iter().map(|object| object.name.to_string()).collect()
}

#[test]
fn objects_of_other_nodes_are_deleted_once_this_node_announces_the_service() {
    let objects = [("a", "web", "node1"), ("b", "web", "node2"), ("c", "db", "node2")];
    assert_eq!(stale(&objects, &["web"], &[]), ["b"]);
}

#[test]
fn of_several_objects_of_this_node_the_one_with_its_own_name_is_kept() {
    let ours = name(&service("web"), "node1");
    for objects in [
        [("l2-abcde", "web", "node1"), (&ours, "web", "node1")],
        [(&ours, "web", "node1"), ("l2-abcde", "web", "node1")],
    ] {
        assert_eq!(stale(&objects, &["web"], &[]), ["l2-abcde"]);
    }
}

#[test]
fn objects_of_a_removed_node_are_deleted_with_the_service() {
    let objects = [("a", "web", "gone"), ("b", "web", "node2")];
    assert_eq!(stale(&objects, &[], &[]), ["a"]);
}

#[test]
fn the_object_of_a_service_is_kept_until_it_is_announced_elsewhere() {
    let objects = [("a", "web", "node1"), ("b", "db", "node1")];
    assert_eq!(stale(&objects, &[], &["web"]), ["b"]);
}
