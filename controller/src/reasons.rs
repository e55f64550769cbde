//! The types and reasons of the conditions, and the reasons of the events, that the controller writes.
//!
//! Those of MetalLB are spelled as MetalLB does.

crds::string_enum! {
    /// Types of conditions.
    pub enum ConditionType {
        /// On a Service: whether it has an address.
        AddressAssigned = "lbstack.dev/AddressAssigned",
        /// On a Service: another machine uses its address. Present only while that is so.
        AddressConflict = "lbstack.dev/AddressConflict",
        /// On a configuration object: whether it is in use.
        Ready = "Ready",
        /// On an IPAddressPool: automatic assignment finds no free address of a family.
        Exhausted = "Exhausted",
        /// On an IPAddressPool: other machines use addresses of it.
        Conflict = "Conflict",
        /// On the ConfigurationState of the controller: whether the configuration is valid.
        PoolReconcilerValid = "poolReconcilerValid",
    }
}

crds::string_enum! {
    /// Reasons of conditions, in addition to [`ipam::RefusalReason`].
    pub enum ConditionReason {
        /// AddressAssigned: the Service has the addresses that it asks for.
        Assigned = "Assigned",
        /// AddressAssigned: another client repeatedly overwrites the status, so the addresses are not written for a while.
        StatusContested = "StatusContested",
        /// AddressConflict, Conflict: a host outside the cluster uses the address.
        UsedByOthers = "UsedByOthers",
        /// AddressConflict: the address is an address of a node.
        UsedByNode = "UsedByNode",
        /// Conflict: no other machine uses an address of the pool.
        NoConflict = "None",
        /// Ready: the object is valid and in use.
        InUse = "InUse",
        /// Ready: the object is in use, and its warnings are in the message.
        InUseWithWarnings = "InUseWithWarnings",
        /// Ready, poolReconcilerValid: the configuration has the errors in the message.
        ConfigurationError = "ConfigurationError",
        /// Exhausted: all addresses of a family are in use, reserved or excluded.
        AllInUse = "AllInUse",
        /// Exhausted: addresses are free.
        AddressesFree = "AddressesFree",
        /// poolReconcilerValid: the configuration is valid.
        Reconciled = "Reconciled",
    }
}

crds::string_enum! {
    /// Reasons of events.
    pub enum EventReason {
        /// Addresses were assigned to the Service.
        IpAllocated = "IPAllocated",
        /// Addresses of the Service were withdrawn.
        ClearAssignment = "ClearAssignment",
        /// The Service has no address, for the reason in the message.
        AllocationFailed = "AllocationFailed",
        /// The request of the Service cannot be met, and it keeps its address.
        LoadBalancerFailed = "LoadBalancerFailed",
        /// The Service has an address of only one of its two families.
        AdditionalAssignFailed = "AdditionalAssignFailed",
        /// The Service requires two families and has fewer than two cluster IPs.
        NotEnoughClusterIps = "not enough clusterips",
        /// The Service has no cluster IP.
        NoClusterIp = "noclusterIPsIPFamily",
        /// The Service has an annotation with the deprecated prefix.
        DeprecatedAnnotation = "deprecatedAnnotation",
        /// Another machine uses an address of the Service or pool.
        AddressConflict = "AddressConflict",
        /// No other machine uses the address any more.
        AddressConflictEnded = "AddressConflictEnded",
        /// Another client repeatedly overwrites the status, so it is not written for a while.
        StatusContested = "StatusContested",
        /// The configuration object has an error.
        ConfigurationError = "ConfigurationError",
        /// The configuration object has a warning.
        ConfigurationWarning = "ConfigurationWarning",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Alerts and scripts of users read them.
    #[test]
    fn the_strings_of_reasons_do_not_change() {
        let conditions = ConditionReason::ALL.iter().map(|reason| reason.as_str()).collect::<Vec<_>>();
        assert_eq!(
            conditions.join(" "),
            "Assigned StatusContested UsedByOthers UsedByNode None InUse InUseWithWarnings ConfigurationError \
             AllInUse AddressesFree Reconciled"
        );
        let refusals = ipam::RefusalReason::ALL.iter().map(|reason| reason.as_str()).collect::<Vec<_>>();
        assert_eq!(
            refusals.join(" "),
            "InvalidRequest NoPools NoPoolFits PoolDoesNotFit UnknownPool InvalidPool OutsideEveryPool PoolMismatch \
             AddressKeptBack AddressInUse AddressConflict NodeAddress AddressLostByPool OneFamilyOnly"
        );
        let events = EventReason::ALL.iter().map(|reason| reason.as_str()).collect::<Vec<_>>();
        assert_eq!(
            events.join(", "),
            "IPAllocated, ClearAssignment, AllocationFailed, LoadBalancerFailed, AdditionalAssignFailed, \
             not enough clusterips, noclusterIPsIPFamily, deprecatedAnnotation, AddressConflict, \
             AddressConflictEnded, StatusContested, ConfigurationError, ConfigurationWarning"
        );
    }
}
