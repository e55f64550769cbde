//! The table of configuration kinds: every list of these kinds is generated from it, or iterates over it.

/// Calls a macro with the table, a row for each kind: its documentation, the name of a list of its objects, and
/// its type in [`crds`]. The macro gets further arguments before the table.
///
/// ```
/// macro_rules! count {
///     ($($(#[$doc:meta])* $list:ident: $kind:ident,)*) => { [$(stringify!($kind)),*].len() };
/// }
/// assert_eq!(rules::config_kinds!(count), 7);
/// ```
#[macro_export]
macro_rules! config_kinds {
    ($($callback:ident)::+ $(, $($arguments:tt)+)?) => {
        $($callback)::+! {
            $($($arguments)+)?
            /// Pools.
            pools: IPAddressPool,
            /// Layer-2 advertisements.
            l2_advertisements: L2Advertisement,
            /// Reservations and quotas.
            pool_policies: PoolPolicy,
            /// BFD profiles.
            bfd_profiles: BFDProfile,
            /// BGP peers.
            bgp_peers: BGPPeer,
            /// Aliases of BGP communities.
            communities: Community,
            /// BGP advertisements.
            bgp_advertisements: BGPAdvertisement,
        }
    };
}

/// Evaluates an expression for each [`ConfigKind`](crate::ConfigKind), with a name for the type. The crate that uses it depends on
/// [`crds`].
///
/// ```
/// use rules::ConfigKind as _;
///
/// let mut names = Vec::new();
/// rules::for_each_config_kind!(K => names.push(K::KIND));
/// assert!(names.contains(&"IPAddressPool"));
/// ```
#[macro_export]
macro_rules! for_each_config_kind {
    ($type:ident => $body:expr) => {
        $crate::config_kinds!($crate::__repeat_for_config_kinds, [$type => $body])
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __repeat_for_config_kinds {
    ([$type:ident => $body:expr] $($(#[$doc:meta])* $list:ident: $kind:ident,)*) => {
        $({
            type $type = crds::$kind;
            $body;
        })*
    };
}
