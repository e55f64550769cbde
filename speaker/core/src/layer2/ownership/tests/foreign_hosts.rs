//! One speaker with scripted probes and observations on the link.

use super::super::observations::MAX_DEFERRALS;
use super::super::*;
use super::fixture::{self, settings};
use super::world::{World, address, group, mac, name};
use crate::cluster::link::Scope;
use crate::layer2::beacon::{Body, Flags, Message};
use crate::layer2::placement::Placement;
use crate::layer2::responder::Observation;
use crate::layer2::view::{Candidate, Candidates, Group, Tier};
use smoltcp::wire::EthernetAddress;

pub(super) const FOREIGN_MAC: [u8; 6] = [2, 0, 0, 0, 0x66, 0x66];

pub(super) struct ProbeHarness {
    pub(super) speaker: Ownership,
    pub(super) now: Instant,
    pub(super) announced: bool,
}

impl ProbeHarness {
    /// Node 0 of `nodes`, whose turn it is to take the only group; the others are ready but not heard.
    pub(super) fn new(detection: Detection, nodes: usize) -> Self {
        let id = group(1);
        let groups = [(id, None)];
        let nodes: Vec<usize> = (0..nodes).collect();
        let view = fixture::view(&nodes, &nodes, &groups, Placement::Balanced);
        let speaker = Ownership::new(settings(0, detection, 1));
        let mut harness = Self { speaker, now: Instant::now(), announced: false };
        harness.feed(Input::View(Arc::new(View { placed: [(id, name(0))].into(), ..view })));
        harness.pass(SETTLE_TIME);
        harness
    }

    pub(super) fn feed(&mut self, input: Input) -> Vec<Output> {
        self.speaker.handle(self.now, input);
        let outputs: Vec<Output> = std::iter::from_fn(|| self.speaker.poll_output()).collect();
        for output in &outputs {
            match output {
                Output::Announce(_) | Output::Update(_) => {
                    self.announced = self.speaker.is_announced(group(1));
                }
                Output::Withdraw(_) => self.announced = false,
                _ => {}
            }
        }
        outputs
    }

    pub(super) fn pass(&mut self, time: Duration) -> Vec<Output> {
        let end = self.now + time;
        let mut outputs = Vec::new();
        while let Some(at) = self.speaker.next_deadline().filter(|at| *at <= end) {
            self.now = at.max(self.now);
            outputs.extend(self.feed(Input::Deadline));
        }
        self.now = end;
        outputs
    }

    pub(super) fn seen(&self, mac: [u8; 6], probing: bool) -> Observation {
        Observation {
            address: group(1),
            mac: EthernetAddress(mac),
            ours: EthernetAddress(super::world::mac(0)),
            link: 1,
            probing,
        }
    }
}

pub(super) fn probes(outputs: &[Output]) -> usize {
    outputs.iter().filter(|output| matches!(output, Output::Probe(..))).count()
}

#[test]
fn an_address_of_a_foreign_host_is_owned_and_not_announced_until_the_host_is_gone() {
    let mut harness = ProbeHarness::new(Detection::Enforce, 1);
    harness.feed(Input::ProbeAnswered(harness.seen(FOREIGN_MAC, false)));
    assert!(harness.speaker.owned().contains_key(&group(1)) && !harness.announced);
    assert_eq!(harness.speaker.conflicts()[&group(1)].observation.mac.0, FOREIGN_MAC);

    // After 1, 2, 4, … seconds, and then every 60.
    for pause in [1, 2, 4, 8, 16, 32, 60, 60] {
        assert_eq!(probes(&harness.pass(Duration::from_millis(pause * 1_000 - 10))), 0, "{pause}");
        assert_eq!(probes(&harness.pass(Duration::from_millis(10))), 1, "{pause}");
        harness.feed(Input::ProbeAnswered(harness.seen(FOREIGN_MAC, false)));
        assert!(!harness.announced);
    }
    assert_eq!(probes(&harness.pass(Duration::from_secs(61))), 1);
    harness.feed(Input::ProbeClear(group(1)));
    assert!(harness.announced);
    assert!(harness.speaker.conflicts().is_empty());
}

