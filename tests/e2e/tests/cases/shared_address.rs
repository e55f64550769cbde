//! Services that share an address.

use std::time::Duration;

use e2e::Bed;
use e2e::wait::poll;

use crate::support::{REPLACED, SOON, serves_a_new_client};

const ADDRESS: &str = "192.168.33.206";

/// A Service that shares the address, on a port of its own.
fn sharing(name: &str, port: u16, policy: &str) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata:
  name: {name}
  namespace: default
  annotations: {{metallb.io/allow-shared-ip: front, metallb.io/loadBalancerIPs: {ADDRESS}}}
spec:
  type: LoadBalancer
  selector: {{app: web}}
  ports: [{{name: http, port: {port}, targetPort: 8080}}]
  externalTrafficPolicy: {policy}
"
    )
}

/// metallb/metallb#2403.
pub(crate) fn policies_that_change_one_after_the_other(bed: &Bed) {
    let pool = bed.pool("shared", "192.168.33.200-192.168.33.210");
    let web = bed.web();
    bed.apply(&sharing("plain", 80, "Cluster"));
    bed.apply(&sharing("tls", 443, "Cluster"));
    let both_share = || {
        for name in ["plain", "tls"] {
            assert_eq!(bed.address("default", name), ADDRESS, "{name}");
        }
        serves_a_new_client(bed, ADDRESS, REPLACED);
        // kube-proxy may know of one of the two Services a second before the other.
        bed.served(&format!("http://{ADDRESS}:443/"), REPLACED)
    };
    both_share();
    for (from, to) in [("Cluster", "Local"), ("Local", "Cluster")] {
        // Nobody has touched tls: it is served all the time.
        let traffic = bed.http(&format!("{ADDRESS}:443"));
        bed.apply(&sharing("plain", 80, to));
        let reason = poll("the condition of plain names tls and the difference", SOON, || {
            let service = bed.get(&["service", "plain"]);
            let conditions = service["status"]["conditions"].as_array()?.clone();
            conditions
                .iter()
                .filter_map(|condition| condition["message"].as_str())
                .map(str::to_owned)
                .find(|message| message.contains("tls") && message.contains(from) && message.contains(to))
        });
        assert!(reason.contains("externalTrafficPolicy"), "{reason}");
        assert_eq!(bed.address("default", "tls"), ADDRESS);
        let seen = bed.seen(traffic);
        assert!(seen.answered > 0 && seen.lost == 0, "{seen:?}");
        // Now tls changes in its turn: at most as long as a node without a pod may answer.
        let traffic = bed.http(&format!("{ADDRESS}:443"));
        bed.apply(&sharing("tls", 443, to));
        both_share();
        let seen = bed.seen(traffic);
        assert!(seen.answered > 0 && seen.longest_silence() < Duration::from_secs(2), "{seen:?}");
    }
    for manifest in [sharing("plain", 80, "Cluster"), sharing("tls", 443, "Cluster"), web, pool] {
        bed.delete(&manifest);
    }
}
