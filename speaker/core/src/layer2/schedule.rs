//! The schedule of gratuitous announcements on one link.
//!
//! ```text
//!          claim    +50 ms  +200 ms  +1.1 s  +2.2 s  +5 s     then every 60 s
//! wave       0         1        2       3       4      5           6 …
//! ```
//!
//! The early waves make up for lost frames; 1.1 s because Linux before 4.11 ignores a changed address for one
//! second; the refresh keeps switches and routers from forgetting a quiet address (docs/reference/layer2.md C2, C3). Token
//! buckets limit the frames per second (C4): clients wait for the frames after a claim, so their limit is
//! much higher than that of refreshes; on a congested link it is the same. Probes and answers are not
//! limited. If more is due than may be sent, first waves take precedence over later ones, and those over
//! refreshes.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::layer2::token_bucket::TokenBucket;

const WAVES: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_millis(1_100),
    Duration::from_millis(2_200),
    Duration::from_secs(5),
];
const REFRESH: Duration = Duration::from_secs(60);
/// 1 000 frames per second and link.
const FRAME_INTERVAL: Duration = Duration::from_millis(1);
/// 200 refreshes per second and link; on a congested link the limit of all frames.
const REFRESH_INTERVAL: Duration = Duration::from_millis(5);
const BURST: u32 = 40;
/// How long a link is treated as congested after it did not take a frame.
const CONGESTED: Duration = Duration::from_secs(1);
/// The queue of the lowest urgency.
const REFRESHES: usize = 3;
/// Capacity that an empty queue keeps.
const KEPT: usize = 64;

/// Which of the two frames of a wave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Form {
    /// ARP request, or the advertisement to all nodes.
    First,
    /// ARP reply, or (first wave only) the advertisement to all routers.
    Second,
}

/// A frame that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Due {
    pub(crate) address: IpAddr,
    pub(crate) form: Form,
    /// The announcement of the address that it belongs to; a later one makes this one void.
    generation: u32,
    wave: u8,
    started: Instant,
}

/// The announcements in progress on one link.
#[derive(Debug)]
pub(crate) struct Schedule {
    timers: BinaryHeap<Reverse<(Instant, Due)>>,
    /// By urgency: first form and second form of first waves, later waves, refreshes.
    ready: [VecDeque<Due>; 4],
    all: TokenBucket,
    refreshes: TokenBucket,
    congested_until: Option<Instant>,
    blocked_until: Option<Instant>,
}

impl Schedule {
    pub(crate) fn new() -> Self {
        Self {
            timers: BinaryHeap::new(),
            ready: Default::default(),
            all: TokenBucket::new(FRAME_INTERVAL, BURST),
            refreshes: TokenBucket::new(REFRESH_INTERVAL, BURST),
            congested_until: None,
            blocked_until: None,
        }
    }

    /// Begins with wave 0. Pending frames of an older `generation` of the address are skipped.
    pub(crate) fn start(&mut self, now: Instant, address: IpAddr, generation: u32) {
        self.enqueue(Due { address, form: Form::First, generation, wave: 0, started: now });
    }

    fn enqueue(&mut self, due: Due) {
        let urgency = match (due.wave, due.form) {
            (0, Form::First) => 0,
            (0, Form::Second) => 1,
            (1..=5, _) => 2,
            _ => REFRESHES,
        };
        self.ready[urgency].push_back(due);
    }

    /// The next frame to send now. `generation` returns the current generation of an announced address.
    pub(crate) fn pop(&mut self, now: Instant, generation: impl Fn(&IpAddr) -> Option<u32>) -> Option<Due> {
        while let Some(Reverse((at, _))) = self.timers.peek()
            && *at <= now
            && let Some(Reverse((_, due))) = self.timers.pop()
        {
            self.enqueue(due);
        }
        self.blocked_until = None;
        for urgency in 0..self.ready.len() {
            while let Some(due) = self.ready[urgency].front().copied() {
                if generation(&due.address) != Some(due.generation) {
                    self.ready[urgency].pop_front();
                    continue;
                }
                if let Err(at) = self.take(now, urgency == REFRESHES) {
                    self.blocked_until = Some(at);
                    return None;
                }
                self.ready[urgency].pop_front();
                self.follow(now, due);
                return Some(due);
            }
            // After thousands at once, the queue would keep their memory forever.
            self.ready[urgency].shrink_to(KEPT);
        }
        None
    }

    /// Takes the tokens for a frame, or returns when there will be some.
    fn take(&mut self, now: Instant, refresh: bool) -> Result<(), Instant> {
        if refresh || self.congested_until.is_some_and(|until| now < until) {
            self.all.check(now)?;
            self.refreshes.take(now)?;
        }
        self.all.take(now)
    }

    /// The link did not take a frame: its send queue is full.
    pub(crate) fn congested(&mut self, now: Instant) {
        self.congested_until = now.checked_add(CONGESTED);
    }

