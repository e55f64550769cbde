//! Tutorial 002: two Services from a range of three addresses, more pods, and all of it made again.

use std::collections::BTreeSet;
use std::time::Duration;

use e2e::{Bed, wait};

const CONFIG: &str = include_str!("../../manifests/tutorial-002/metallb-l2config.yaml");
const SERVED: Duration = Duration::from_secs(60);

fn create_and_expose(bed: &Bed, deployment: &str, service: &str) {
    bed.kubectl(&["create", "deployment", deployment, "--image", bed.cluster.web_image()]);
    let name = format!("--name={service}");
    let ports = ["--port=80", "--target-port=8080"];
    bed.kubectl(&["expose", "deployment", deployment, "--type=LoadBalancer", &name, ports[0], ports[1]]);
}

fn scale(bed: &Bed, deployment: &str, replicas: &str) {
    bed.kubectl(&["scale", "deployment", deployment, replicas]);
    bed.kubectl(&["rollout", "status", "deployment", deployment, "--timeout=60s"]);
}

pub(crate) fn exposed(bed: &Bed) {
    bed.stack_up();
    bed.apply(CONFIG);
    for (deployment, service, address) in
        [("lb-hname-pods", "lb-hname-svc", "192.168.1.11"), ("lb-ip-pods", "lb-ip-svc", "192.168.1.12")]
    {
        create_and_expose(bed, deployment, service);
        scale(bed, deployment, "--replicas=3");
        assert_eq!(bed.address("default", service), address);
        let answer = bed.served(&format!("http://{address}"), SERVED);
        assert!(answer.contains(deployment), "{answer}");
    }
    let config = bed.kubectl(&["get", "configmap", "-n", "metallb-system", "config"]);
    assert!(config.contains("config   1"), "the ConfigMap stays the user's: {config}");
}

pub(crate) fn scaled(bed: &Bed) {
    let traffic = bed.http("192.168.1.11:80");
    scale(bed, "lb-hname-pods", "--replicas=6");
    let mut pods = BTreeSet::new();
    wait::poll("all six pods answer", SERVED, || {
        pods.insert(bed.served("http://192.168.1.11", SERVED));
        (pods.len() == 6).then_some(())
    });
    let seen = bed.seen(traffic);
    assert!(seen.lost == 0 && seen.answered > 0, "{seen:?}");
    assert!(seen.names.keys().all(|name| name.starts_with("lb-hname-pods")), "{seen:?}");
}

pub(crate) fn deleted_and_made_again(bed: &Bed) {
    bed.kubectl(&["delete", "deployment", "lb-hname-pods", "lb-ip-pods"]);
    bed.kubectl(&["delete", "service", "lb-hname-svc", "lb-ip-svc"]);
    create_and_expose(bed, "hpa-hname-pods", "hpa-hname-svc");
    assert_eq!(bed.address("default", "hpa-hname-svc"), "192.168.1.11");
    wait::poll("the new pods answer", SERVED, || {
        bed.served("http://192.168.1.11", SERVED).contains("hpa-hname-pods").then_some(())
    });
}
