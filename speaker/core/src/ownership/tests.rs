//! Several speakers on one virtual clock. [`world`] is the network, the API and the faults; [`scenarios`] are
//! single stories; [`random`] are thousands of random ones. [`strangers`] has one speaker and the wire.

mod random;
mod scenarios;
mod strangers;
mod world;