    /// Schedules the successor of `due`: the other form at once, else the next wave.
    fn follow(&mut self, now: Instant, due: Due) {
        let both_forms =
            if due.address.is_ipv4() { usize::from(due.wave) < WAVES.len() } else { due.wave == 0 };
        if both_forms && due.form == Form::First {
            return self.enqueue(Due { form: Form::Second, ..due });
        }
        let wave = due.wave.saturating_add(1);
        let at = match WAVES.get(usize::from(wave)) {
            Some(after) => due.started.checked_add(*after),
            None => now.checked_add(REFRESH),
        };
        if let Some(at) = at {
            self.timers.push(Reverse((at, Due { form: Form::First, wave, ..due })));
        }
    }

    /// When [`Self::pop`] may return something again, provided that it has returned `None`.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        match self.blocked_until {
            Some(at) => Some(at),
            None => self.timers.peek().map(|Reverse((at, _))| *at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(schedule: &mut Schedule, start: Instant, until: Duration) -> Vec<(u128, Due)> {
        let mut sent = Vec::new();
        let mut now = start;
        loop {
            while let Some(due) = schedule.pop(now, |_| Some(1)) {
                sent.push(((now - start).as_millis(), due));
            }
            match schedule.next_deadline() {
                Some(at) if at <= start + until => now = at.max(now),
                _ => return sent,
            }
        }
    }

    #[test]
    fn both_forms_are_sent_in_six_waves_and_then_a_refresh_every_minute() {
        let (start, mut schedule) = (Instant::now(), Schedule::new());
        schedule.start(start, "10.0.0.1".parse().unwrap(), 1);
        let times: Vec<u128> =
            run(&mut schedule, start, Duration::from_secs(130)).iter().map(|s| s.0).collect();
        let waves = [0, 0, 50, 50, 200, 200, 1_100, 1_100, 2_200, 2_200, 5_000, 5_000];
        assert_eq!(times[..12], waves);
        assert_eq!(times[12..], [65_000, 125_000]);
    }

    fn many(schedule: &mut Schedule, start: Instant, count: u32) {
        for n in 0..count {
            schedule.start(start, IpAddr::V4((0x0a00_0000 + n).into()), 1);
        }
    }

    #[test]
    fn a_thousand_addresses_are_announced_first_within_a_second_and_nothing_exceeds_a_thousand_a_second() {
        let (start, mut schedule) = (Instant::now(), Schedule::new());
        many(&mut schedule, start, 1_000);
        let sent = run(&mut schedule, start, Duration::from_secs(5));
        assert!(sent.len() <= 1_000 * 5 + BURST as usize, "{}", sent.len());
        assert!(sent[..1_000].iter().all(|(_, due)| due.wave == 0 && due.form == Form::First));
        assert!(sent[999].0 <= 1_000, "{} ms", sent[999].0);
    }

    #[test]
    fn refreshes_keep_to_two_hundred_a_second_and_do_not_delay_a_first_announcement() {
        let (start, mut schedule) = (Instant::now(), Schedule::new());
        many(&mut schedule, start, 2_000);
        let sent = run(&mut schedule, start, Duration::from_secs(120));
        let refreshes: Vec<u128> = sent.iter().filter(|(_, due)| due.wave >= 6).map(|(at, _)| *at).collect();
        assert!(refreshes.len() >= 2_000);
        let window = |from: u128| refreshes.iter().filter(|at| (from..from + 1_000).contains(*at)).count();
        let most = (0..120).map(|second| window(second * 1_000)).max().unwrap();
        assert!(most <= 200 + BURST as usize, "{most}");
        // Refreshes that wait do not delay the first announcement of a new address.
        let now = start + Duration::from_secs(120);
        while schedule.pop(now, |_| Some(1)).is_some() {}
        schedule.start(now, "10.9.9.9".parse().unwrap(), 1);
        let next = schedule.pop(now + FRAME_INTERVAL, |_| Some(1)).unwrap();
        assert_eq!((next.address, next.wave), ("10.9.9.9".parse().unwrap(), 0));
    }

    #[test]
    fn a_congested_link_gets_two_hundred_frames_a_second_for_a_while() {
        let (start, mut schedule) = (Instant::now(), Schedule::new());
        many(&mut schedule, start, 4_000);
        schedule.congested(start);
        let sent = run(&mut schedule, start, Duration::from_millis(1_999));
        let before = sent.iter().filter(|(at, _)| *at < 1_000).count();
        assert!(before <= 200 + BURST as usize, "{before}");
        assert!(sent.len() - before > 900, "{}", sent.len());
    }

    #[test]
    fn frames_of_an_older_announcement_are_skipped() {
        let (start, mut schedule) = (Instant::now(), Schedule::new());
        let address: IpAddr = "fd00::1".parse().unwrap();
        schedule.start(start, address, 1);
        schedule.start(start, address, 2);
        let due = schedule.pop(start, |_| Some(2)).unwrap();
        assert_eq!(due.generation, 2);
        assert_eq!(schedule.pop(start, |_| None), None);
        assert_eq!(schedule.next_deadline(), None);
    }
}
