//! Addresses that a node has on its own interfaces.

use e2e::Env;
use e2e::wait::poll;

use crate::support::{
    REPLACED, SOON, answering, list, only_responder, serves_a_new_client, status_names, status_nodes,
};

fn selected_nodes(nodes: &str) -> String {
    let selector = format!(
        r#"{{"matchExpressions":[{{"key":"kubernetes.io/hostname","operator":"In","values":[{nodes}]}}]}}"#
    );
    format!(r#"{{"spec":{{"nodeSelectors":[{selector}]}}}}"#)
}

fn announce_from(env: &Env, advertisement: &str, patch: &str) {
    env.kubectl(&[
        "patch",
        "l2advertisement",
        advertisement,
        "--namespace",
        "metallb-system",
        "--type=merge",
        "--patch",
        patch,
    ]);
}

/// metallb/metallb#1397, #2455.
pub(crate) fn in_a_pool(env: &Env) {
    let nodes = ["node1", "node2", "node3"]
        .map(|name| (name, format!("192.168.33.{}", 10 + name[4..].parse::<u8>().unwrap())));
    let pool = env.pool("lan", "192.168.33.10-192.168.33.14");
    announce_from(env, "lan", &selected_nodes(r#""node1","node3""#));
    let web = env.web();
    let asks = env.service("asks", "lan", &format!("loadBalancerIP: {}", nodes[1].1));
    let others: Vec<String> =
        ["a", "b", "c", "d"].into_iter().map(|name| env.service(name, "lan", "")).collect();
    // When the two free addresses are served, every speaker has handled all of the Services.
    for address in ["192.168.33.10", "192.168.33.14"] {
        let assigned = || env.kubectl(&["get", "services", "--output", "wide"]).contains(address);
        poll(&format!("{address} is assigned"), SOON, || assigned().then_some(()));
        serves_a_new_client(env, address, REPLACED);
    }
    let each_node_answers_alone = || {
        for (name, address) in &nodes {
            for _ in 0..5 {
                assert_eq!(answering(env, address), [*name], "{address}");
            }
        }
    };
    each_node_answers_alone();
    announce_from(env, "lan", r#"{"spec":{"nodeSelectors":[]}}"#);
    for address in ["192.168.33.10", "192.168.33.14"] {
        serves_a_new_client(env, address, REPLACED);
    }
    each_node_answers_alone();
    env.cluster.wait_for_nodes(3, SOON).unwrap();
    for manifest in others.iter().chain([&asks, &web, &pool]) {
        env.delete(manifest);
    }
}

/// metallb/metallb#2641, #1896.
pub(crate) fn on_another_node(env: &Env) {
    let node1 = env.cluster.node("node1").unwrap().host;
    let address = "192.168.33.201";
    let set_address = |yes: bool| {
        let verb = if yes { "add" } else { "del" };
        node1.run(["ip", "address", verb, &format!("{address}/32"), "dev", "eth0"]).unwrap();
    };
    set_address(true);
    let pool = env.pool("shop", "192.168.33.200-192.168.33.210");
    announce_from(env, "shop", &selected_nodes(r#""node2","node3""#));
    let web = env.web();
    let service = env.service("shop", "shop", &format!("loadBalancerIP: {address}"));
    let is_reported = || {
        poll("the conflict names node1's link-layer address", REPLACED, || {
            let conflicts = list(env, "addressconflicts");
            let text = conflicts.iter().find(|conflict| conflict.to_string().contains(address))?.to_string();
            text.to_lowercase().contains(&node1.mac.to_string()).then_some(())
        });
        poll("kubectl describe of the Service warns that node1 has the address", REPLACED, || {
            let text = env.kubectl(&["describe", "service", "shop"]);
            text.lines().any(|line| line.contains("Warning") && line.contains("node1")).then_some(())
        });
        assert_eq!(only_responder(env, address, SOON), "node1");
        poll("no status names an announcing node", SOON, || {
            status_nodes(env, "shop").is_empty().then_some(())
        });
    };
    let is_served = || {
        poll("a speaker announces it", REPLACED * 2, || {
            (answering(env, address).first()? != "node1").then_some(())
        });
        let node = serves_a_new_client(env, address, REPLACED);
        status_names(env, "shop", &node);
        poll("the conflict is gone", REPLACED, || {
            list(env, "addressconflicts")
                .iter()
                .all(|conflict| !conflict.to_string().contains(address))
                .then_some(())
        });
    };
    is_reported();
    set_address(false);
    is_served();
    // Now the node gets the address while a speaker announces it.
    set_address(true);
    node1.announce(address.parse().unwrap()).unwrap();
    is_reported();
    set_address(false);
    is_served();
    for manifest in [service, web, pool] {
        env.delete(&manifest);
    }
}
