//! Several speakers on one virtual clock. [`world`] simulates the network, the API and faults; [`scenarios`]
//! are single scenarios; [`random`] are thousands of random ones; [`services`] are those of Services with
//! several addresses, with views built from object summaries; in [`replays`] recorded messages are replayed.
//! [`foreign_hosts`] and [`holders`] test one speaker with scripted probes; [`limits`] are bounds on what
//! others can cause; [`scripted_peers`] is a speaker with scripted peers, used by [`freshness`] and
//! [`floods`].

mod fixture;
mod floods;
mod foreign_hosts;
mod freshness;
mod holders;
mod limits;
mod queue;
mod random;
mod replays;
mod scenarios;
mod scripted_peers;
mod services;
mod world;