#[test]
fn b3_d12_a_foreign_host_that_probes_at_the_same_time_has_nothing_yet_and_yields() {
    let mut harness = ProbeHarness::new(Detection::Enforce, 1);
    harness.feed(Input::ProbeAnswered(harness.seen([2, 0, 0, 0, 0, 0], true)));
    assert!(harness.speaker.conflicts().is_empty());
    harness.feed(Input::ProbeClear(group(1)));
    assert!(harness.announced);
}

#[test]
fn b3_d12_a_concurrent_prober_with_a_higher_address_goes_first_and_is_probed_again() {
    let mut harness = ProbeHarness::new(Detection::Enforce, 1);
    let outputs = harness.feed(Input::ProbeAnswered(harness.seen(FOREIGN_MAC, true)));
    assert!(harness.speaker.conflicts().is_empty() && outputs.contains(&Output::CancelProbe(group(1))));
    assert_eq!(probes(&harness.pass(BACKOFF / 2)), 0, "it is given the time to announce itself");

    assert_eq!(probes(&harness.pass(BACKOFF)), 1);
    harness.feed(Input::ProbeAnswered(harness.seen(FOREIGN_MAC, false)));
    assert!(!harness.announced && harness.speaker.conflicts().contains_key(&group(1)), "it has taken it");
}

#[test]
fn a_host_that_only_probes_does_not_keep_an_address_from_being_announced() {
    let mut harness = ProbeHarness::new(Detection::Enforce, 1);
    for _ in 0..MAX_DEFERRALS {
        assert!(
            harness
                .feed(Input::ProbeAnswered(harness.seen(FOREIGN_MAC, true)))
                .contains(&Output::CancelProbe(group(1)))
        );
        assert_eq!(probes(&harness.pass(BACKOFF * 2)), 1);
    }
    assert_eq!(harness.feed(Input::ProbeAnswered(harness.seen(FOREIGN_MAC, true))), []);
    harness.feed(Input::ProbeClear(group(1)));
    assert!(harness.announced && harness.speaker.conflicts().is_empty());
}

#[test]
fn a_prober_is_not_taken_for_the_foreign_host_that_is_probed_for() {
    let mut harness = ProbeHarness::new(Detection::Enforce, 1);
    harness.feed(Input::ProbeAnswered(harness.seen(FOREIGN_MAC, false)));
    assert_eq!(probes(&harness.pass(Duration::from_secs(1))), 1);
    harness.feed(Input::ProbeAnswered(harness.seen([2, 0, 0, 0, 0x77, 0x77], true)));
    assert_eq!(harness.speaker.conflicts()[&group(1)].observation.mac.0, FOREIGN_MAC);
    harness.feed(Input::ProbeClear(group(1)));
    assert!(harness.announced && harness.speaker.conflicts().is_empty());
}

#[test]
fn a_foreign_host_is_probed_again_though_a_request_was_lost() {
    let mut harness = ProbeHarness::new(Detection::Enforce, 1);
    harness.feed(Input::ProbeAnswered(harness.seen(FOREIGN_MAC, false)));
    assert_eq!(probes(&harness.pass(Duration::from_secs(1))), 1);
    assert_eq!(probes(&harness.pass(Duration::from_secs(2))), 1);
}

impl ProbeHarness {
    /// The API shows that a hardware address belongs to a node.
    fn known(&mut self, mac: [u8; 6], node: usize) {
        let mut view = View::clone(&self.speaker.view);
        view.macs.insert(mac, NodeId::from_name(&name(node)));
        self.feed(Input::View(Arc::new(view)));
    }

    /// The API shows that the foreign host's hardware address is one of node 1, the last owner if it has an
    /// epoch.
    fn resolve_known_speakers(&mut self, epoch: Option<u64>) -> Vec<Output> {
        let mut view = View::clone(&self.speaker.view);
        view.macs.insert(FOREIGN_MAC, NodeId::from_name(&name(1)));
        if let Some(epoch) = epoch {
            let mut owned = Group::clone(&view.groups[&group(1)]);
            owned.last = Some((name(1), epoch));
            view.groups.insert(group(1), Arc::new(owned));
        }
        self.feed(Input::View(Arc::new(view)))
    }
}

