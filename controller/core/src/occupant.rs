//! The machines that use addresses of pools.

/// The machine that uses an address, so that no Service may get it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Occupant {
    /// A host on the network that does not belong to the cluster.
    ForeignHost,
    /// The node of this name, as its own address.
    Node(String),
}
