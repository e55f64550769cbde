//! Somebody on the network who records datagrams, also those that are lost, and repeats them.

use super::super::super::*;
use super::{Happening, World};
use crate::beacon::{Body, Message};

/// Whom a datagram was for, who has sent it, and what it said.
pub(super) type Record = (usize, usize, Message);

impl World {
    /// Records whatever is sent from now on.
    pub(in super::super) fn record(&mut self) {
        self.records.get_or_insert_default();
    }

    /// Repeats some datagram that was recorded.
    pub(in super::super) fn repeat_any(&mut self) {
        let count = self.records.as_ref().map_or(0, |records| records.len() as u64);
        let index = usize::try_from(self.chance.below(count)).unwrap();
        let record = self.records.as_ref().and_then(|records| records.get(index)).cloned();
        self.repeat(record);
    }

    /// Repeats all datagrams with such a body. Returns how many.
    pub(in super::super) fn repeat_all(&mut self, like: impl Fn(&Body) -> bool) -> usize {
        let records = self.records.iter().flatten().filter(|(_, _, message)| like(&message.body));
        let records: Vec<Record> = records.cloned().collect();
        let count = records.len();
        self.repeat(records);
        count
    }

    fn repeat(&mut self, records: impl IntoIterator<Item = Record>) {
        for (to, from, message) in records {
            self.schedule(Duration::ZERO, Happening::Deliver { to, from, message });
        }
    }

    /// What all speakers have counted, as far as the stories ask.
    pub(in super::super) fn counts(&self) -> Counts {
        let speakers = self.nodes.iter().filter_map(|node| node.speaker.as_ref());
        let suspicions = speakers.map(|speaker| speaker.counts().suspicions).sum();
        Counts { suspicions, ..Counts::default() }
    }
}
