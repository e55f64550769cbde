//! Another load balancer that writes the status of a Service.

use std::time::{Duration, Instant};

use e2e::Env;
use e2e::wait::poll;

use crate::support::SOON;

/// How long the other load balancer restores what it wrote, and how often it checks.
const RESTORES_FOR: Duration = Duration::from_secs(12);
const CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// The maximum number of writes of the other load balancer: the first, and responses to our first writes.
const MAX_WRITES: usize = 3;

const SERVICE: &str = "apiVersion: v1
kind: Service
metadata: {name: control-vip, namespace: default}
spec:
  type: LoadBalancer
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}]
";

/// metallb/metallb#2971, #2396.
pub(crate) fn writes_addresses_of_its_own(env: &Env) {
    let pool = env.pool("public", "192.168.33.200-192.168.33.210");
    let selector =
        r#"{"spec":{"serviceAllocation":{"serviceSelectors":[{"matchLabels":{"tier":"public"}}]}}}"#;
    env.kubectl(&[
        "patch",
        "ipaddresspool",
        "public",
        "-n",
        "metallb-system",
        "--type=merge",
        "-p",
        selector,
    ]);
    // No pool admits the Service, so it has no other address.
    env.apply(SERVICE);
    env.event("Service", "control-vip", "AllocationFailed", SOON);
    assert_eq!(restore_repeatedly(env, "192.168.33.150"), 1, "writes of the other load balancer");
    poll("the condition contains a hint", SOON, || {
        let service = env.get(&["service", "control-vip"]);
        service["status"]["conditions"].to_string().contains("loadBalancerClass").then_some(())
    });
    // Now a pool admits it: the assigned address replaces the entry. A writer that repeatedly restores the
    // old one is left alone and reported.
    env.kubectl(&["label", "service", "control-vip", "tier=public"]);
    poll("an address of the pool replaces it", SOON, || {
        current(env).starts_with("192.168.33.20").then_some(())
    });
    let writes = restore_repeatedly(env, "192.168.33.150");
    assert!(writes <= MAX_WRITES, "{writes} writes of the other load balancer");
    assert_eq!(current(env), "192.168.33.150", "the repeatedly restored entry stays");
    let text = env.event("Service", "control-vip", "StatusContested", SOON);
    assert!(text.contains("other-balancer") && text.contains("loadBalancerClass"), "{text}");
    let described = env.kubectl(&["describe", "service", "control-vip"]);
    assert!(described.contains("StatusContested"), "{described}");
    let list = env.get(&["events", "--field-selector", "involvedObject.name=control-vip"]);
    let events = list["items"].as_array().map_or(0, Vec::len);
    assert!(events <= 10, "a handful of events: {list}");
    env.delete(SERVICE);
    env.delete(&pool);
}

/// Simulates the other load balancer: writes `address` whenever the status has another one. Returns the
/// number of writes.
fn restore_repeatedly(env: &Env, address: &str) -> usize {
    let patch = format!(r#"{{"status":{{"loadBalancer":{{"ingress":[{{"ip":"{address}"}}]}}}}}}"#);
    let end = Instant::now() + RESTORES_FOR;
    let mut writes = 0;
    while Instant::now() < end {
        if current(env) != address {
            writes += 1;
            env.kubectl(&[
                "patch",
                "service",
                "control-vip",
                "--subresource=status",
                "--field-manager=other-balancer",
                "--type=merge",
                "--patch",
                &patch,
            ]);
        }
        std::thread::sleep(CHECK_INTERVAL);
    }
    writes
}

/// The first address in the status of the Service; empty if it has none.
fn current(env: &Env) -> String {
    let service = env.get(&["service", "control-vip"]);
    service["status"]["loadBalancer"]["ingress"][0]["ip"].as_str().unwrap_or_default().to_owned()
}
