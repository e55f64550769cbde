//! The RBAC rules of every process, one row per rule, with its reason.
//!
//! The roles of controller and speaker, the operator's own role and `docs/reference/rbac.md` are generated
//! from this table. Kubernetes lets a subject grant only permissions that it has itself, so the operator has
//! all of them. No rule uses `*`.

use crds::names::{
    BEACON_KEY_SECRET, CONTROLLER, CONTROLLER_LEASE, MEMBERLIST_SECRET, OPERATOR_LEASE, SPEAKER, STACK,
};
use k8s_openapi::api::rbac::v1::PolicyRule;

/// A process of lbstack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Process {
    /// Creates and repairs the stack.
    Operator,
    /// Assigns addresses to Services.
    Controller,
    /// Announces addresses.
    Speaker,
}

/// Where a rule holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// In the whole cluster.
    Cluster,
    /// In the namespace where the process runs.
    Namespace,
}

/// A rule and its reason.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The process that needs the permission.
    pub process: Process,
    /// The scope of the rule.
    pub scope: Scope,
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Resources, by plural name.
    pub resources: &'static [&'static str],
    /// Object names, where they are known in advance.
    pub names: &'static [&'static str],
    /// The permitted verbs.
    pub verbs: &'static [&'static str],
    /// The reason.
    pub reason: &'static str,
}

const WATCH: &[&str] = &["get", "list", "watch"];
const LIST_WATCH: &[&str] = &["list", "watch"];

/// The names of the cluster-wide roles of controller and speaker.
pub const CLUSTER_ROLES: &[&str] = &["lbstack-controller", "lbstack-speaker"];
const VERIFY_EMPTY: &str = "verifies that a namespace that it created is empty before deleting it";
const WORKLOADS: &[&str] = &[CONTROLLER, SPEAKER];

