//! An attacker that records datagrams, including lost ones, and replays them.

use super::super::super::*;
use super::{SimEvent, World};
use crate::layer2::beacon::{Body, Message};

/// Destination, source and content of a datagram.
pub(super) type Record = (usize, usize, Message);

impl World {
    /// Records whatever is sent from now on.
    pub(in super::super) fn record(&mut self) {
        self.records.get_or_insert_default();
    }

    /// Replays a random recorded datagram.
    pub(in super::super) fn repeat_any(&mut self) {
        let count = self.records.as_ref().map_or(0, |records| records.len() as u64);
        let index = usize::try_from(self.random.below(count)).unwrap();
        let record = self.records.as_ref().and_then(|records| records.get(index)).cloned();
        self.repeat(record);
    }

    /// Replays all datagrams with such a body. Returns how many.
    pub(in super::super) fn repeat_all(&mut self, like: impl Fn(&Body) -> bool) -> usize {
        let records = self.records.iter().flatten().filter(|(_, _, message)| like(&message.body));
        let records: Vec<Record> = records.cloned().collect();
        let count = records.len();
        self.repeat(records);
        count
    }

    fn repeat(&mut self, records: impl IntoIterator<Item = Record>) {
        for (to, from, message) in records {
            self.schedule(Duration::ZERO, SimEvent::Deliver { to, from, message });
        }
    }

    /// The sum of those counters of all speakers that tests need.
    pub(in super::super) fn counts(&self) -> Counts {
        let speakers = self.nodes.iter().filter_map(|node| node.speaker.as_ref());
        let suspicions = speakers.map(|speaker| speaker.counts().suspicions).sum();
        Counts { suspicions, ..Counts::default() }
    }
}
