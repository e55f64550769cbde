//! Several speakers on one virtual clock. [`world`] is the network, the API and the faults; [`scenarios`] are
//! single stories; [`random`] are thousands of random ones. [`strangers`] and [`holders`] have one
//! speaker and its link.

mod holders;
mod random;
mod scenarios;
mod strangers;
mod world;
