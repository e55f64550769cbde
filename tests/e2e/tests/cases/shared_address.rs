//! Services that share an address.

use std::time::Duration;

use e2e::Env;
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
pub(crate) fn policies_that_change_one_after_the_other(env: &Env) {
    let pool = env.pool("shared", "192.168.33.200-192.168.33.210");
    let web = env.web();
    env.apply(&sharing("plain", 80, "Cluster"));
    env.apply(&sharing("tls", 443, "Cluster"));
    let both_share = || {
        for name in ["plain", "tls"] {
            assert_eq!(env.address("default", name), ADDRESS, "{name}");
        }
        serves_a_new_client(env, ADDRESS, REPLACED);
        // kube-proxy may configure one of the two Services a second before the other.
        env.served(&format!("http://{ADDRESS}:443/"), REPLACED)
    };
    both_share();
    for (from, to) in [("Cluster", "Local"), ("Local", "Cluster")] {
        // tls was not changed, so it is served all the time.
        let traffic = env.http(&format!("{ADDRESS}:443"));
        env.apply(&sharing("plain", 80, to));
        let reason = poll("the condition of plain names tls and the difference", SOON, || {
            let service = env.get(&["service", "plain"]);
            let conditions = service["status"]["conditions"].as_array()?.clone();
            conditions
                .iter()
                .filter_map(|condition| condition["message"].as_str())
                .map(str::to_owned)
                .find(|message| message.contains("tls") && message.contains(from) && message.contains(to))
        });
        assert!(reason.contains("externalTrafficPolicy"), "{reason}");
        assert_eq!(env.address("default", "tls"), ADDRESS);
        let report = env.stop_traffic(traffic);
        assert!(report.answered > 0 && report.lost == 0, "{report:?}");
        // Now tls changes too: it may be interrupted while a node without a pod still answers.
        let traffic = env.http(&format!("{ADDRESS}:443"));
        env.apply(&sharing("tls", 443, to));
        both_share();
        let report = env.stop_traffic(traffic);
        assert!(report.answered > 0 && report.longest_silence() < Duration::from_secs(2), "{report:?}");
    }
    for manifest in [sharing("plain", 80, "Cluster"), sharing("tls", 443, "Cluster"), web, pool] {
        env.delete(&manifest);
    }
}