#[test]
fn a_speaker_that_cannot_be_heard_and_owned_the_address_later_keeps_it_once_it_is_known() {
    let mut harness = ProbeHarness::new(Detection::Enforce, 2);
    harness.feed(Input::ProbeAnswered(harness.seen(FOREIGN_MAC, false)));
    assert!(harness.speaker.owned().contains_key(&group(1)) && !harness.announced);
    harness.resolve_known_speakers(Some(7));
    assert!(
        harness.speaker.owned().is_empty() && !harness.announced && harness.speaker.conflicts().is_empty()
    );
}

#[test]
fn a_probe_is_completed_though_the_foreign_host_turns_out_to_be_a_speaker_meanwhile() {
    let mut harness = ProbeHarness::new(Detection::Enforce, 1);
    harness.feed(Input::ProbeAnswered(harness.seen(FOREIGN_MAC, false)));
    // Stalled for a while.
    harness.now += Duration::from_secs(5);
    assert!(probes(&harness.feed(Input::Deadline)) > 0);
    assert!(!harness.resolve_known_speakers(None).contains(&Output::CancelProbe(group(1))));
    harness.feed(Input::ProbeClear(group(1)));
    assert!(harness.announced);
}

#[test]
fn an_address_of_a_foreign_host_is_not_handed_over_so_that_the_next_owner_probes_it() {
    let mut world = World::new(0, 3, 1);
    world.foreign_hosts.insert(group(1));
    for node in 0..3 {
        world.start(node);
    }
    world.pass(Duration::from_secs(6));
    assert!(world.owners(group(1)).is_empty(), "withheld");
    let owns =
        |world: &World| (0..3).find(|node| world.is_up(*node) && world.speaker(*node).owned().len() == 1);
    let first = owns(&world).unwrap();
    world.shut_down(first);
    world.pass(Duration::from_secs(3));
    assert!(owns(&world).is_some_and(|next| next != first));
    assert!(world.owners(group(1)).is_empty(), "the next owner has probed");
    world.foreign_hosts.clear();
    world.pass(Duration::from_secs(60));
    world.owner(group(1));
}

#[test]
fn a_foreign_host_that_turns_out_to_be_a_speaker_is_no_conflict() {
    let mut harness = ProbeHarness::new(Detection::Enforce, 1);
    harness.feed(Input::ProbeAnswered(harness.seen(FOREIGN_MAC, false)));
    assert!(!harness.announced);
    harness.resolve_known_speakers(Some(0));
    assert!(harness.announced && harness.speaker.conflicts().is_empty());
}

#[test]
fn detection_warn_announces_all_the_same_and_off_does_not_detect() {
    let mut harness = ProbeHarness::new(Detection::Warn, 1);
    harness.feed(Input::ProbeAnswered(harness.seen(FOREIGN_MAC, false)));
    assert!(harness.announced);
    assert_eq!(harness.speaker.conflicts().len(), 1);

    let mut harness = ProbeHarness::new(Detection::Off, 1);
    assert!(harness.announced, "claimed without a probe");
    assert_eq!(harness.feed(Input::Contested(harness.seen(FOREIGN_MAC, false))), []);
    assert!(harness.speaker.conflicts().is_empty());
}

#[test]
fn b6_b8_a_foreign_host_that_appears_later_is_reported_and_defended_against() {
    let mut harness = ProbeHarness::new(Detection::Enforce, 1);
    harness.feed(Input::ProbeClear(group(1)));
    assert!(harness.announced);
    let outputs = harness.feed(Input::Contested(harness.seen(FOREIGN_MAC, false)));
    assert_eq!(outputs, [Output::Defend(group(1))]);
    assert!(harness.announced && harness.speaker.is_announced(group(1)));
    assert_eq!(harness.speaker.conflicts().len(), 1);
    harness.pass(Duration::from_secs(61));
    harness.feed(Input::ProbeClear(group(1)));
    assert!(harness.speaker.conflicts().is_empty());
}

