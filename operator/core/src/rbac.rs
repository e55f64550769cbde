//! Every right of every process, one row per rule, with its reason.
//!
//! The roles of controller and speaker, the operator's own role and `docs/reference/rbac.md` are made from this
//! table. Kubernetes lets nobody hand out rights that he lacks, so the operator has all of them; no rule has `*`.

use crds::names::{
    BEACON_KEY_SECRET, CONTROLLER, CONTROLLER_LEASE, MEMBERLIST_SECRET, OPERATOR_LEASE, SPEAKER, STACK,
};
use k8s_openapi::api::rbac::v1::PolicyRule;

/// A process of lbstack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Process {
    /// Makes and repairs the stack.
    Operator,
    /// Gives Services their addresses.
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
    /// Who has the right.
    pub process: Process,
    /// Where.
    pub scope: Scope,
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Resources, by plural name.
    pub resources: &'static [&'static str],
    /// Names of the objects, where they are known beforehand.
    pub names: &'static [&'static str],
    /// What may be done.
    pub verbs: &'static [&'static str],
    /// What for.
    pub reason: &'static str,
}

const WATCH: &[&str] = &["get", "list", "watch"];
const LIST_WATCH: &[&str] = &["list", "watch"];

/// The names of the cluster-wide roles of controller and speaker.
pub const CLUSTER_ROLES: &[&str] = &["lbstack-controller", "lbstack-speaker"];
const EMPTY: &str = "sees that a namespace of its own making is empty before it removes it";
const WORKLOADS: &[&str] = &[CONTROLLER, SPEAKER];

