//! A throwaway real cluster on one machine: etcd, the Kubernetes control plane, nodes with containerd and
//! kube-proxy, and a client outside of the cluster, all in network namespaces on one LAN. No Docker and no
//! hypervisor; internet access is needed only once, to build and to download packages.
//!
//! ```text
//!         lan namespace: bridge br0, the gateway .1 / ::1, forwarding, the image registry
//!    ┌───────────┬────────────┬────────────┬────────────┐
//!   cp .2     client .100   node1 .11    node2 .12    node3 .13     each a namespace of its own, eth0, both families
//! ```
//!
//! [`Cluster::up`] creates it and returns when the nodes are Ready. It is removed when the [`Cluster`] is
//! dropped, and when the process ends. [`Net`] is the same LAN with plain machines and no Kubernetes. Faults
//! are methods of the affected object: [`Node::power_off`], [`Node::cable`], [`Lan::block`], [`Lan::loss`],
//! [`Server::stop`].
//!
//! All names contain the testbed's id, so several can run at once. It needs root.

mod cache;
mod cgroup;
mod cleanup;
mod cluster;
mod components;
mod control_plane;
mod diagnose;
mod error;
mod faults;
mod guest;
mod host;
mod image;
mod kubectl;
mod machines;
mod net;
mod node;
mod options;
mod packages;
mod paths;
mod pki;
mod plan;
mod process;
mod progress;
mod reaper;
mod registry;
mod state;
mod topology;
mod traffic;

pub use cleanup::down;
pub use cluster::{Cluster, prepare};
pub use components::{Component, Static, target_directory};
pub use error::{Error, Result};
pub use faults::{Block, Fault, ForeignHost, Frames};
pub use guest::Guest;
pub use host::Host;
pub use image::{Image, Written, architecture};
pub use machines::{Node, Pod, Server};
pub use net::{Net, NetOptions};
pub use nix::sys::signal::Signal;
pub use options::{KubeProxy, LanOptions, Multicast, Options, Ranges};
pub use pki::Identity;
pub use plan::{LanPlan, Mac, Machine, NodePlan, Plan};
pub use process::{Namespace, Running, until};
pub use progress::Progress;
pub use reaper::run_reaper;
pub use topology::{BRIDGE, INTERFACE, Lan};
pub use traffic::{Answer, Answers, GapClass, Protocol, SilenceReport, Traffic, TrafficReport};
