use serde_json::{Value, json};

use super::*;

fn service(spec: Value, annotations: Value) -> Service {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "shop", "annotations": annotations}, "spec": spec,
    }))
    .unwrap()
}

fn request(spec: Value, annotations: Value) -> Request {
    Request::from_service(&service(spec, annotations))
}

fn v4() -> Value {
    json!({"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"]})
}

fn dual() -> Value {
    json!({"clusterIPs": ["10.96.0.1", "fd00::1"], "ipFamilies": ["IPv4", "IPv6"],
        "ipFamilyPolicy": "PreferDualStack"})
}

fn with(mut spec: Value, more: Value) -> Value {
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    spec
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn families_come_from_the_cluster_ips() {
    let families = |spec| request(spec, json!({})).families;
    assert_eq!(families(v4()), Ok(Families::Single(Family::V4)));
    assert_eq!(families(json!({"clusterIP": "fd00::1"})), Ok(Families::Single(Family::V6)));
    assert_eq!(families(dual()), Ok(Families::Dual { primary: Family::V4, required: false }));
    let reversed =
        with(dual(), json!({"ipFamilies": ["IPv6", "IPv4"], "ipFamilyPolicy": "RequireDualStack"}));
    assert_eq!(families(reversed), Ok(Families::Dual { primary: Family::V6, required: true }));
    assert_eq!(families(json!({})), Err(RequestError::NoClusterIp));
    assert_eq!(families(json!({"clusterIP": "None"})), Err(RequestError::NoClusterIp));
    let short = with(v4(), json!({"ipFamilyPolicy": "RequireDualStack"}));
    assert_eq!(families(short), Err(RequestError::NotEnoughClusterIps));
}

#[test]
fn addresses_and_pools_are_read_in_every_notation() {
    let wanted = |spec, annotations| request(spec, annotations).wanted.unwrap();
    let addresses = |list: &[&str], pool: Option<&str>| Wanted::Addresses {
        addresses: ips(list),
        pool: pool.map(str::to_owned),
    };
    assert_eq!(wanted(v4(), json!({})), Wanted::Any);
    assert_eq!(wanted(v4(), json!({"metallb.io/address-pool": "a"})), Wanted::Pool("a".into()));
    assert_eq!(wanted(v4(), json!({"metallb.universe.tf/address-pool": "a"})), Wanted::Pool("a".into()));
    assert_eq!(wanted(v4(), json!({"metallb.io/loadBalancerIPs": ""})), Wanted::Any);
    assert_eq!(
        wanted(v4(), json!({"metallb.io/loadBalancerIPs": " 1.2.3.4 "})),
        addresses(&["1.2.3.4"], None)
    );
    assert_eq!(
        wanted(with(v4(), json!({"loadBalancerIP": "1.2.3.4"})), json!({})),
        addresses(&["1.2.3.4"], None)
    );
    let both = json!({"metallb.universe.tf/address-pool": "realpool",
        "metallb.universe.tf/loadBalancerIPs": "192.168.33.30"});
    assert_eq!(wanted(v4(), both), addresses(&["192.168.33.30"], Some("realpool")));
    assert_eq!(
        wanted(dual(), json!({"metallb.io/loadBalancerIPs": "fc00::1, 1.2.3.4"})),
        addresses(&["fc00::1", "1.2.3.4"], None),
        "in the order of the user"
    );
}

#[test]
fn an_invalid_request_is_reported() {
    let fault = |spec, ips: &str| {
        request(spec, json!({"metallb.io/loadBalancerIPs": ips})).wanted.unwrap_err().to_string()
    };
    assert!(fault(v4(), "1.2.3").contains("\"1.2.3\", which is not a valid IP address"));
    assert!(fault(v4(), "1.2.3.4,").contains("\"\", which is not a valid IP address"));
    assert!(fault(v4(), "1.2.3.4,1.2.3.5").contains("more than one IPv4 address"));
    assert!(fault(v4(), "fc00::1").contains("asks for IPv6, but the Service is IPv4 only"));
    assert!(fault(dual(), "1.2.3.4").contains("asks for IPv4, but the Service is dual-stack"));
    assert!(
        fault(with(v4(), json!({"loadBalancerIP": "1.2.3.4"})), "1.2.3.4")
            .contains("both spec.loadBalancerIP")
    );
}

#[test]
fn the_current_prefix_wins_even_when_it_is_empty() {
    let annotations = json!({"metallb.io/address-pool": "", "metallb.universe.tf/address-pool": "a"});
    assert_eq!(request(v4(), annotations).wanted, Ok(Wanted::Any));
}

#[test]
fn a_sharing_key_is_the_annotation_and_with_local_traffic_policy_the_selector() {
    let key = |spec, value: &str| request(spec, json!({"metallb.io/allow-shared-ip": value})).sharing.key;
    let selected = with(v4(), json!({"selector": {"b": "2", "a": "1"}}));
    assert_eq!(key(selected.clone(), "k"), Some(SharingKey { value: "k".into(), backend: String::new() }));
    let local = with(selected, json!({"externalTrafficPolicy": "Local"}));
    assert_eq!(key(local, "k"), Some(SharingKey { value: "k".into(), backend: "a=1,b=2".into() }));
    assert_eq!(key(v4(), ""), None);
}

#[test]
fn services_share_with_equal_keys_and_different_ports_only() {
    let sharing = |key: &str, ports: Value| {
        request(with(v4(), json!({"ports": ports})), json!({"metallb.io/allow-shared-ip": key})).sharing
    };
    let (tcp, udp) = (json!([{"port": 53}]), json!([{"port": 53, "protocol": "UDP"}]));
    assert!(sharing("k", tcp.clone()).may_share(&sharing("k", udp.clone())));
    assert!(!sharing("k", tcp.clone()).may_share(&sharing("k", tcp.clone())));
    assert!(!sharing("k", tcp.clone()).may_share(&sharing("l", udp.clone())));
    assert!(!sharing("", tcp).may_share(&sharing("", udp)));
}
