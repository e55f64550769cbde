//! Annotations, under MetalLB's current prefix and its deprecated one.

use std::collections::BTreeMap;

/// The current prefix.
pub const PREFIX: &str = "metallb.io/";
/// The deprecated prefix, which is still supported.
pub const DEPRECATED_PREFIX: &str = "metallb.universe.tf/";

/// Read: the name of the one pool to allocate from.
pub const ADDRESS_POOL: &str = "address-pool";
/// Read: a comma-separated list of one or two addresses, at most one per family.
pub const LOAD_BALANCER_IPS: &str = "loadBalancerIPs";
/// Read: the sharing key.
pub const ALLOW_SHARED_IP: &str = "allow-shared-ip";
/// Written by the controller, current prefix only: the name of the pool in use.
pub const IP_ALLOCATED_FROM_POOL: &str = "metallb.io/ip-allocated-from-pool";
/// On a `ServiceL2Status`: the epoch of its node's claim of the address. It outlives the node and its
/// speakers.
pub const EPOCH: &str = "lbstack.dev/epoch";
/// On a `ServiceL2Status`, and on a speaker's `ConfigurationState` of an earlier release: the name of the node. A label cannot hold a name of
/// more than 63 characters.
pub const NODE: &str = "lbstack.dev/node";
/// On a speaker's `ConfigurationState` of an earlier release: the links of its node, as JSON. Today a
/// [`SpeakerState`](crate::SpeakerState) has them.
pub const LINKS: &str = "lbstack.dev/links";
/// On a speaker's `ConfigurationState` of an earlier release: the addresses of pools and Services that its node has on interfaces that are not
/// announced on, as JSON.
pub const OTHER_ADDRESSES: &str = "lbstack.dev/other-addresses";
/// On a speaker's `ConfigurationState` of an earlier release: Services that no node announces, by the node that announced them last, with the
/// epoch of its claim, as JSON. They return to that node.
pub const LAST_ANNOUNCED: &str = "lbstack.dev/last-announced";

/// The value of the annotation `key` (without prefix).
///
/// The current prefix takes precedence, even with an empty value (`docs/reference/metallb.md` §2.1).
pub fn get<'a>(annotations: Option<&'a BTreeMap<String, String>>, key: &str) -> Option<&'a str> {
    let annotations = annotations?;
    [PREFIX, DEPRECATED_PREFIX]
        .iter()
        .find_map(|prefix| annotations.get(&format!("{prefix}{key}")))
        .map(String::as_str)
}

/// The pool of a Service's addresses. MetalLB also used the deprecated prefix.
pub fn allocated_from(annotations: Option<&BTreeMap<String, String>>) -> Option<&str> {
    let key = IP_ALLOCATED_FROM_POOL.strip_prefix(PREFIX)?;
    get(annotations, key).filter(|pool| !pool.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotations(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn the_current_prefix_takes_precedence_even_with_an_empty_value() {
        let both = annotations(&[("metallb.io/address-pool", ""), ("metallb.universe.tf/address-pool", "a")]);
        assert_eq!(get(Some(&both), ADDRESS_POOL), Some(""));
    }

    #[test]
    fn the_deprecated_prefix_is_supported() {
        let old = annotations(&[("metallb.universe.tf/address-pool", "a")]);
        assert_eq!(get(Some(&old), ADDRESS_POOL), Some("a"));
        assert_eq!(get(None, ADDRESS_POOL), None);
    }

    #[test]
    fn the_pool_in_use_is_read_under_both_prefixes() {
        for (pairs, pool) in [
            (&[(IP_ALLOCATED_FROM_POOL, "lan")][..], Some("lan")),
            (&[("metallb.universe.tf/ip-allocated-from-pool", "lan")], Some("lan")),
            (&[(IP_ALLOCATED_FROM_POOL, "")], None),
            (&[], None),
        ] {
            assert_eq!(allocated_from(Some(&annotations(pairs))), pool, "{pairs:?}");
        }
    }
}
