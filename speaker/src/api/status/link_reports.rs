//! Rate limit for reports of link changes.
//!
//! Any host on a link can change its addresses: each router advertisement with another prefix adds one (RFC
//! 4862 §5.5.3). What other speakers must know at once, such as an interface that went down, is a change or
//! two; a continuous stream of changes is reported at a rate that the API can bear from every node.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use announce::cluster::link::Link;

use crate::layer2::interfaces::OtherAddresses;

/// This number of changes is reported at once.
const BURST: usize = 3;
/// The period of [`BURST`].
const PERIOD: Duration = Duration::from_secs(15);

/// The last report, and the times of recent ones.
#[derive(Debug, Default)]
pub(super) struct LinkReports {
    links: Vec<Link>,
    other_addresses: OtherAddresses,
    changes: VecDeque<Instant>,
    due: Option<Instant>,
}

impl LinkReports {
    /// Returns the links and addresses to report: the current ones, unless they have changed too often.
    pub(super) fn report(
        &mut self,
        now: Instant,
        links: &[Link],
        other_addresses: &OtherAddresses,
    ) -> (&[Link], &OtherAddresses) {
        self.due = None;
        if self.links != links || self.other_addresses != *other_addresses {
            self.changes.retain(|at| now.saturating_duration_since(*at) < PERIOD);
            if self.changes.len() < BURST {
                self.changes.push_back(now);
                self.links = links.to_vec();
                self.other_addresses.clone_from(other_addresses);
            } else {
                self.due = self.changes.front().and_then(|first| first.checked_add(PERIOD));
            }
        }
        (&self.links, &self.other_addresses)
    }

    /// When a deferred change is to be reported.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use announce::EthernetAddress;

    fn link(number: u32) -> Link {
        Link {
            index: 1,
            name: "eth0".into(),
            mac: EthernetAddress([2, 0, 0, 0, 0, 1]),
            broadcast: true,
            link_local: None,
            subnets: [(std::net::Ipv4Addr::from(number).into(), 24)].into(),
            carrier_ups: 1,
        }
    }

    #[test]
    fn requirement_6_continuous_address_changes_are_reported_three_times_in_fifteen_seconds() {
        let (start, mut reports, none) = (Instant::now(), LinkReports::default(), OtherAddresses::default());
        let (mut reported, mut written) = (Vec::new(), 0);
        for round in 0..750 {
            let now = start + Duration::from_millis(u64::from(round) * 200);
            let (links, _) = reports.report(now, &[link(round)], &none);
            if reported != links {
                (reported, written) = (links.to_vec(), written + 1);
            }
        }
        assert!((28..=30).contains(&written), "{written} in 150 s");
        let due = reports.due().unwrap();
        assert_eq!(reports.report(due, &[link(999)], &none).0, [link(999)], "the last is not forgotten");
        assert_eq!(reports.due(), None);
    }

    #[test]
    fn a_link_that_goes_down_and_comes_back_is_reported_each_time_at_once() {
        let (start, mut reports, none) = (Instant::now(), LinkReports::default(), OtherAddresses::default());
        let up = [link(1)];
        for (millis, links) in [(0, &up[..]), (200, &[]), (400, &up)] {
            assert_eq!(reports.report(start + Duration::from_millis(millis), links, &none).0, links);
        }
    }
}
