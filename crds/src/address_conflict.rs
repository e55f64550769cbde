//! `AddressConflict`: a foreign host or a node of the cluster uses an address of the stack. A speaker writes
//! it to the stack's namespace, named after the address. The controller does not assign the address while it
//! exists.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// The host that uses an address, and where it was observed.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[kube(
    group = "lbstack.dev",
    version = "v1alpha1",
    kind = "AddressConflict",
    plural = "addressconflicts",
    namespaced,
    doc = "AddressConflict reports that a foreign host or a node uses an address. It is removed afterwards.",
    derive = "PartialEq",
    printcolumn(name = "Address", type_ = "string", json_path = ".spec.address"),
    printcolumn(name = "MAC", type_ = "string", json_path = ".spec.mac"),
    printcolumn(name = "Node", type_ = "string", json_path = ".spec.node"),
    printcolumn(name = "Interface", type_ = "string", json_path = ".spec.interface"),
    printcolumn(name = "Announced", type_ = "boolean", json_path = ".spec.announced"),
    printcolumn(name = "Last Seen", type_ = "date", json_path = ".spec.lastSeen")
)]
#[serde(rename_all = "camelCase")]
pub struct AddressConflictSpec {
    /// The address.
    pub address: String,
    /// The link-layer address of the host that uses it; empty if it is not known.
    pub mac: String,
    /// The node that observed it, or that has the address itself.
    pub node: String,
    /// The interface of that node on which it was observed, or that has the address; empty if it is not
    /// known.
    pub interface: String,
    /// Whether `node` has the address itself. Then no other node announces it.
    #[serde(default)]
    pub held_by_node: bool,
    /// Whether speakers announce the address nevertheless, as with `conflictDetection: Warn`.
    #[serde(default)]
    pub announced: bool,
    /// When it was first observed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_seen: Option<Time>,
    /// When it was last observed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Time>,
}

impl AddressConflict {
    /// The name of the object for `address`, without colons, which names cannot contain.
    pub fn name_for(address: std::net::IpAddr) -> String {
        address.to_string().replace("::", ".x.").replace(':', ".").trim_matches('.').to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::AddressConflict;

    #[test]
    fn each_address_has_a_valid_unique_name() {
        let name = |text: &str| AddressConflict::name_for(text.parse().unwrap());
        assert_eq!(name("192.168.1.10"), "192.168.1.10");
        assert_eq!(name("fc00::1"), "fc00.x.1");
        assert_eq!(name("::1"), "x.1");
        assert_eq!(name("fc00::"), "fc00.x");
        assert_eq!(name("::"), "x");
        assert_ne!(name("fc00::1:0"), name("fc00:0:1::"));
    }
}
