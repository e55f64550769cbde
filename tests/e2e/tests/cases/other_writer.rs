//! Another load balancer that writes the status of a Service.

use std::time::{Duration, Instant};

use e2e::Bed;
use e2e::wait::poll;

use crate::support::SOON;

/// How long the other load balancer restores what it wrote, and how often it checks.
const INSISTS: Duration = Duration::from_secs(12);
const CHECKS: Duration = Duration::from_millis(250);

/// The other load balancer writes at most this often: once, and what the first answers to it cost.
const PEACE: usize = 3;

const SERVICE: &str = "apiVersion: v1
kind: Service
metadata: {name: control-vip, namespace: default}
spec:
  type: LoadBalancer
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}]
";

/// metallb/metallb#2971, #2396.
pub(crate) fn writes_addresses_of_its_own(bed: &Bed) {
    let pool = bed.pool("public", "192.168.33.200-192.168.33.210");
    let selector =
        r#"{"spec":{"serviceAllocation":{"serviceSelectors":[{"matchLabels":{"tier":"public"}}]}}}"#;
    bed.kubectl(&[
        "patch",
        "ipaddresspool",
        "public",
        "-n",
        "metallb-system",
        "--type=merge",
        "-p",
        selector,
    ]);
    // No pool admits it: there is nothing here that it could be given instead.
    bed.apply(SERVICE);
    bed.event("Service", "control-vip", "AllocationFailed", SOON);
    assert_eq!(insists_on(bed, "192.168.33.150"), 1, "writes of the other load balancer");
    poll("the condition says what to do", SOON, || {
        let service = bed.get(&["service", "control-vip"]);
        service["status"]["conditions"].to_string().contains("loadBalancerClass").then_some(())
    });
    // A pool admits it now: what we assign replaces the entry, and who insists on the old one is left alone, and named.
    bed.kubectl(&["label", "service", "control-vip", "tier=public"]);
    poll("an address of the pool replaces it", SOON, || {
        current(bed).starts_with("192.168.33.20").then_some(())
    });
    let writes = insists_on(bed, "192.168.33.150");
    assert!(writes <= PEACE, "{writes} writes of the other load balancer");
    assert_eq!(current(bed), "192.168.33.150", "who insists keeps it");
    let text = bed.event("Service", "control-vip", "StatusContested", SOON);
    assert!(text.contains("other-balancer") && text.contains("loadBalancerClass"), "{text}");
    let described = bed.kubectl(&["describe", "service", "control-vip"]);
    assert!(described.contains("StatusContested"), "{described}");
    let list = bed.get(&["events", "--field-selector", "involvedObject.name=control-vip"]);
    let events = list["items"].as_array().map_or(0, Vec::len);
    assert!(events <= 10, "a handful of events: {list}");
    bed.delete(SERVICE);
    bed.delete(&pool);
}

/// Plays the other load balancer: whenever the status says something else than `address`, it is written. Returns how
/// often that was necessary.
fn insists_on(bed: &Bed, address: &str) -> usize {
    let patch = format!(r#"{{"status":{{"loadBalancer":{{"ingress":[{{"ip":"{address}"}}]}}}}}}"#);
    let end = Instant::now() + INSISTS;
    let mut writes = 0;
    while Instant::now() < end {
        if current(bed) != address {
            writes += 1;
            bed.kubectl(&[
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
        std::thread::sleep(CHECKS);
    }
    writes
}

/// The address that the status of the Service has first; empty if it has none.
fn current(bed: &Bed) -> String {
    let service = bed.get(&["service", "control-vip"]);
    service["status"]["loadBalancer"]["ingress"][0]["ip"].as_str().unwrap_or_default().to_owned()
}
