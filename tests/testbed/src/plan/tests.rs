use super::*;

fn options() -> Options {
    Options::default()
}

#[test]
fn the_default_lan_has_the_addresses_of_the_tutorials() {
    let plan = Plan::new(&options()).unwrap();
    assert_eq!(plan.lan.gateway.v4.to_string(), "192.168.33.1/24");
    assert_eq!(plan.control_plane.v4.addr().to_string(), "192.168.33.2");
    assert_eq!(plan.client.v4.addr().to_string(), "192.168.33.100");
    let nodes: Vec<String> = plan.nodes.iter().map(|node| node.machine.v4.addr().to_string()).collect();
    assert_eq!(nodes, ["192.168.33.11", "192.168.33.12", "192.168.33.13"]);
    assert_eq!(plan.nodes[1].machine.name, "node2");
    assert_eq!(plan.nodes[1].machine.mac.to_string(), "02:00:c0:a8:21:0c");
}

#[test]
fn ipv6_host_numbers_read_as_the_ipv4_ones_do() {
    let plan = Plan::new(&options()).unwrap();
    assert_eq!(plan.nodes[0].machine.v6.unwrap().to_string(), "fd00:33::11/64");
    assert_eq!(plan.client.v6.unwrap().addr().to_string(), "fd00:33::100");
    assert_eq!(plan.lan.gateway.v6.unwrap().addr().to_string(), "fd00:33::1");
}

#[test]
fn a_wide_lan_takes_host_numbers_of_two_octets() {
    let mut options = options();
    options.lan.v4 = "10.5.0.0/16".parse().unwrap();
    options.lan.first_node = 3 * 256 + 7;
    let plan = Plan::new(&options).unwrap();
    assert_eq!(plan.nodes[0].machine.v4.to_string(), "10.5.3.7/16");
}

#[test]
fn each_node_has_pod_networks_of_its_own() {
    let plan = Plan::new(&options()).unwrap();
    assert_eq!(plan.nodes[2].pods.v4.to_string(), "10.244.3.0/24");
    assert_eq!(plan.nodes[2].pods.v6.unwrap().to_string(), "fd00:10:244:3::/64");
}

#[test]
fn the_api_server_has_the_first_service_address_of_each_family() {
    let plan = Plan::new(&options()).unwrap();
    let addresses: Vec<String> = plan.api_service.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.96.0.1", "fd00:10:96::1"]);
    assert_eq!(plan.dns_service.to_string(), "10.96.0.10");
}

#[test]
fn two_machines_with_one_address_are_refused_by_name() {
    let mut options = options();
    options.lan.client = 12;
    let error = Plan::new(&options).unwrap_err().to_string();
    assert_eq!(error, "client and node2 would both be 192.168.33.12: give them different host numbers");
}

#[test]
fn a_host_number_outside_of_the_lan_is_refused_with_the_numbers_that_fit() {
    let mut options = options();
    options.lan.v4 = "192.168.33.0/28".parse().unwrap();
    options.lan.client = 15;
    let error = Plan::new(&options).unwrap_err().to_string();
    assert_eq!(error, "there is no host number 15 in 192.168.33.0/28: choose one from 1 to 14");
}

#[test]
fn overlapping_ranges_are_refused() {
    let mut options = options();
    options.lan.v4 = "10.96.0.0/12".parse().unwrap();
    let error = Plan::new(&options).unwrap_err().to_string();
    assert!(error.contains("the LAN 10.96.0.0/12 and the service range 10.96.0.0/16 overlap"), "{error}");
}

#[test]
fn an_id_that_would_not_do_as_a_file_name_is_refused() {
    for id in ["", "-x", "a/b", "Upper", "a.b", "much-longer-than-twenty-letters"] {
        assert!(check_id(id).is_err(), "{id:?}");
    }
    assert!(check_id("e2e-7").is_ok());
}

#[test]
fn a_link_layer_address_survives_being_written_and_read() {
    let mac: Mac = "02:00:c0:a8:21:0c".parse().unwrap();
    assert_eq!(mac.to_string().parse(), Ok(mac));
    assert!("02:00:c0:a8:21".parse::<Mac>().is_err());
    assert!("02:00:c0:a8:21:zz".parse::<Mac>().is_err());
}