/// Builds a row, so that the table below is readable.
const fn row(
    process: Process,
    scope: Scope,
    (group, resources, names): (&'static str, &'static [&'static str], &'static [&'static str]),
    verbs: &'static [&'static str],
    reason: &'static str,
) -> Row {
    Row { process, scope, group, resources, names, verbs, reason }
}

use Process::{Controller, Operator, Speaker};
use Scope::{Cluster, Namespace};

/// The table.
#[rustfmt::skip]
pub const TABLE: &[Row] = &[
    // The controller.
    row(Controller, Cluster, ("", &["services"], &[]), LIST_WATCH,
        "Services of type LoadBalancer get addresses"),
    row(Controller, Cluster, ("", &["services/status"], &[]), &["patch"],
        "writes the address, its condition, and the annotation that names the pool"),
    row(Controller, Cluster, ("", &["namespaces"], &[]), LIST_WATCH,
        "pools select namespaces by name and by label"),
    row(Controller, Cluster, ("", &["events"], &[]), &["create", "patch"],
        "reports on each Service what was done, and why not"),
    row(Controller, Cluster, ("", &["nodes"], &[]), LIST_WATCH,
        "a node's own address is assigned to no Service"),
    row(Controller, Namespace, ("metallb.io", &["ipaddresspools", "l2advertisements", "bgpadvertisements",
          "bgppeers", "bfdprofiles", "communities"], &[]), LIST_WATCH,
        "the configuration"),
    row(Controller, Namespace, ("metallb.io", &["ipaddresspools/status", "l2advertisements/status",
          "bgpadvertisements/status", "bgppeers/status", "bfdprofiles/status",
          "communities/status"], &[]), &["patch"],
        "reports the usage of a pool, and errors of an object"),
    row(Controller, Namespace, ("metallb.io", &["configurationstates"], &[]), &["list", "watch", "create"],
        "reports whether the configuration is valid: creates the object"),
    row(Controller, Namespace, ("metallb.io", &["configurationstates",
          "configurationstates/status"], &[CONTROLLER]), &["patch"],
        "reports whether the configuration is valid"),
    row(Controller, Namespace, ("lbstack.dev", &["poolpolicies", "addressconflicts",
          "speakerstates"], &[]), LIST_WATCH,
        "reservations and quotas; addresses in use by foreign hosts are not assigned"),
    row(Controller, Namespace, ("lbstack.dev", &["poolpolicies/status"], &[]), &["patch"],
        "reports errors of a policy"),
    row(Controller, Namespace, ("coordination.k8s.io", &["leases"], &[]), &["create"],
        "leader election: creates its Lease"),
    row(Controller, Namespace, ("coordination.k8s.io", &["leases"], &[CONTROLLER_LEASE]), &["get", "update"],
        "leader election: holds its Lease"),
    // The speaker.
    row(Speaker, Cluster, ("", &["services"], &[]), LIST_WATCH, "the addresses to announce"),
    row(Speaker, Cluster, ("discovery.k8s.io", &["endpointslices"], &[]), LIST_WATCH,
        "an address is announced where its Service has endpoints"),
    row(Speaker, Cluster, ("", &["nodes"], &[]), LIST_WATCH,
        "advertisements select nodes by label; some nodes take no part"),
    row(Speaker, Cluster, ("", &["events"], &[]), &["create", "patch"],
        "reports on each Service which node announces it"),
    row(Speaker, Namespace, ("", &["pods"], &[]), LIST_WATCH, "which other speakers exist and are ready"),
    row(Speaker, Namespace, ("metallb.io", &["ipaddresspools", "l2advertisements"], &[]), LIST_WATCH,
        "the configuration"),
    row(Speaker, Namespace, ("metallb.io", &[
          "servicel2statuses"], &[]), &["list", "watch", "create", "patch", "delete"],
        "reports which node announces a Service"),
    row(Speaker, Namespace, ("metallb.io", &["servicel2statuses/status"], &[]), &["patch"],
        "reports which node announces a Service"),
    row(Speaker, Namespace, ("metallb.io", &[
          "configurationstates"], &[]), &["list", "watch", "create", "patch", "delete"],
        "reports whether the configuration is valid, deletes the objects of removed nodes"),
    row(Speaker, Namespace, ("metallb.io", &["configurationstates/status"], &[]), &["patch"],
        "reports whether the configuration is valid"),
    row(Speaker, Namespace, ("lbstack.dev", &[
          "speakerstates"], &[]), &["list", "watch", "create", "patch", "delete"],
        "reports the interfaces of its node, reads those of others, deletes the objects of removed nodes"),
    row(Speaker, Namespace, ("lbstack.dev", &["speakerstates/status"], &[]), &["patch"],
        "reports the interfaces of its node, and which speakers it hears"),
    row(Speaker, Namespace, ("lbstack.dev", &[
          "addressconflicts"], &[]), &["list", "watch", "create", "patch", "delete"],
        "reports foreign hosts that use an address"),
    // The operator: its own resource.
    row(Operator, Cluster, ("lbstack.dev", &["loadbalancerstacks"], &[]), LIST_WATCH,
        "the desired state of the stack"),
    row(Operator, Cluster, ("lbstack.dev", &["loadbalancerstacks"], &[STACK]), &["patch"],
        "sets and removes its finalizer"),
    row(Operator, Cluster, ("lbstack.dev", &["loadbalancerstacks/status"], &[STACK]), &["patch"],
        "reports the state of the stack"),
    row(Operator, Cluster, ("", &["events"], &[]), &["create", "patch"],
        "reports on the stack what was done, and why not"),
    row(Operator, Cluster, ("apiextensions.k8s.io", &["customresourcedefinitions"], CRDS), &["get"],
        "reports a definition that is missing or older than the operator"),
    // The operator: the objects of the stack.
    row(Operator, Cluster, ("", &["namespaces"], &[]), WATCH, "watches the stack's namespace"),
    row(Operator, Cluster, ("", &["namespaces"], &[]), &["create", "patch", "delete"],
        "creates the stack's namespace, whose name the user chooses; deletes it with the stack if it \
         created it and it contains nothing else"),
    row(Operator, Cluster, ("", &["serviceaccounts"], &[]), &["list", "watch", "create"],
        "service accounts of controller and speaker"),
    row(Operator, Cluster, ("", &["serviceaccounts"], WORKLOADS), &["get", "patch", "delete"],
        "service accounts of controller and speaker"),
    row(Operator, Cluster, ("rbac.authorization.k8s.io", &["roles", "rolebindings", "clusterroles",
          "clusterrolebindings"], &[]), &["list", "watch", "create"],
        "permissions of controller and speaker"),
    row(Operator, Cluster, ("rbac.authorization.k8s.io", &["roles",
          "rolebindings"], WORKLOADS), &["get", "patch", "delete"],
        "permissions of controller and speaker"),
    row(Operator, Cluster, ("rbac.authorization.k8s.io", &["clusterroles",
          "clusterrolebindings"], CLUSTER_ROLES), &["get", "patch", "delete"],
        "permissions of controller and speaker"),
    row(Operator, Cluster, ("", &["secrets"], &[]), &["create"],
        "creates the key with which speakers sign their beacons"),
    row(Operator, Cluster, ("", &[
          "secrets"], &[BEACON_KEY_SECRET]), &["get", "list", "watch", "patch", "delete"],
        "maintains that key"),
    row(Operator, Cluster, ("apps", &["deployments", "daemonsets"], &[]), &["list", "watch", "create"],
        "runs controller and speaker"),
    row(Operator, Cluster, ("apps", &["deployments"], &[CONTROLLER]), &["get", "patch", "delete"],
        "runs the controller"),
    row(Operator, Cluster, ("apps", &["daemonsets"], &[SPEAKER]), &["get", "patch", "delete"],
        "runs the speaker"),
    row(Operator, Cluster, ("policy", &["poddisruptionbudgets"], &[]), &["list", "watch", "create"],
        "a drain leaves one controller running"),
    row(Operator, Cluster, ("policy", &["poddisruptionbudgets"], &[CONTROLLER]), &["get", "patch", "delete"],
        "a drain leaves one controller running"),
    row(Operator, Cluster, ("metallb.io", &["ipaddresspools", "l2advertisements", "bgpadvertisements",
          "bgppeers", "bfdprofiles",
          "communities"], &[]), &["get", "list", "watch", "create", "patch", "delete"],
        "inline pools of the stack and imported configuration, under names that the user chooses"),
    row(Operator, Cluster, ("metallb.io", &["addresspools"], &[]), LIST_WATCH,
        "imports the pools of MetalLB v0.11 to v0.13"),
    row(Operator, Cluster, ("", &["configmaps"], &[]), LIST_WATCH,
        "imports the configuration of MetalLB v0.8 to v0.12, under a name that the user chooses"),
    row(Operator, Cluster, ("lbstack.dev", &["speakerstates"], &[]), LIST_WATCH,
        "reports which speakers do not hear each other, and what they report of their nodes"),
    row(Operator, Cluster, ("metallb.io", &["configurationstates"], &[]), LIST_WATCH,
        "summarizes what controller and speakers report about the configuration"),
    row(Operator, Cluster, ("metallb.io", &["configurationstates"], &[]), &["delete"],
        "deletes the controller's report with the stack"),
    row(Operator, Cluster, ("lbstack.dev", &[
          "poolpolicies"], &[]), &["get", "list", "watch", "create", "patch", "delete"],
        "reservations and quotas of inline pools"),
    row(Operator, Cluster, ("", &["pods"], &[]), &["list"],
        "reports on which node a speaker is not ready, and why"),
    row(Operator, Cluster, ("", &["pods", "services"], &[]), &["list"], VERIFY_EMPTY),
    row(Operator, Cluster, ("", &["secrets"], &[MEMBERLIST_SECRET]), &["get"], VERIFY_EMPTY),
    row(Operator, Cluster, ("", &["events"], &[]), &["list"],
        "reports why pods of the speaker cannot be created"),
    row(Operator, Cluster, ("", &["persistentvolumeclaims", "replicationcontrollers", "resourcequotas",
          "limitranges"], &[]), &["list"],
        VERIFY_EMPTY),
    row(Operator, Cluster, ("apps", &["statefulsets", "replicasets"], &[]), &["list"], VERIFY_EMPTY),
    row(Operator, Cluster, ("batch", &["jobs", "cronjobs"], &[]), &["list"], VERIFY_EMPTY),
    row(Operator, Cluster, ("networking.k8s.io", &["ingresses", "networkpolicies"], &[]), &["list"],
        VERIFY_EMPTY),
    row(Operator, Cluster, ("autoscaling", &["horizontalpodautoscalers"], &[]), &["list"], VERIFY_EMPTY),
    // The operator: leader election. There is one Lease per cluster, wherever operators run.
    row(Operator, Cluster, ("coordination.k8s.io", &["leases"], &[]), &["create"],
        "leader election: creates its Lease"),
    row(Operator, Cluster, ("coordination.k8s.io", &["leases"], &[OPERATOR_LEASE]), &["get", "update"],
        "leader election: holds its Lease"),
];

/// The CustomResourceDefinitions that the operator checks.
const CRDS: &[&str] = &[
    "addressconflicts.lbstack.dev",
    "addresspools.metallb.io",
    "bfdprofiles.metallb.io",
    "bgpadvertisements.metallb.io",
    "bgppeers.metallb.io",
    "communities.metallb.io",
    "configurationstates.metallb.io",
    "ipaddresspools.metallb.io",
    "l2advertisements.metallb.io",
    "loadbalancerstacks.lbstack.dev",
    "poolpolicies.lbstack.dev",
    "servicebgpstatuses.metallb.io",
    "servicel2statuses.metallb.io",
    "speakerstates.lbstack.dev",
];

/// The rules of `process` that hold in `scope`.
pub fn rules(process: Process, scope: Scope) -> Vec<PolicyRule> {
    TABLE.iter().filter(|row| row.process == process && row.scope == scope).map(rule).collect()
}

/// The cluster-wide rules of the operator: its own, and every permission that it grants.
pub fn operator_rules() -> Vec<PolicyRule> {
    let own = TABLE.iter().filter(|row| row.process == Operator && row.scope == Cluster);
    let granted = TABLE.iter().filter(|row| row.process != Operator);
    let mut rules: Vec<PolicyRule> = Vec::new();
    for rule in own.chain(granted).map(rule) {
        if !rules.contains(&rule) {
            rules.push(rule);
        }
    }
    rules
}

fn rule(row: &Row) -> PolicyRule {
    let owned = |list: &[&str]| list.iter().map(|&item| item.to_owned()).collect::<Vec<_>>();
    PolicyRule {
        api_groups: Some(vec![row.group.to_owned()]),
        resources: Some(owned(row.resources)),
        resource_names: (!row.names.is_empty()).then(|| owned(row.names)),
        verbs: owned(row.verbs),
        non_resource_urls: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_rule_has_a_wildcard() {
        for row in TABLE {
            let words = [row.resources, row.names, row.verbs].concat();
            assert!(words.iter().chain([&row.group]).all(|word| !word.contains('*')), "{row:?}");
            assert!(!row.reason.is_empty() && !row.verbs.is_empty() && !row.resources.is_empty(), "{row:?}");
        }
    }

    #[test]
    fn no_rule_restricts_create_or_deletecollection_by_name() {
        for row in TABLE.iter().filter(|row| !row.names.is_empty()) {
            assert!(!row.verbs.contains(&"create") && !row.verbs.contains(&"deletecollection"), "{row:?}");
        }
    }

    #[test]
    fn the_operator_can_read_every_installed_definition() {
        let mut names: Vec<String> = crds::all().into_iter().filter_map(|crd| crd.metadata.name).collect();
        names.sort();
        assert_eq!(CRDS, names);
    }

    #[test]
    fn nobody_may_escalate_bind_or_impersonate() {
        for row in TABLE {
            assert!(
                row.verbs.iter().all(|verb| !["escalate", "bind", "impersonate"].contains(verb)),
                "{row:?}"
            );
        }
    }

    #[test]
    fn the_only_readable_secrets_are_the_keys_of_the_speakers() {
        for row in TABLE.iter().filter(|row| row.resources.contains(&"secrets")) {
            let known = [[BEACON_KEY_SECRET], [MEMBERLIST_SECRET]].iter().any(|names| row.names == names);
            assert!(row.verbs == ["create"] || known, "{row:?}");
        }
    }

    #[test]
    fn the_operator_has_every_permission_that_it_grants() {
        let operator = operator_rules();
        for process in [Controller, Speaker] {
            for scope in [Cluster, Namespace] {
                for rule in rules(process, scope) {
                    assert!(operator.contains(&rule), "{rule:?}");
                }
            }
        }
    }
}
