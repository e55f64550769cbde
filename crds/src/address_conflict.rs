//! `AddressConflict`: a foreign host or a node of the cluster has an address. A speaker writes it, in the stack's
//! namespace, named after the address; the controller hands the address to nobody while it exists.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// Who uses which address, and where that was seen.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[kube(
    group = "lbstack.dev",
    version = "v1alpha1",
    kind = "AddressConflict",
    plural = "addressconflicts",
    namespaced,
    doc = "AddressConflict tells that a machine outside of the stack, or a node of the cluster, has an address. It goes when the machine gives the address up.",
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
    /// The hardware address of the machine that has it; empty if it is not known.
    pub mac: String,
    /// The node that saw it, or that has the address itself.
    pub node: String,
    /// The interface of that node that it was seen on, or that has the address; empty if it is not known.
    pub interface: String,
    /// Whether `node` has the address itself. No other node announces it then.
    #[serde(default)]
    pub held_by_node: bool,
    /// Whether speakers announce the address all the same, as with `conflictDetection: Warn`.
    #[serde(default)]
    pub announced: bool,
    /// When it was first seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_seen: Option<Time>,
    /// When it was last seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Time>,
}

impl AddressConflict {
    /// The name of the object for `address`: colons are no characters of names.
    pub fn name_for(address: std::net::IpAddr) -> String {
        address.to_string().replace("::", ".x.").replace(':', ".").trim_matches('.').to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::AddressConflict;

    #[test]
    fn each_address_has_a_legal_name_of_its_own() {
        let name = |text: &str| AddressConflict::name_for(text.parse().unwrap());
        assert_eq!(name("192.168.1.10"), "192.168.1.10");
        assert_eq!(name("fc00::1"), "fc00.x.1");
        assert_eq!(name("::1"), "x.1");
        assert_eq!(name("fc00::"), "fc00.x");
        assert_eq!(name("::"), "x");
        assert_ne!(name("fc00::1:0"), name("fc00:0:1::"));
    }
}