/// A row, so that the table below reads as one.
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
    row(Controller, Cluster, ("", &["services"], &[]), LIST_WATCH, "Services of type LoadBalancer get addresses"),
    row(Controller, Cluster, ("", &["services/status"], &[]), &["patch"], "writes the address, its condition, and the annotation that names the pool"),
    row(Controller, Cluster, ("", &["namespaces"], &[]), LIST_WATCH, "pools select namespaces by name and by label"),
    row(Controller, Cluster, ("", &["events"], &[]), &["create", "patch"], "tells on each Service what was done, and why not"),
    row(Controller, Cluster, ("", &["nodes"], &[]), LIST_WATCH, "a node's own address is assigned to no Service"),
    row(Controller, Namespace, ("metallb.io", &["ipaddresspools", "l2advertisements", "bgpadvertisements", "bgppeers", "bfdprofiles", "communities"], &[]), LIST_WATCH, "the configuration"),
    row(Controller, Namespace, ("metallb.io", &["ipaddresspools/status", "l2advertisements/status", "bgpadvertisements/status", "bgppeers/status", "bfdprofiles/status", "communities/status"], &[]), &["patch"], "tells how full a pool is, and what is wrong with an object"),
    row(Controller, Namespace, ("metallb.io", &["configurationstates"], &[]), &["list", "watch", "create"], "tells whether the configuration could be used: makes the object"),
    row(Controller, Namespace, ("metallb.io", &["configurationstates", "configurationstates/status"], &[CONTROLLER]), &["patch"], "tells whether the configuration could be used"),
    row(Controller, Namespace, ("lbstack.dev", &["poolpolicies", "addressconflicts", "speakerstates"], &[]), LIST_WATCH, "reservations and quotas; addresses that others or nodes use are given to nobody"),
    row(Controller, Namespace, ("lbstack.dev", &["poolpolicies/status"], &[]), &["patch"], "tells what is wrong with a policy"),
    row(Controller, Namespace, ("coordination.k8s.io", &["leases"], &[]), &["create"], "leader election: makes its Lease"),
    row(Controller, Namespace, ("coordination.k8s.io", &["leases"], &[CONTROLLER_LEASE]), &["get", "update"], "leader election: holds its Lease"),
    // The speaker.
    row(Speaker, Cluster, ("", &["services"], &[]), LIST_WATCH, "the addresses to announce"),
    row(Speaker, Cluster, ("discovery.k8s.io", &["endpointslices"], &[]), LIST_WATCH, "an address is announced where its Service has endpoints"),
    row(Speaker, Cluster, ("", &["nodes"], &[]), LIST_WATCH, "advertisements select nodes by label; some nodes take no part"),
    row(Speaker, Cluster, ("", &["events"], &[]), &["create", "patch"], "tells on each Service which node announces it"),
    row(Speaker, Namespace, ("", &["pods"], &[]), LIST_WATCH, "who else is a speaker, and is it ready"),
    row(Speaker, Namespace, ("metallb.io", &["ipaddresspools", "l2advertisements"], &[]), LIST_WATCH, "the configuration"),
    row(Speaker, Namespace, ("metallb.io", &["servicel2statuses"], &[]), &["list", "watch", "create", "patch", "delete"], "tells which node announces a Service"),
    row(Speaker, Namespace, ("metallb.io", &["servicel2statuses/status"], &[]), &["patch"], "tells which node announces a Service"),
    row(Speaker, Namespace, ("metallb.io", &["configurationstates"], &[]), &["list", "watch", "create", "patch", "delete"], "reports whether it could use the configuration, removes what the speaker of a removed node has left"),
    row(Speaker, Namespace, ("metallb.io", &["configurationstates/status"], &[]), &["patch"], "reports whether it could use the configuration"),
    row(Speaker, Namespace, ("lbstack.dev", &["speakerstates"], &[]), &["list", "watch", "create", "patch", "delete"], "reports the interfaces of its node, reads those of others, removes what a removed node has left"),
    row(Speaker, Namespace, ("lbstack.dev", &["speakerstates/status"], &[]), &["patch"], "reports the interfaces of its node, and which speakers it hears"),
    row(Speaker, Namespace, ("lbstack.dev", &["addressconflicts"], &[]), &["list", "watch", "create", "patch", "delete"], "tells of strangers that have an address"),
    // The operator: its own resource.
    row(Operator, Cluster, ("lbstack.dev", &["loadbalancerstacks"], &[]), LIST_WATCH, "what the stack shall be"),
    row(Operator, Cluster, ("lbstack.dev", &["loadbalancerstacks"], &[STACK]), &["patch"], "sets and removes its finalizer"),
    row(Operator, Cluster, ("lbstack.dev", &["loadbalancerstacks/status"], &[STACK]), &["patch"], "tells what the stack is"),
    row(Operator, Cluster, ("", &["events"], &[]), &["create", "patch"], "tells on the stack what was done, and why not"),
    row(Operator, Cluster, ("apiextensions.k8s.io", &["customresourcedefinitions"], CRDS), &["get"], "tells when a definition is missing or older than the operator"),
    // The operator: the objects of the stack.
    row(Operator, Cluster, ("", &["namespaces"], &[]), WATCH, "sees the stack's namespace come and go"),
    row(Operator, Cluster, ("", &["namespaces"], &[]), &["create", "patch", "delete"], "makes the stack's namespace, whose name the user chooses; removes it with the stack if it made it and nothing else is in it"),
    row(Operator, Cluster, ("", &["serviceaccounts"], &[]), &["list", "watch", "create"], "accounts of controller and speaker"),
    row(Operator, Cluster, ("", &["serviceaccounts"], WORKLOADS), &["get", "patch", "delete"], "accounts of controller and speaker"),
    row(Operator, Cluster, ("rbac.authorization.k8s.io", &["roles", "rolebindings", "clusterroles", "clusterrolebindings"], &[]), &["list", "watch", "create"], "rights of controller and speaker"),
    row(Operator, Cluster, ("rbac.authorization.k8s.io", &["roles", "rolebindings"], WORKLOADS), &["get", "patch", "delete"], "rights of controller and speaker"),
    row(Operator, Cluster, ("rbac.authorization.k8s.io", &["clusterroles", "clusterrolebindings"], CLUSTER_ROLES), &["get", "patch", "delete"], "rights of controller and speaker"),
    row(Operator, Cluster, ("", &["secrets"], &[]), &["create"], "makes the key with which speakers sign what they tell each other"),
    row(Operator, Cluster, ("", &["secrets"], &[BEACON_KEY_SECRET]), &["get", "list", "watch", "patch", "delete"], "keeps that key"),
    row(Operator, Cluster, ("apps", &["deployments", "daemonsets"], &[]), &["list", "watch", "create"], "runs controller and speaker"),
    row(Operator, Cluster, ("apps", &["deployments"], &[CONTROLLER]), &["get", "patch", "delete"], "runs the controller"),
    row(Operator, Cluster, ("apps", &["daemonsets"], &[SPEAKER]), &["get", "patch", "delete"], "runs the speaker"),
    row(Operator, Cluster, ("policy", &["poddisruptionbudgets"], &[]), &["list", "watch", "create"], "a drain leaves one controller running"),
    row(Operator, Cluster, ("policy", &["poddisruptionbudgets"], &[CONTROLLER]), &["get", "patch", "delete"], "a drain leaves one controller running"),
    row(Operator, Cluster, ("metallb.io", &["ipaddresspools", "l2advertisements", "bgpadvertisements", "bgppeers", "bfdprofiles", "communities"], &[]), &["get", "list", "watch", "create", "patch", "delete"], "pools given inline in the stack and imported configuration, under names that the user chooses"),
    row(Operator, Cluster, ("metallb.io", &["addresspools"], &[]), LIST_WATCH, "imports the pools of MetalLB v0.11 to v0.13"),
    row(Operator, Cluster, ("", &["configmaps"], &[]), LIST_WATCH, "imports the configuration of MetalLB v0.8 to v0.12, under a name that the user chooses"),
    row(Operator, Cluster, ("lbstack.dev", &["speakerstates"], &[]), LIST_WATCH, "reports which speakers do not hear each other, and what they see of their nodes"),
    row(Operator, Cluster, ("metallb.io", &["configurationstates"], &[]), LIST_WATCH, "tells what controller and speakers say of the configuration"),
    row(Operator, Cluster, ("metallb.io", &["configurationstates"], &[]), &["delete"], "removes with the stack what the controller has told"),
    row(Operator, Cluster, ("lbstack.dev", &["poolpolicies"], &[]), &["get", "list", "watch", "create", "patch", "delete"], "reservations and quotas of pools given inline"),
    row(Operator, Cluster, ("", &["pods"], &[]), &["list"], "tells on which node a speaker is not ready, and why"),
    row(Operator, Cluster, ("", &["pods", "services"], &[]), &["list"], EMPTY),
    row(Operator, Cluster, ("", &["secrets"], &[MEMBERLIST_SECRET]), &["get"], EMPTY),
    row(Operator, Cluster, ("", &["events"], &[]), &["list"], "tells why pods of the speaker cannot be created"),
    row(Operator, Cluster, ("", &["persistentvolumeclaims", "replicationcontrollers", "resourcequotas", "limitranges"], &[]), &["list"], EMPTY),
    row(Operator, Cluster, ("apps", &["statefulsets", "replicasets"], &[]), &["list"], EMPTY),
    row(Operator, Cluster, ("batch", &["jobs", "cronjobs"], &[]), &["list"], EMPTY),
    row(Operator, Cluster, ("networking.k8s.io", &["ingresses", "networkpolicies"], &[]), &["list"], EMPTY),
    row(Operator, Cluster, ("autoscaling", &["horizontalpodautoscalers"], &[]), &["list"], EMPTY),
    // The operator: itself. A cluster has one Lease of it, wherever operators run.
    row(Operator, Cluster, ("coordination.k8s.io", &["leases"], &[]), &["create"], "leader election: makes its Lease"),
    row(Operator, Cluster, ("coordination.k8s.io", &["leases"], &[OPERATOR_LEASE]), &["get", "update"], "leader election: holds its Lease"),
];

