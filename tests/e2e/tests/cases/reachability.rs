//! An address is announced by a node that can reach its network.

use e2e::Env;
use e2e::wait::poll;
use testbed::LanOptions;

use crate::support::{REPLACED, SOON, answering, serves_a_new_client, status_names, status_nodes};

/// Addresses for which node1 is first in the order of `Hash`: SHA-256 of `node#address`.
const FIRST_ON_NODE1: [&str; 3] = ["fd00:33::205", "fd00:33::206", "fd00:33::207"];

/// metallb/metallb#1507, k3s-io/k3s#6978.
pub(crate) fn node_without_ipv6(env: &Env) {
    let node1 = env.cluster.node("node1").unwrap().host;
    let routes = node1.run(["ip", "-6", "route", "show", "dev", "eth0"]).unwrap();
    let disable = |off: bool| {
        let value = format!("net.ipv6.conf.eth0.disable_ipv6={}", u8::from(off));
        node1.run(["sysctl", "-qw", &value]).unwrap();
    };
    let enable = || {
        disable(false);
        let address = format!("{}/64", node1.v6.unwrap());
        node1.run(["ip", "-6", "address", "add", &address, "dev", "eth0", "nodad"]).unwrap();
        for route in routes.lines().filter(|line| line.contains("via")) {
            let words = ["ip", "-6", "route", "replace"].into_iter().chain(route.split_whitespace());
            node1.run(words.chain(["dev", "eth0"])).unwrap();
        }
    };
    let pool = env.pool("six", "fd00:33::200-fd00:33::2ff");
    let web = env.web();
    env.web_away_from("node1");
    disable(true);
    let names = ["six-0", "six-1", "six-2"];
    let services: Vec<String> = names
        .into_iter()
        .zip(FIRST_ON_NODE1)
        .map(|(name, address)| {
            let spec =
                format!("loadBalancerIP: \"{address}\"\n  ipFamilies: [IPv6]\n  ipFamilyPolicy: SingleStack");
            env.service(name, "six", &spec)
        })
        .collect();
    let all_on_nodes_with_ipv6 = || {
        for (name, address) in names.into_iter().zip(FIRST_ON_NODE1) {
            let node = serves_a_new_client(env, address, REPLACED);
            assert_ne!(node, "node1", "{address}");
            status_names(env, name, &node);
        }
    };
    all_on_nodes_with_ipv6();
    place(env, "Hash");
    all_on_nodes_with_ipv6();
    // With IPv6 node1 is first in the order; it loses the addresses when IPv6 is disabled again.
    enable();
    poll("node1 announces the addresses that the hash assigns to it", REPLACED, || {
        FIRST_ON_NODE1.iter().all(|address| answering(env, address) == ["node1"]).then_some(())
    });
    disable(true);
    all_on_nodes_with_ipv6();
    enable();
    place(env, "Balanced");
    for manifest in services.iter().chain([&web, &pool]) {
        env.delete(manifest);
    }
}

/// Changes the placement, and waits until every speaker runs with it.
fn place(env: &Env, placement: &str) {
    let patch = format!(r#"{{"spec":{{"speaker":{{"placement":"{placement}"}}}}}}"#);
    env.kubectl(&["patch", "lbs", "default", "--type=merge", "--patch", &patch]);
    poll("the speakers are rolled out with the placement", SOON, || {
        let set = env.get(&["daemonset", "speaker", "--namespace", "metallb-system"]);
        set.to_string().contains(&format!("--placement={placement}")).then_some(())
    });
    env.kubectl(&[
        "rollout",
        "status",
        "daemonset/speaker",
        "--namespace",
        "metallb-system",
        "--timeout=180s",
    ]);
    env.stack_available();
}

/// metallb/metallb#1412.
pub(crate) fn cordoned_node_on_the_subnet(env: &Env) {
    let options = LanOptions { v4: "192.168.34.0/24".parse().unwrap(), v6: None, ..LanOptions::default() };
    let segment = env.cluster.lan().segment("br1", &options).unwrap();
    let node1 = env.cluster.node("node1").unwrap().host;
    let port = segment.attach(&node1, "eth1", "node1-side", 11).unwrap();
    let asker = segment.guest("side-asker", 100).unwrap();
    let address: std::net::IpAddr = "192.168.34.201".parse().unwrap();
    let pool = env.pool("side", "192.168.34.200-192.168.34.210");
    let web = env.web();
    env.kubectl(&["cordon", "node1"]);
    let manifest = env.service("side-door", "side", &format!("loadBalancerIP: {address}"));
    let announced_on_the_subnet = || {
        poll("node1 answers on the second segment", REPLACED, || {
            let answers = asker.host.who_has(address, std::time::Duration::from_millis(100)).unwrap();
            (answers == [port.host.mac]).then_some(())
        });
        asker.host.flush_neighbours().unwrap();
        poll("the second client is served", SOON, || asker.host.curl(&format!("http://{address}/")).ok());
        status_names(env, "side-door", "node1");
    };
    announced_on_the_subnet();
    crate::support::replace_pods(env, "speaker");
    announced_on_the_subnet();
    env.kubectl(&["uncordon", "node1"]);
    for manifest in [manifest, web, pool] {
        env.delete(&manifest);
    }
}

/// metallb/metallb#1511, cilium/cilium#41641.
pub(crate) fn interface_without_address(env: &Env) {
    let node3 = env.cluster.node("node3").unwrap().host;
    let port = env.cluster.lan().attach(&node3, "eth1", "node3-uplink", 43).unwrap();
    node3.run(["ip", "address", "flush", "dev", "eth1"]).unwrap();
    for setting in ["all.rp_filter=0", "eth1.rp_filter=0", "eth0.arp_ignore=1", "eth1.arp_ignore=1"] {
        node3.run(["sysctl", "-qw", &format!("net.ipv4.conf.{setting}")]).unwrap();
    }
    let pool = env.pool("uplink", "192.168.33.208-192.168.33.208");
    env.kubectl(&[
        "patch",
        "l2advertisement",
        "uplink",
        "--namespace",
        "metallb-system",
        "--type=merge",
        "--patch",
        r#"{"spec":{"interfaces":["eth1"]}}"#,
    ]);
    let web = env.web();
    let service = env.service("uplink", "uplink", "");
    let address = "192.168.33.208";
    let announced = || {
        poll("node3 answers from the interface that has no address", REPLACED, || {
            (env.who_has(address) == [port.host.mac.to_string()]).then_some(())
        });
        env.served(&format!("http://{address}/"), SOON);
        status_names(env, "uplink", "node3");
    };
    announced();
    node3.run(["ip", "link", "set", "eth1", "down"]).unwrap();
    poll("no node announces, and no status names one", SOON, || {
        (answering(env, address).is_empty() && status_nodes(env, "uplink").is_empty()).then_some(())
    });
    poll("kubectl describe says that no node has the interface up", REPLACED, || {
        let text = env.kubectl(&["describe", "service", "uplink"]);
        text.lines().any(|line| line.contains("announceFailed") && line.contains("eth1")).then_some(())
    });
    node3.run(["ip", "link", "set", "eth1", "up"]).unwrap();
    announced();
    for manifest in [service, web, pool] {
        env.delete(&manifest);
    }
    drop(port);
    for setting in ["all.rp_filter=2", "eth0.arp_ignore=0"] {
        node3.run(["sysctl", "-qw", &format!("net.ipv4.conf.{setting}")]).unwrap();
    }
}
