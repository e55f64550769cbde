//! Addresses that a node's own kernel holds.

use e2e::Bed;
use e2e::wait::poll;

use crate::support::{
    REPLACED, SOON, answering, list, only_answer, serves_a_new_client, status_names, status_nodes,
};

fn selected_nodes(nodes: &str) -> String {
    let selector = format!(
        r#"{{"matchExpressions":[{{"key":"kubernetes.io/hostname","operator":"In","values":[{nodes}]}}]}}"#
    );
    format!(r#"{{"spec":{{"nodeSelectors":[{selector}]}}}}"#)
}

fn announce_from(bed: &Bed, advertisement: &str, patch: &str) {
    bed.kubectl(&[
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
pub(crate) fn in_a_pool(bed: &Bed) {
    let nodes = ["node1", "node2", "node3"]
        .map(|name| (name, format!("192.168.33.{}", 10 + name[4..].parse::<u8>().unwrap())));
    let pool = bed.pool("lan", "192.168.33.10-192.168.33.14");
    announce_from(bed, "lan", &selected_nodes(r#""node1","node3""#));
    let web = bed.web();
    let asks = bed.service("asks", "lan", &format!("loadBalancerIP: {}", nodes[1].1));
    let others: Vec<String> =
        ["a", "b", "c", "d"].into_iter().map(|name| bed.service(name, "lan", "")).collect();
    // The two free addresses are served; by then every speaker has acted on all of the Services.
    for address in ["192.168.33.10", "192.168.33.14"] {
        let given = || bed.kubectl(&["get", "services", "--output", "wide"]).contains(address);
        poll(&format!("{address} is assigned"), SOON, || given().then_some(()));
        serves_a_new_client(bed, address, REPLACED);
    }
    let each_node_answers_alone = || {
        for (name, address) in &nodes {
            for _ in 0..5 {
                assert_eq!(answering(bed, address), [*name], "{address}");
            }
        }
    };
    each_node_answers_alone();
    announce_from(bed, "lan", r#"{"spec":{"nodeSelectors":[]}}"#);
    for address in ["192.168.33.10", "192.168.33.14"] {
        serves_a_new_client(bed, address, REPLACED);
    }
    each_node_answers_alone();
    bed.cluster.wait_for_nodes(3, SOON).unwrap();
    for manifest in others.iter().chain([&asks, &web, &pool]) {
        bed.delete(manifest);
    }
}

/// metallb/metallb#2641, #1896.
pub(crate) fn on_another_node(bed: &Bed) {
    let node1 = bed.cluster.node("node1").unwrap().host;
    let address = "192.168.33.201";
    let holds = |yes: bool| {
        let verb = if yes { "add" } else { "del" };
        node1.run(["ip", "address", verb, &format!("{address}/32"), "dev", "eth0"]).unwrap();
    };
    holds(true);
    let pool = bed.pool("shop", "192.168.33.200-192.168.33.210");
    announce_from(bed, "shop", &selected_nodes(r#""node2","node3""#));
    let web = bed.web();
    let service = bed.service("shop", "shop", &format!("loadBalancerIP: {address}"));
    let is_reported = || {
        poll("the conflict names node1's link-layer address", REPLACED, || {
            let conflicts = list(bed, "addressconflicts");
            let text = conflicts.iter().find(|conflict| conflict.to_string().contains(address))?.to_string();
            text.to_lowercase().contains(&node1.mac.to_string()).then_some(())
        });
        poll("kubectl describe of the Service warns that node1 has the address", REPLACED, || {
            let text = bed.kubectl(&["describe", "service", "shop"]);
            text.lines().any(|line| line.contains("Warning") && line.contains("node1")).then_some(())
        });
        assert_eq!(only_answer(bed, address, SOON), "node1");
        poll("no status claims that a node announces it", SOON, || {
            status_nodes(bed, "shop").is_empty().then_some(())
        });
    };
    let is_served = || {
        poll("a speaker announces it", REPLACED * 2, || {
            (answering(bed, address).first()? != "node1").then_some(())
        });
        let node = serves_a_new_client(bed, address, REPLACED);
        status_names(bed, "shop", &node);
        poll("the conflict is gone", REPLACED, || {
            list(bed, "addressconflicts")
                .iter()
                .all(|conflict| !conflict.to_string().contains(address))
                .then_some(())
        });
    };
    is_reported();
    holds(false);
    is_served();
    // Now it comes while a speaker announces it.
    holds(true);
    node1.announce(address.parse().unwrap()).unwrap();
    is_reported();
    holds(false);
    is_served();
    for manifest in [service, web, pool] {
        bed.delete(&manifest);
    }
}
