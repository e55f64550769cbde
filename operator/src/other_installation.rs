//! Reports a second installation. A cluster has one operator: a second one, installed into another namespace,
//! waits for the Lease like a standby replica, which has to be reported as a mistake.

use std::time::Duration;

use crds::names::{OPERATOR_LEASE, OPERATOR_LEASE_NAMESPACE, STACK};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::DynamicObject;
use kube::{Api, Client};
use runtime::client::with_timeout;
use runtime::events::Events;
use runtime::lease::Leadership;

use crate::stack::{Stack, stack_resource};

/// How often a standby operator checks who holds the Lease.
const INTERVAL: Duration = Duration::from_mins(1);

/// A holder identity with the operator's namespace.
pub(crate) fn identity(namespace: &str, process: &str) -> String {
    format!("{namespace}/{process}")
}

/// The namespace of the installation that holds the Lease, if it is not `namespace`.
fn other_installation<'a>(holder: &'a str, namespace: &str) -> Option<&'a str> {
    let (other, _) = holder.split_once('/')?;
    (other != namespace).then_some(other)
}

/// Reports periodically, in the log and as an event on the stack, that this operator waits for one of another
/// installation. Never returns.
pub(crate) async fn report(client: Client, leadership: Leadership, events: Events, namespace: String) {
    let leases: Api<Lease> = Api::namespaced(client.clone(), OPERATOR_LEASE_NAMESPACE);
    let stacks: Api<DynamicObject> = Api::all_with(client, &stack_resource());
    loop {
        tokio::time::sleep(INTERVAL).await;
        if leadership.is_leading() {
            continue;
        }
        let lease = with_timeout(leases.get_opt(OPERATOR_LEASE)).await.ok().flatten();
        let holder = lease.and_then(|lease| lease.spec?.holder_identity).unwrap_or_default();
        let Some(other) = other_installation(&holder, &namespace) else { continue };
        let note = format!(
            "the operator in namespace {namespace} is inactive, because the operator in namespace {other} \
             ({holder}) manages this cluster: remove one of the two"
        );
        tracing::warn!(holder, "{note}");
        let listed = kube::api::ListParams::default().fields(&format!("metadata.name={STACK}"));
        let stack = with_timeout(stacks.list(&listed)).await.ok().and_then(|mut list| list.items.pop());
        if let Some(stack) = stack {
            events.warning(&Stack::read(stack).reference(), "Elect", "AnotherOperator", note);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operator_of_another_installation_is_distinguished_from_a_replica() {
        let own = identity("lbstack-system", "lbstack-operator-abc_1");
        assert_eq!(other_installation(&own, "lbstack-system"), None);
        assert_eq!(other_installation(&own, "operators"), Some("lbstack-system"));
        assert_eq!(other_installation("", "operators"), None, "nobody holds it");
    }
}
