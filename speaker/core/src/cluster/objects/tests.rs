use serde_json::{Value, json};

use super::*;

fn read<K: serde::de::DeserializeOwned>(object: Value) -> K {
    serde_json::from_value(object).unwrap()
}

fn service(spec: Value, status: Value, annotations: Value) -> Option<ServiceInfo> {
    let service = json!({
        "metadata": {
            "namespace": "shop", "name": "web", "annotations": annotations, "labels": {"a": "1", "b": "2"},
        },
        "spec": spec, "status": status,
    });
    ServiceInfo::from_service(read(service), None)
}

#[test]
fn a_service_is_summarised_with_its_addresses_in_order_and_its_policy() {
    let status = json!({
        "loadBalancer": {"ingress": [{"ip": "::ffff:10.0.0.1"}, {"hostname": "x"}, {"ip": "fd00::1"}]},
    });
    let local = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"});
    let info = service(local, status.clone(), json!({"metallb.io/allow-shared-ip": "key"})).unwrap();
    assert_eq!(*info.key, ServiceKey::new("shop", "web"));
    assert_eq!(*info.addresses, ["10.0.0.1", "fd00::1"].map(|ip| ip.parse::<IpAddr>().unwrap()));
    assert_eq!(*info.labels, [("a".into(), "1".into()), ("b".into(), "2".into())]);
    assert!(info.local && info.shared);
    let info = service(json!({"type": "LoadBalancer"}), status.clone(), json!({})).unwrap();
    assert!(!info.local && !info.shared);
    assert_eq!(service(json!({"type": "ClusterIP"}), status.clone(), json!({})), None);
    let foreign = json!({"type": "LoadBalancer", "loadBalancerClass": "other"});
    assert_eq!(service(foreign, status, json!({})), None);
    assert_eq!(service(json!({"type": "LoadBalancer"}), json!({}), json!({})), None, "it has no address");
}

#[test]
fn only_nodes_of_endpoints_that_serve_are_kept_of_a_slice() {
    let slice = |endpoints: Value| {
        let slice = json!({
            "addressType": "IPv4", "endpoints": endpoints,
            "metadata": {
                "namespace": "shop", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"},
            },
        });
        EndpointSliceInfo::from_slice(read(slice))
    };
    let on =
        |node: &str, ready: bool| json!({"addresses": [], "nodeName": node, "conditions": {"ready": ready}});
    assert_eq!(slice(json!([])), None);
    assert_eq!(slice(json!([on("n1", false)])), None);
    let info = slice(json!([on("n2", true), on("n1", true), on("n2", true), on("n3", false)])).unwrap();
    assert_eq!(info.service, ServiceKey::new("shop", "web"));
    assert_eq!(*info.nodes, ["n1".into(), "n2".into()]);
    let elsewhere = slice(json!([{"addresses": []}])).unwrap();
    assert!(elsewhere.nodes.is_empty(), "an endpoint that is on no node serves all the same");
}

#[test]
fn a_heartbeat_of_a_node_does_not_change_its_summary() {
    let node = |time: &str, ready: &str| {
        let condition = json!({"type": "Ready", "status": ready, "lastHeartbeatTime": time});
        let node = json!({
            "metadata": {"name": "n1", "resourceVersion": time}, "status": {"conditions": [condition]},
        });
        NodeInfo::from_node(read(node))
    };
    let (early, late) = ("2026-01-01T00:00:00Z", "2026-01-01T00:05:00Z");
    assert_eq!(node(early, "True"), node(late, "True"));
    assert_ne!(node(early, "True"), node(late, "Unknown"));
}

#[test]
fn a_pod_that_is_being_deleted_is_not_ready_and_one_without_a_node_is_none() {
    let pod = |more: Value| {
        let mut pod = json!({
            "metadata": {"name": "speaker-x", "labels": {"pod-template-generation": "7"}},
            "spec": {"nodeName": "n1", "containers": []},
            "status": {"podIP": "192.168.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
        });
        for (key, value) in more.as_object().unwrap() {
            pod[key] = value.clone();
        }
        SpeakerPodInfo::from_pod(&read(pod))
    };
    let info = pod(json!({})).unwrap();
    assert_eq!((&*info.node, info.ready, info.generation), ("n1", true, 7));
    assert_eq!(info.address, Some("192.168.0.1".parse().unwrap()));
    let leaving =
        pod(json!({"metadata": {"name": "x", "deletionTimestamp": "2026-01-01T00:00:00Z"}})).unwrap();
    assert!(!leaving.ready && leaving.running);
    assert_eq!(pod(json!({"spec": {"containers": []}})), None);
    for (state, running) in [("running", true), ("waiting", false), ("terminated", false)] {
        let state = json!({state: if running { json!({}) } else { json!({"exitCode": 1}) }});
        let container = json!({
            "name": "speaker", "state": state, "ready": false, "restartCount": 1, "image": "", "imageID": "",
        });
        let pod = pod(json!({"status": {"containerStatuses": [container]}})).unwrap();
        assert_eq!((pod.ready, pod.running), (false, running), "{state}");
    }
}

#[test]
fn the_interfaces_of_a_status_are_kept_only_if_it_is_ours_and_matches_its_labels() {
    let status = |node: &str, status: Value| {
        let object = json!({
            "apiVersion": "metallb.io/v1beta1", "kind": "ServiceL2Status",
            "metadata": {
                "name": "l2-1",
                "annotations": {EPOCH: "5"},
                "labels": {LABEL_NODE: node, LABEL_SERVICE_NAME: "web", LABEL_SERVICE_NAMESPACE: "shop"},
            },
            "status": status,
        });
        AnnouncementInfo::from_status(read(object), "n1").unwrap()
    };
    let about = |node: &str, service: &str| {
        let interfaces = json!([{"name": "eth0"}]);
        json!({"node": node, "serviceName": service, "serviceNamespace": "shop", "interfaces": interfaces})
    };
    let info = status("n1", about("n1", "web"));
    assert_eq!((&*info.node, info.epoch, info.interfaces), ("n1", 5, Some(vec!["eth0".to_owned()])));
    assert_eq!(info.service, ServiceKey::new("shop", "web"));
    for (node, said) in [("n1", about("n1", "other")), ("n1", about("n2", "web")), ("n1", json!({}))] {
        assert_eq!(status(node, said.clone()).interfaces, None, "{said}");
    }
    assert_eq!(status("n2", about("n2", "web")).interfaces, None, "another node's");
}
