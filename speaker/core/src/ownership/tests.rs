//! Several speakers on one virtual clock. [`world`] is the network, the API and the faults; [`scenarios`] are
//! single stories; [`random`] are thousands of random ones; in [`replays`] somebody repeats what was sent. [`strangers`]
//! has one speaker and the wire; [`desk`] has one speaker and the messages of others, in [`freshness`] and [`floods`].

mod desk;
mod floods;
mod freshness;
mod random;
mod replays;
mod scenarios;
mod strangers;
mod world;
