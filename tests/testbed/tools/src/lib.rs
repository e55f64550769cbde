//! Code that the tools share.

pub mod ethernet;
pub mod flags;
pub mod neighbour;
pub mod silence;
pub mod sys;