#[test]
fn an_owned_address_that_another_speaker_claims_on_the_link_is_reannounced_once_in_ten_seconds() {
    let mut harness = ProbeHarness::new(Detection::Enforce, 3);
    harness.feed(Input::ProbeClear(group(1)));
    // Of two claims with the same epoch the higher node wins.
    assert!(NodeId::from_name(&name(0)) > NodeId::from_name(&name(2)));
    let remind = [Output::Reannounce(group(1))];
    assert_eq!(harness.feed(Input::Contested(harness.seen(mac(2), false))), remind);
    harness.pass(Duration::from_secs(9));
    assert_eq!(harness.feed(Input::Contested(harness.seen(mac(2), false))), []);
    harness.pass(Duration::from_secs(1));
    assert_eq!(harness.feed(Input::Contested(harness.seen(mac(2), false))), remind);
}

#[test]
fn an_address_that_another_speaker_answers_for_is_not_taken_and_probed_again() {
    let mut harness = ProbeHarness::new(Detection::Enforce, 2);
    harness.feed(Input::ProbeAnswered(harness.seen(mac(1), false)));
    assert!(harness.speaker.owned().is_empty());
    assert!(harness.speaker.conflicts().is_empty(), "a speaker is no foreign host");
    assert_eq!(probes(&harness.pass(BACKOFF - Duration::from_millis(1))), 0);
    assert_eq!(probes(&harness.pass(Duration::from_millis(10))), 1);
}

/// A hardware address of node 1 below all others.
const LOWEST: [u8; 6] = [2, 0, 0, 0, 0, 0];

#[test]
fn of_two_concurrent_probers_that_do_not_hear_each_other_the_higher_hardware_address_goes_on() {
    for (theirs, goes_on) in [(mac(1), false), (LOWEST, true)] {
        let mut harness = ProbeHarness::new(Detection::Enforce, 2);
        harness.known(LOWEST, 1);
        harness.feed(Input::ProbeAnswered(harness.seen(theirs, true)));
        assert!(!harness.announced, "another prober is not an answer");
        harness.feed(Input::ProbeClear(group(1)));
        assert_eq!(harness.announced, goes_on);
    }
}

#[test]
fn an_owner_that_answers_after_another_speaker_has_probed_keeps_its_address() {
    let mut harness = ProbeHarness::new(Detection::Enforce, 3);
    harness.known(LOWEST, 1);
    assert_eq!(harness.feed(Input::ProbeAnswered(harness.seen(LOWEST, true))), [], "the probe goes on");
    harness.feed(Input::ProbeAnswered(harness.seen(mac(2), false)));
    harness.feed(Input::ProbeClear(group(1)));
    assert!(!harness.announced && harness.speaker.owned().is_empty());
}

#[test]
fn a_foreign_host_is_not_gone_because_a_speaker_probes_as_well() {
    let mut harness = ProbeHarness::new(Detection::Enforce, 2);
    harness.feed(Input::ProbeAnswered(harness.seen(FOREIGN_MAC, false)));
    assert_eq!(probes(&harness.pass(Duration::from_secs(1))), 1);
    harness.feed(Input::ProbeAnswered(harness.seen(mac(1), true)));
    assert!(harness.speaker.conflicts().contains_key(&group(1)) && !harness.announced);
}

#[test]
fn a_speaker_that_is_not_ready_any_more_is_not_reported_as_blocked() {
    let mut harness = ProbeHarness::new(Detection::Enforce, 2);
    harness.pass(Duration::from_secs(6));
    let blocked: Vec<(NodeName, Blocked)> = harness.speaker.blocked().collect();
    assert_eq!(blocked, [(name(1), Blocked::NeverHeard)]);
    let mut view = View::clone(&harness.speaker.view);
    view.speakers.get_mut(&name(1)).unwrap().ready = false;
    harness.feed(Input::View(Arc::new(view)));
    assert_eq!(harness.speaker.blocked().count(), 0);
}

