//! Names that several components share, and names that users know from MetalLB.

/// The default namespace of the stack, the same as MetalLB's.
pub const DEFAULT_NAMESPACE: &str = "metallb-system";
/// The only permitted name of a [`LoadBalancerStack`](crate::LoadBalancerStack).
pub const STACK: &str = "default";

/// Deployment, ServiceAccount and Role of the controller.
pub const CONTROLLER: &str = "controller";
/// DaemonSet, ServiceAccount and Role of the speaker.
pub const SPEAKER: &str = "speaker";
/// The operator's Deployment and ServiceAccount; also its server-side-apply field manager.
pub const OPERATOR: &str = "lbstack-operator";
/// The prefix of the field managers of all our processes.
pub const FIELD_MANAGER_PREFIX: &str = "lbstack-";
/// The Secret with the key that authenticates beacons, created by the operator.
pub const BEACON_KEY_SECRET: &str = "speaker-beacon-key";
/// A Secret with a key of the user, as in MetalLB's manual. It takes precedence over [`BEACON_KEY_SECRET`].
pub const MEMBERLIST_SECRET: &str = "memberlist";
/// The entry of both Secrets that contains the key.
pub const SECRET_KEY: &str = "secretkey";
/// The Lease that the leading controller holds, in the namespace of the stack.
pub const CONTROLLER_LEASE: &str = "lbstack-controller";
/// The Lease that the leading operator holds, in [`OPERATOR_LEASE_NAMESPACE`]: there is one per cluster,
/// independent of the namespaces of operators, so that two of them never manage the stack at the same time.
pub const OPERATOR_LEASE: &str = "lbstack-operator";
/// A namespace that exists in every cluster.
pub const OPERATOR_LEASE_NAMESPACE: &str = "kube-system";

/// On every object of the operator; the value is [`OPERATOR`].
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// On every object of the operator; the value is [`PART_OF`].
pub const LABEL_PART_OF: &str = "app.kubernetes.io/part-of";
/// Value of [`LABEL_PART_OF`].
pub const PART_OF: &str = "lbstack";
/// On every object that the operator imported from an older configuration format: the source of the import.
pub const LABEL_IMPORTED_FROM: &str = "lbstack.dev/imported-from";
/// MetalLB's pod labels: `app: metallb`, `component: controller|speaker`, which users' scripts select by.
pub const LABEL_APP: &str = "app";
/// See [`LABEL_APP`].
pub const LABEL_COMPONENT: &str = "component";
/// Value of [`LABEL_APP`].
pub const APP: &str = "metallb";

/// On a `ServiceL2Status`: the announcing node.
pub const LABEL_NODE: &str = "metallb.io/node";
/// On a `ServiceL2Status`: the Service's name.
pub const LABEL_SERVICE_NAME: &str = "metallb.io/service-name";
/// On a `ServiceL2Status`: the Service's namespace.
pub const LABEL_SERVICE_NAMESPACE: &str = "metallb.io/service-namespace";
/// On a `ConfigurationState`: the component that it belongs to, `controller` or `speaker`.
pub const LABEL_COMPONENT_TYPE: &str = "metallb.io/component-type";
/// On a speaker's `ConfigurationState`: its node.
pub const LABEL_NODE_NAME: &str = "metallb.io/node-name";
/// Type of a condition of a `SpeakerState`: True while it cannot hear speakers that live.
pub const CONDITION_BEACONS_BLOCKED: &str = "lbstack.dev/BeaconsBlocked";
/// Type of a condition of a `SpeakerState`: True while every node carries [`LABEL_EXCLUDE_NODE`], which
/// therefore counts for nothing.
pub const CONDITION_EXCLUDE_LABEL_IGNORED: &str = "lbstack.dev/ExcludeLabelIgnored";
/// Type of a condition of a `SpeakerState`: True while nodes answer for addresses that their speakers do not
/// announce, as with kube-proxy in ipvs mode without strictARP.
pub const CONDITION_KERNELS_ANSWER: &str = "lbstack.dev/KernelsAnswer";
/// A Node with this label announces nothing (Kubernetes' well-known label).
pub const LABEL_EXCLUDE_NODE: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
/// On the pods of a workload whose ServiceAccount was created again: the UID of the account.
pub const ANNOTATION_ACCOUNT: &str = "lbstack.dev/service-account";
