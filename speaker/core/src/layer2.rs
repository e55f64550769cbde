//! Announcement on layer 2, by ARP and NDP.
//!
//! | module | content |
//! |---|---|
//! | [`view`] | groups of addresses and their candidates, derived from the API objects |
//! | [`placement`] | which candidate takes a group without an owner |
//! | [`ownership`] | which node owns which group |
//! | [`beacon`] | the messages between speakers, their encoding and signature |
//! | [`responder`] | ARP and NDP: answers, announcements, probes |
//!
//! The driver (crate `speaker`) owns one of each and passes the outputs of one to the other.

pub mod arp;
pub mod beacon;
pub mod frame;
#[doc(hidden)]
pub mod fuzz;
pub mod ndp;
pub mod ownership;
pub mod placement;
pub mod responder;
mod schedule;
mod token_bucket;
pub mod view;
