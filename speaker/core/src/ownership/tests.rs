//! Several speakers on one virtual clock. [`world`] is the network, the API and the faults; [`scenarios`] are
//! single stories; [`random`] are thousands of random ones; [`services`] are those of Services with several addresses, with
//! views built from facts. [`strangers`] has one speaker and the wire; [`limits`] is what others can make a speaker do.

mod desk;
mod limits;
mod random;
mod scenarios;
mod services;
mod strangers;
mod world;
