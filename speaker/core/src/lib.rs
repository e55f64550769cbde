//! Layer-2 announcement, pure: time, chance and keys are arguments, sockets and the API are elsewhere.
//!
//! | module | is |
//! |---|---|
//! | [`facts`] | what is kept of the objects of the API |
//! | [`view`] | what the API says: groups of addresses, who may announce them |
//! | [`placement`] | which candidate a group without an owner goes to |
//! | [`ownership`] | who owns which group |
//! | [`beacon`] | what speakers tell each other, written and signed |
//! | [`responder`] | ARP and NDP: answers, announcements, probes |
//! | [`link`] | the links of this node |
//!
//! The driver (crate `speaker`) owns one of each and carries outputs from one to another.

pub mod arp;
pub mod beacon;
mod bucket;
pub mod facts;
pub mod frame;
#[doc(hidden)]
pub mod fuzz;
pub mod link;
pub mod ndp;
pub mod ownership;
pub mod placement;
pub mod responder;
mod schedule;
pub mod view;

pub use smoltcp::wire::EthernetAddress;

/// SHA-256 over `parts`, each with its length before it, so that no two lists of parts give the same.
pub fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}
