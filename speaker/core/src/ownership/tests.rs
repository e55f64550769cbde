//! Several speakers on one virtual clock. [`world`] is the network, the API and the faults; [`scenarios`] are
//! single stories; [`random`] are thousands of random ones; [`services`] are those of Services with several addresses, with
//! views built from facts; in [`replays`] somebody repeats what was sent. [`strangers`] and [`holders`] have one speaker and
//! its link; [`limits`] is what others can make a speaker do; [`desk`] has one speaker and the messages of others, in
//! [`freshness`] and [`floods`].

mod desk;
mod fixture;
mod floods;
mod freshness;
mod holders;
mod limits;
mod queue;
mod random;
mod replays;
mod scenarios;
mod services;
mod strangers;
mod world;
