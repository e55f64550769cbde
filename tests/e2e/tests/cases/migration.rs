//! Migration from MetalLB's ConfigMap to its custom resources, as in its migration guide.

use std::collections::BTreeSet;
use std::time::Duration;

use e2e::Env;
use e2e::wait::poll;

use crate::support::{REPLACED, SOON, list, serves_a_new_client};

const ADDRESSES: [&str; 2] = ["192.168.33.200", "192.168.33.220"];

const CONFIG_MAP: &str = "apiVersion: v1
kind: ConfigMap
metadata: {name: config, namespace: metallb-system}
data:
  config: |
    address-pools:
      - {name: default, protocol: layer2, addresses: [192.168.33.200-192.168.33.210]}
      - {name: extra, protocol: layer2, auto-assign: false, addresses: [192.168.33.220-192.168.33.222]}
";

/// The output of the guide's converter for the ConfigMap.
const OBJECTS: &str = "apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: default, namespace: metallb-system}
spec: {addresses: [192.168.33.200-192.168.33.210]}
---
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: extra, namespace: metallb-system}
spec: {addresses: [192.168.33.220-192.168.33.222], autoAssign: false}
---
apiVersion: metallb.io/v1beta1
kind: L2Advertisement
metadata: {name: l2advertisement1, namespace: metallb-system}
spec: {ipAddressPools: [default]}
---
apiVersion: metallb.io/v1beta1
kind: L2Advertisement
metadata: {name: l2advertisement2, namespace: metallb-system}
spec: {ipAddressPools: [extra]}
";

const SERVICES: &str = "apiVersion: v1
kind: Service
metadata: {name: one, namespace: default}
spec:
  type: LoadBalancer
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: two, namespace: default, annotations: {metallb.io/loadBalancerIPs: 192.168.33.220}}
spec:
  type: LoadBalancer
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}]
";

/// akash-network/support#74, deepsquare-io/ClusterFactory#96: the objects have the names of the imported
/// ones.
pub(crate) fn objects_of_the_same_names(env: &Env) {
    for how in [&["apply"][..], &["apply", "--server-side", "--force-conflicts"]] {
        migrate(env, OBJECTS, how, &["default", "extra"]);
    }
}

/// The same with other names: the objects overlap the imported ones, and replace them.
pub(crate) fn objects_of_other_names(env: &Env) {
    let objects = OBJECTS
        .replace("name: default", "name: lan")
        .replace("[default]", "[lan]")
        .replace("name: extra", "name: more")
        .replace("[extra]", "[more]");
    migrate(env, &objects, &["apply"], &["lan", "more"]);
}

/// Applies the objects beside the ConfigMap, deletes that, and checks that no address was lost meanwhile.
fn migrate(env: &Env, objects: &str, how: &[&str], pools: &[&str]) {
    env.apply(CONFIG_MAP);
    until_pools(env, &["default", "extra"]);
    let web = env.web();
    env.apply(SERVICES);
    for (name, address) in ["one", "two"].into_iter().zip(ADDRESSES) {
        assert_eq!(env.address("default", name), address);
        serves_a_new_client(env, address, REPLACED);
    }
    let traffic = ADDRESSES.map(|address| env.http(&format!("{address}:80")));
    env.cluster.kubectl_with_input(&[how, &["--filename", "-"]].concat(), objects).unwrap();
    env.kubectl(&["delete", "configmap", "config", "--namespace", "metallb-system"]);
    until_pools(env, pools);
    poll("no object is marked as imported", REPLACED, || {
        let objects = ["ipaddresspools", "l2advertisements"].map(|kind| list(env, kind)).concat();
        (objects.len() == 4 && objects.iter().all(|object| !object.to_string().contains("imported-from")))
            .then_some(())
    });
    // The stack has been reconciled after all of that.
    env.stack_available();
    for (name, address) in ["one", "two"].into_iter().zip(ADDRESSES) {
        assert_eq!(env.address("default", name), address);
        serves_a_new_client(env, address, REPLACED);
    }
    for traffic in traffic {
        let report = env.stop_traffic(traffic);
        assert!(report.answered > 0 && report.longest_silence() < Duration::from_secs(1), "{report:?}");
    }
    env.delete(SERVICES);
    env.delete(&web);
    env.delete(objects);
}

/// Waits until the stack's namespace has these IPAddressPools and no others.
fn until_pools(env: &Env, wanted: &[&str]) {
    poll(&format!("the pools are {wanted:?}"), SOON, || {
        let pools = list(env, "ipaddresspools");
        let names: BTreeSet<&str> =
            pools.iter().filter_map(|pool| pool["metadata"]["name"].as_str()).collect();
        (names == wanted.iter().copied().collect()).then_some(())
    });
}