/// The number of the second address of the group.
const SECOND: u8 = 9;

impl ProbeHarness {
    /// The group gets one more address, whichever group had it.
    pub(super) fn add(&mut self) -> Vec<Output> {
        let mut view = View::clone(&self.speaker.view);
        view.groups.remove(&group(SECOND));
        let mut grown = Group::clone(&view.groups[&group(1)]);
        grown.addresses = [(group(1), Scope::All), (group(SECOND), Scope::All)].into();
        view.groups.insert(group(1), Arc::new(grown));
        self.feed(Input::View(Arc::new(view)))
    }

    /// Only node 1 is a candidate for the group.
    fn lose_candidacy(&mut self) -> Vec<Output> {
        let mut view = View::clone(&self.speaker.view);
        let mut elsewhere = Group::clone(&view.groups[&group(1)]);
        elsewhere.candidates = Candidates::ranked(group(1), vec![Candidate::new(name(1), Tier::default())]);
        view.groups.insert(group(1), Arc::new(elsewhere));
        self.feed(Input::View(Arc::new(view)))
    }

    /// The Service is gone; a pool contains these addresses, if any.
    fn remove_service(&mut self, pool: Option<rules::IpRange>) {
        let mut view = View::clone(&self.speaker.view);
        view.groups.clear();
        view.placed.clear();
        view.pools = pool.into_iter().collect();
        self.feed(Input::View(Arc::new(view)));
    }

    fn seen_at(&self, number: u8, mac: [u8; 6]) -> Observation {
        Observation { address: group(number), ..self.seen(mac, false) }
    }

    /// A speaker that owns its group.
    pub(super) fn owning(detection: Detection) -> Self {
        let mut harness = Self::new(detection, 2);
        harness.feed(Input::ProbeClear(group(1)));
        assert!(harness.announced);
        harness
    }
}

#[test]
fn an_address_that_is_added_to_an_owned_group_is_announced_once_its_probe_is_clear() {
    let mut harness = ProbeHarness::owning(Detection::Enforce);
    assert_eq!(probes(&harness.add()), 1);
    assert!(harness.speaker.is_announced(group(1)) && !harness.speaker.is_announced(group(SECOND)));
    assert_eq!(harness.feed(Input::ProbeClear(group(SECOND))), [Output::Update(group(1))]);
    assert!(harness.speaker.is_announced(group(SECOND)));
}

#[test]
fn an_address_that_is_added_to_an_owned_group_is_withheld_if_a_foreign_host_has_it() {
    let mut harness = ProbeHarness::owning(Detection::Enforce);
    harness.add();
    harness.feed(Input::ProbeAnswered(harness.seen_at(SECOND, FOREIGN_MAC)));
    assert!(harness.speaker.is_announced(group(1)) && !harness.speaker.is_announced(group(SECOND)));
    assert_eq!(probes(&harness.pass(Duration::from_secs(1))), 1, "it is probed again");
    harness.feed(Input::ProbeClear(group(SECOND)));
    assert!(harness.speaker.is_announced(group(SECOND)));

    let mut harness = ProbeHarness::owning(Detection::Warn);
    harness.add();
    harness.feed(Input::ProbeAnswered(harness.seen_at(SECOND, FOREIGN_MAC)));
    assert!(harness.speaker.is_announced(group(SECOND)) && harness.speaker.conflicts().len() == 1);
}

#[test]
fn a_group_is_handed_over_only_once_all_of_it_was_probed() {
    let mut harness = ProbeHarness::owning(Detection::Enforce);
    harness.add();
    let heard = Message {
        sender: NodeId::from_name(&name(1)),
        session: 7,
        echo: harness.speaker.peers[&NodeId::from_name(&name(1))].handshake.token(),
        sequence: 1,
        flags: Flags::default(),
        body: Body::Alive { digest: 0 },
    };
    harness.feed(Input::Message(address(1), heard));
    let offers = |outputs: &[Output]| {
        let offers = |output: &&Output| match output {
            Output::Send { message, .. } => matches!(message.body, Body::Leave(_)),
            _ => false,
        };
        outputs.iter().filter(offers).count()
    };
    assert_eq!(offers(&harness.lose_candidacy()), 0);
    assert!(harness.announced && harness.speaker.owned().contains_key(&group(1)));
    assert_eq!(offers(&harness.feed(Input::ProbeClear(group(SECOND)))), 1);
}

