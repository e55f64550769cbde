//! Layer 2: the driver of the state machines, and the sockets.

pub(crate) mod beacon_socket;
pub(crate) mod driver;
pub(crate) mod interfaces;
pub(crate) mod keys;
pub(crate) mod link_sockets;
pub(crate) mod packet_socket;
pub(crate) mod view_task;
