//! From MetalLB's ConfigMap to its custom resources, as its migration guide says.

use std::collections::BTreeSet;
use std::time::Duration;

use e2e::Bed;
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

/// What the guide's converter makes of the ConfigMap.
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

/// akash-network/support#74, deepsquare-io/ClusterFactory#96: the objects have the names of those that were imported.
pub(crate) fn objects_of_the_same_names(bed: &Bed) {
    for how in [&["apply"][..], &["apply", "--server-side", "--force-conflicts"]] {
        migrates(bed, OBJECTS, how, &["default", "extra"]);
    }
}

/// The same with names of the user's own choice: the objects overlap the imported ones, and take over from them.
pub(crate) fn objects_of_other_names(bed: &Bed) {
    let objects = OBJECTS
        .replace("name: default", "name: lan")
        .replace("[default]", "[lan]")
        .replace("name: extra", "name: more")
        .replace("[extra]", "[more]");
    migrates(bed, &objects, &["apply"], &["lan", "more"]);
}

/// Applies the objects beside the ConfigMap, removes that, and checks that nothing was lost on the way.
fn migrates(bed: &Bed, objects: &str, how: &[&str], pools: &[&str]) {
    bed.apply(CONFIG_MAP);
    until_pools(bed, &["default", "extra"]);
    let web = bed.web();
    bed.apply(SERVICES);
    for (name, address) in ["one", "two"].into_iter().zip(ADDRESSES) {
        assert_eq!(bed.address("default", name), address);
        serves_a_new_client(bed, address, REPLACED);
    }
    let traffic = ADDRESSES.map(|address| bed.http(&format!("{address}:80")));
    bed.cluster.kubectl_with_input(&[how, &["--filename", "-"]].concat(), objects).unwrap();
    bed.kubectl(&["delete", "configmap", "config", "--namespace", "metallb-system"]);
    until_pools(bed, pools);
    poll("no object is marked as imported", REPLACED, || {
        let objects = ["ipaddresspools", "l2advertisements"].map(|kind| list(bed, kind)).concat();
        (objects.len() == 4 && objects.iter().all(|object| !object.to_string().contains("imported-from")))
            .then_some(())
    });
    // The stack has been reconciled after all of that.
    bed.stack_available();
    for (name, address) in ["one", "two"].into_iter().zip(ADDRESSES) {
        assert_eq!(bed.address("default", name), address);
        serves_a_new_client(bed, address, REPLACED);
    }
    for traffic in traffic {
        let seen = bed.seen(traffic);
        assert!(seen.answered > 0 && seen.longest_silence() < Duration::from_secs(1), "{seen:?}");
    }
    bed.delete(SERVICES);
    bed.delete(&web);
    bed.delete(objects);
}

/// Waits until the stack's namespace has these IPAddressPools and no others.
fn until_pools(bed: &Bed, wanted: &[&str]) {
    poll(&format!("the pools are {wanted:?}"), SOON, || {
        let pools = list(bed, "ipaddresspools");
        let names: BTreeSet<&str> =
            pools.iter().filter_map(|pool| pool["metadata"]["name"].as_str()).collect();
        (names == wanted.iter().copied().collect()).then_some(())
    });
}