#[test]
fn nothing_is_announced_of_a_group_that_was_lost_while_one_of_its_addresses_was_probed() {
    let mut harness = ProbeHarness::owning(Detection::Enforce);
    harness.add();
    let mut outputs = harness.lose_candidacy();
    // Until then the other candidate, which is ready, might be heard and take it.
    outputs.extend(harness.pass(HANDOVER_TIMEOUT));
    assert!(outputs.contains(&Output::CancelProbe(group(SECOND))), "{outputs:?}");
    assert_eq!(harness.feed(Input::ProbeClear(group(SECOND))), []);
    assert!(harness.speaker.owned().is_empty() && !harness.announced);
}

#[test]
fn a_foreign_host_whose_service_is_deleted_is_watched_until_it_is_gone() {
    let mut harness = ProbeHarness::new(Detection::Enforce, 1);
    harness.feed(Input::ProbeAnswered(harness.seen(FOREIGN_MAC, false)));
    harness.remove_service(rules::IpRange::new(group(1), group(1)));
    assert!(harness.speaker.owned().is_empty() && harness.speaker.conflicts().contains_key(&group(1)));
    assert_eq!(probes(&harness.pass(Duration::from_secs(1))), 1);
    harness.feed(Input::ProbeAnswered(harness.seen(FOREIGN_MAC, false)));
    assert_eq!(probes(&harness.pass(Duration::from_secs(2))), 1);
    assert!(harness.speaker.resolved_conflicts().is_empty());
    assert_eq!(harness.feed(Input::ProbeClear(group(1))), [Output::CancelProbe(group(1))]);
    assert!(
        harness.speaker.conflicts().is_empty() && harness.speaker.resolved_conflicts().contains(&group(1))
    );
}

#[test]
fn a_host_whose_address_no_service_can_get_any_more_is_not_probed() {
    let mut harness = ProbeHarness::new(Detection::Enforce, 1);
    harness.feed(Input::ProbeAnswered(harness.seen(FOREIGN_MAC, false)));
    harness.remove_service(None);
    assert!(harness.speaker.conflicts().is_empty());
    assert_eq!(probes(&harness.pass(Duration::from_secs(100))), 0);
}

#[test]
fn an_address_from_a_group_of_another_node_is_probed_as_well() {
    let mut harness = ProbeHarness::owning(Detection::Enforce);
    let mut view = View::clone(&harness.speaker.view);
    let mut elsewhere = Group::clone(&view.groups[&group(1)]);
    elsewhere.id = group(SECOND);
    elsewhere.addresses = [(group(SECOND), Scope::All)].into();
    elsewhere.candidates = Candidates::ranked(group(1), vec![Candidate::new(name(1), Tier::default())]);
    view.groups.insert(group(SECOND), Arc::new(elsewhere));
    harness.feed(Input::View(Arc::new(view)));
    assert_eq!(probes(&harness.add()), 1);
    assert!(!harness.speaker.is_announced(group(SECOND)));
    assert_eq!(harness.feed(Input::ProbeClear(group(SECOND))), [Output::Update(group(1))]);
}

#[test]
fn a_conflict_of_another_nodes_address_is_not_reported_by_this_node() {
    let mut harness = ProbeHarness::new(Detection::Enforce, 2);
    harness.feed(Input::ProbeAnswered(harness.seen(FOREIGN_MAC, false)));
    assert!(harness.speaker.conflicts().contains_key(&group(1)));
    harness.lose_candidacy();
    assert!(harness.speaker.owned().is_empty() && harness.speaker.conflicts().is_empty());
    assert!(harness.speaker.resolved_conflicts().is_empty(), "there was no probe");
}
