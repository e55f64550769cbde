//! Manifests of the tests.

/// A minimal stack, without inline pools.
pub(crate) const STACK: &str = include_str!("../manifests/stack.yaml");
/// Two pods that serve HTTP and UDP.
pub(crate) const WEB: &str = include_str!("../manifests/web.yaml");

/// A pool with an advertisement; `ranges` is a comma-separated list.
pub(crate) fn pool(name: &str, ranges: &str) -> String {
    format!(
        "apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {{name: {name}, namespace: metallb-system}}
spec:
  addresses: [{ranges}]
---
apiVersion: metallb.io/v1beta1
kind: L2Advertisement
metadata: {{name: {name}, namespace: metallb-system}}
spec:
  ipAddressPools: [{name}]
"
    )
}

/// A Service for [`WEB`] with an address from `pool`, and further fields of its spec.
pub(crate) fn service(name: &str, pool: &str, spec: &str) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: default, annotations: {{metallb.io/address-pool: {pool}}}}}
spec:
  type: LoadBalancer
  selector: {{app: web}}
  ports:
    - {{name: http, port: 80, targetPort: 8080, protocol: TCP}}
    - {{name: echo, port: 80, targetPort: 8080, protocol: UDP}}
  {spec}
"
    )
}

/// A deployment of one pod like those of [`WEB`] that runs on `node`.
pub fn web_on(name: &str, node: &str) -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, namespace: default}}
spec:
  replicas: 1
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 1
      nodeSelector: {{kubernetes.io/hostname: {node}}}
      containers:
        - name: web
          image: testbed/web:1
          ports: [{{containerPort: 8080}}]
"
    )
}