/// The definitions that the operator looks at.
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

/// What the operator needs in the whole cluster: its own rules, and every right that it hands out.
pub fn operator_rules() -> Vec<PolicyRule> {
    let own = TABLE.iter().filter(|row| row.process == Operator && row.scope == Cluster);
    let handed_out = TABLE.iter().filter(|row| row.process != Operator);
    let mut rules: Vec<PolicyRule> = Vec::new();
    for rule in own.chain(handed_out).map(rule) {
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
    fn no_rule_has_a_star() {
        for row in TABLE {
            let words = [row.resources, row.names, row.verbs].concat();
            assert!(words.iter().chain([&row.group]).all(|word| !word.contains('*')), "{row:?}");
            assert!(!row.reason.is_empty() && !row.verbs.is_empty() && !row.resources.is_empty(), "{row:?}");
        }
    }

    #[test]
    fn a_name_limits_no_verb_that_the_api_never_limits_by_name() {
        for row in TABLE.iter().filter(|row| !row.names.is_empty()) {
            assert!(!row.verbs.contains(&"create") && !row.verbs.contains(&"deletecollection"), "{row:?}");
        }
    }

    #[test]
    fn the_operator_can_look_at_every_definition_that_is_installed() {
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
    fn only_the_speakers_keys_can_be_read_of_all_secrets() {
        for row in TABLE.iter().filter(|row| row.resources.contains(&"secrets")) {
            let known = [[BEACON_KEY_SECRET], [MEMBERLIST_SECRET]].iter().any(|names| row.names == names);
            assert!(row.verbs == ["create"] || known, "{row:?}");
        }
    }

    #[test]
    fn the_operator_has_every_right_that_it_hands_out() {
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
