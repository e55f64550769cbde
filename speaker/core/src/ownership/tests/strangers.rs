//! One speaker and what others say on the wire.

use super::super::wire::GIVES_WAY;
use super::super::*;
use super::fixture::{self, settings};
use super::world::{World, address, group, mac, name};
use crate::beacon::{Body, Flags, Message};
use crate::link::Scope;
use crate::placement::Placement;
use crate::responder::Sighting;
use crate::view::{Candidate, Candidates, Group, Tier};
use smoltcp::wire::EthernetAddress;

pub(super) const STRANGER: [u8; 6] = [2, 0, 0, 0, 0x66, 0x66];

pub(super) struct Bench {
    pub(super) speaker: Ownership,
    pub(super) now: Instant,
    pub(super) announced: bool,
}

impl Bench {
    /// Node 0 of `nodes`, the first in turn for one group; the others are ready and silent.
    pub(super) fn new(detection: Detection, nodes: usize) -> Self {
        let id = group(1);
        let groups = [(id, None)];
        let nodes: Vec<usize> = (0..nodes).collect();
        let view = fixture::view(&nodes, &nodes, &groups, Placement::Balanced);
        let speaker = Ownership::new(settings(0, detection, 1));
        let mut bench = Self { speaker, now: Instant::now(), announced: false };
        bench.feed(Input::View(Arc::new(View { placed: [(id, name(0))].into(), ..view })));
        bench.pass(SETTLE);
        bench
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

    pub(super) fn seen(&self, mac: [u8; 6], probing: bool) -> Sighting {
        Sighting {
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
fn an_address_that_a_stranger_has_is_owned_and_not_announced_until_the_stranger_goes() {
    let mut bench = Bench::new(Detection::Enforce, 1);
    bench.feed(Input::Answered(bench.seen(STRANGER, false)));
    assert!(bench.speaker.owned().contains_key(&group(1)) && !bench.announced);
    assert_eq!(bench.speaker.conflicts()[&group(1)].sighting.mac.0, STRANGER);

    // After 1, 2, 4, … seconds, and then every 60.
    for pause in [1, 2, 4, 8, 16, 32, 60, 60] {
        assert_eq!(probes(&bench.pass(Duration::from_millis(pause * 1_000 - 10))), 0, "{pause}");
        assert_eq!(probes(&bench.pass(Duration::from_millis(10))), 1, "{pause}");
        bench.feed(Input::Answered(bench.seen(STRANGER, false)));
        assert!(!bench.announced);
    }
    assert_eq!(probes(&bench.pass(Duration::from_secs(61))), 1);
    bench.feed(Input::Unanswered(group(1)));
    assert!(bench.announced);
    assert!(bench.speaker.conflicts().is_empty());
}

#[test]
fn b3_d12_a_stranger_that_probes_at_the_same_time_has_nothing_yet_and_yields() {
    let mut bench = Bench::new(Detection::Enforce, 1);
    bench.feed(Input::Answered(bench.seen([2, 0, 0, 0, 0, 0], true)));
    assert!(bench.speaker.conflicts().is_empty());
    bench.feed(Input::Unanswered(group(1)));
    assert!(bench.announced);
}

#[test]
fn b3_d12_who_probes_at_the_same_time_with_a_higher_address_goes_first_and_is_asked_again() {
    let mut bench = Bench::new(Detection::Enforce, 1);
    let outputs = bench.feed(Input::Answered(bench.seen(STRANGER, true)));
    assert!(bench.speaker.conflicts().is_empty() && outputs.contains(&Output::CancelProbe(group(1))));
    assert_eq!(probes(&bench.pass(REFUSAL / 2)), 0, "it is given the time to announce itself");

    assert_eq!(probes(&bench.pass(REFUSAL)), 1);
    bench.feed(Input::Answered(bench.seen(STRANGER, false)));
    assert!(!bench.announced && bench.speaker.conflicts().contains_key(&group(1)), "it has taken it");
}

#[test]
fn who_does_nothing_but_probe_does_not_keep_an_address_dark() {
    let mut bench = Bench::new(Detection::Enforce, 1);
    for _ in 0..GIVES_WAY {
        assert!(
            bench.feed(Input::Answered(bench.seen(STRANGER, true))).contains(&Output::CancelProbe(group(1)))
        );
        assert_eq!(probes(&bench.pass(REFUSAL * 2)), 1);
    }
    assert_eq!(bench.feed(Input::Answered(bench.seen(STRANGER, true))), []);
    bench.feed(Input::Unanswered(group(1)));
    assert!(bench.announced && bench.speaker.conflicts().is_empty());
}

#[test]
fn who_probes_while_a_stranger_is_asked_for_is_not_the_stranger() {
    let mut bench = Bench::new(Detection::Enforce, 1);
    bench.feed(Input::Answered(bench.seen(STRANGER, false)));
    assert_eq!(probes(&bench.pass(Duration::from_secs(1))), 1);
    bench.feed(Input::Answered(bench.seen([2, 0, 0, 0, 0x77, 0x77], true)));
    assert_eq!(bench.speaker.conflicts()[&group(1)].sighting.mac.0, STRANGER);
    bench.feed(Input::Unanswered(group(1)));
    assert!(bench.announced && bench.speaker.conflicts().is_empty());
}

#[test]
fn a_stranger_is_asked_for_again_though_the_question_was_lost() {
    let mut bench = Bench::new(Detection::Enforce, 1);
    bench.feed(Input::Answered(bench.seen(STRANGER, false)));
    assert_eq!(probes(&bench.pass(Duration::from_secs(1))), 1);
    assert_eq!(probes(&bench.pass(Duration::from_secs(2))), 1);
}

impl Bench {
    /// The API shows that a hardware address is a node's.
    fn known(&mut self, mac: [u8; 6], node: usize) {
        let mut view = View::clone(&self.speaker.view);
        view.macs.insert(mac, NodeId::of(&name(node)));
        self.feed(Input::View(Arc::new(view)));
    }

    /// The API shows that the stranger's hardware address is one of node 1, which owned the group last if it has an epoch.
    fn recognise(&mut self, epoch: Option<u64>) -> Vec<Output> {
        let mut view = View::clone(&self.speaker.view);
        view.macs.insert(STRANGER, NodeId::of(&name(1)));
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
    let mut bench = Bench::new(Detection::Enforce, 2);
    bench.feed(Input::Answered(bench.seen(STRANGER, false)));
    assert!(bench.speaker.owned().contains_key(&group(1)) && !bench.announced);
    bench.recognise(Some(7));
    assert!(bench.speaker.owned().is_empty() && !bench.announced && bench.speaker.conflicts().is_empty());
}

#[test]
fn the_wire_is_asked_to_the_end_though_the_stranger_turns_out_to_be_a_speaker_meanwhile() {
    let mut bench = Bench::new(Detection::Enforce, 1);
    bench.feed(Input::Answered(bench.seen(STRANGER, false)));
    // Stopped for a while.
    bench.now += Duration::from_secs(5);
    assert!(probes(&bench.feed(Input::Deadline)) > 0);
    assert!(!bench.recognise(None).contains(&Output::CancelProbe(group(1))));
    bench.feed(Input::Unanswered(group(1)));
    assert!(bench.announced);
}

#[test]
fn an_address_that_a_stranger_has_is_not_handed_over_so_that_the_next_one_asks_the_wire() {
    let mut world = World::new(0, 3, 1);
    world.strangers.insert(group(1));
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
    assert!(world.owners(group(1)).is_empty(), "the next one has asked");
    world.strangers.clear();
    world.pass(Duration::from_secs(60));
    world.owner(group(1));
}

#[test]
fn a_stranger_that_turns_out_to_be_a_speaker_is_none() {
    let mut bench = Bench::new(Detection::Enforce, 1);
    bench.feed(Input::Answered(bench.seen(STRANGER, false)));
    assert!(!bench.announced);
    bench.recognise(Some(0));
    assert!(bench.announced && bench.speaker.conflicts().is_empty());
}

#[test]
fn a_warning_announces_all_the_same_and_off_does_not_look() {
    let mut bench = Bench::new(Detection::Warn, 1);
    bench.feed(Input::Answered(bench.seen(STRANGER, false)));
    assert!(bench.announced);
    assert_eq!(bench.speaker.conflicts().len(), 1);

    let mut bench = Bench::new(Detection::Off, 1);
    assert!(bench.announced, "claimed without a probe");
    assert_eq!(bench.feed(Input::Contested(bench.seen(STRANGER, false))), []);
    assert!(bench.speaker.conflicts().is_empty());
}

#[test]
fn b6_b8_a_stranger_that_comes_later_is_told_of_and_defended_against() {
    let mut bench = Bench::new(Detection::Enforce, 1);
    bench.feed(Input::Unanswered(group(1)));
    assert!(bench.announced);
    let outputs = bench.feed(Input::Contested(bench.seen(STRANGER, false)));
    assert_eq!(outputs, [Output::Defend(group(1))]);
    assert!(bench.announced && bench.speaker.is_announced(group(1)));
    assert_eq!(bench.speaker.conflicts().len(), 1);
    bench.pass(Duration::from_secs(61));
    bench.feed(Input::Unanswered(group(1)));
    assert!(bench.speaker.conflicts().is_empty());
}

#[test]
fn another_speaker_that_claims_an_owned_address_on_the_wire_is_spoken_against_once_in_ten_seconds() {
    let mut bench = Bench::new(Detection::Enforce, 3);
    bench.feed(Input::Unanswered(group(1)));
    // Of two with the same epoch the higher stays.
    assert!(NodeId::of(&name(0)) > NodeId::of(&name(2)));
    let remind = [Output::Remind(group(1))];
    assert_eq!(bench.feed(Input::Contested(bench.seen(mac(2), false))), remind);
    bench.pass(Duration::from_secs(9));
    assert_eq!(bench.feed(Input::Contested(bench.seen(mac(2), false))), []);
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.feed(Input::Contested(bench.seen(mac(2), false))), remind);
}

#[test]
fn an_address_that_another_speaker_answers_for_is_let_alone_and_asked_about_again() {
    let mut bench = Bench::new(Detection::Enforce, 2);
    bench.feed(Input::Answered(bench.seen(mac(1), false)));
    assert!(bench.speaker.owned().is_empty());
    assert!(bench.speaker.conflicts().is_empty(), "a speaker is no stranger");
    assert_eq!(probes(&bench.pass(REFUSAL - Duration::from_millis(1))), 0);
    assert_eq!(probes(&bench.pass(Duration::from_millis(10))), 1);
}

/// A hardware address of node 1 below all others.
const LOWEST: [u8; 6] = [2, 0, 0, 0, 0, 0];

#[test]
fn of_two_speakers_that_cannot_talk_and_probe_at_once_the_one_with_the_higher_hardware_address_goes_on() {
    for (theirs, goes_on) in [(mac(1), false), (LOWEST, true)] {
        let mut bench = Bench::new(Detection::Enforce, 2);
        bench.known(LOWEST, 1);
        bench.feed(Input::Answered(bench.seen(theirs, true)));
        assert!(!bench.announced, "the question is not answered by another one");
        bench.feed(Input::Unanswered(group(1)));
        assert_eq!(bench.announced, goes_on);
    }
}

#[test]
fn an_owner_that_answers_after_another_speaker_has_asked_the_same_keeps_its_address() {
    let mut bench = Bench::new(Detection::Enforce, 3);
    bench.known(LOWEST, 1);
    assert_eq!(bench.feed(Input::Answered(bench.seen(LOWEST, true))), [], "the question goes on");
    bench.feed(Input::Answered(bench.seen(mac(2), false)));
    bench.feed(Input::Unanswered(group(1)));
    assert!(!bench.announced && bench.speaker.owned().is_empty());
}

#[test]
fn a_stranger_is_not_gone_because_a_speaker_asks_as_well() {
    let mut bench = Bench::new(Detection::Enforce, 2);
    bench.feed(Input::Answered(bench.seen(STRANGER, false)));
    assert_eq!(probes(&bench.pass(Duration::from_secs(1))), 1);
    bench.feed(Input::Answered(bench.seen(mac(1), true)));
    assert!(bench.speaker.conflicts().contains_key(&group(1)) && !bench.announced);
}

#[test]
fn there_is_no_warning_about_the_silence_of_a_speaker_that_is_not_ready_any_more() {
    let mut bench = Bench::new(Detection::Enforce, 2);
    bench.pass(Duration::from_secs(6));
    let blocked: Vec<(NodeName, Blocked)> = bench.speaker.blocked().collect();
    assert_eq!(blocked, [(name(1), Blocked::NeverHeard)]);
    let mut view = View::clone(&bench.speaker.view);
    view.speakers.get_mut(&name(1)).unwrap().ready = false;
    bench.feed(Input::View(Arc::new(view)));
    assert_eq!(bench.speaker.blocked().count(), 0);
}

/// Of the group with it, once a second address has come.
const SECOND: u8 = 9;

impl Bench {
    /// The group has one more address, whichever group had that.
    pub(super) fn add(&mut self) -> Vec<Output> {
        let mut view = View::clone(&self.speaker.view);
        view.groups.remove(&group(SECOND));
        let mut grown = Group::clone(&view.groups[&group(1)]);
        grown.addresses = [(group(1), Scope::All), (group(SECOND), Scope::All)].into();
        view.groups.insert(group(1), Arc::new(grown));
        self.feed(Input::View(Arc::new(view)))
    }

    /// Only node 1 may own the group.
    fn lose_candidacy(&mut self) -> Vec<Output> {
        let mut view = View::clone(&self.speaker.view);
        let mut elsewhere = Group::clone(&view.groups[&group(1)]);
        elsewhere.candidates = Candidates::ranked(group(1), vec![Candidate::new(name(1), Tier::default())]);
        view.groups.insert(group(1), Arc::new(elsewhere));
        self.feed(Input::View(Arc::new(view)))
    }

    /// The Service is gone; a pool has these addresses, if any.
    fn remove_service(&mut self, pool: Option<rules::IpRange>) {
        let mut view = View::clone(&self.speaker.view);
        view.groups.clear();
        view.placed.clear();
        view.pools = pool.into_iter().collect();
        self.feed(Input::View(Arc::new(view)));
    }

    fn seen_at(&self, number: u8, mac: [u8; 6]) -> Sighting {
        Sighting { address: group(number), ..self.seen(mac, false) }
    }

    /// One that owns its group.
    pub(super) fn owning(detection: Detection) -> Self {
        let mut bench = Self::new(detection, 2);
        bench.feed(Input::Unanswered(group(1)));
        assert!(bench.announced);
        bench
    }
}

#[test]
fn an_address_that_comes_to_an_owned_group_is_announced_once_the_wire_was_silent() {
    let mut bench = Bench::owning(Detection::Enforce);
    assert_eq!(probes(&bench.add()), 1);
    assert!(bench.speaker.is_announced(group(1)) && !bench.speaker.is_announced(group(SECOND)));
    assert_eq!(bench.feed(Input::Unanswered(group(SECOND))), [Output::Update(group(1))]);
    assert!(bench.speaker.is_announced(group(SECOND)));
}

#[test]
fn an_address_that_comes_to_an_owned_group_is_withheld_if_a_stranger_has_it() {
    let mut bench = Bench::owning(Detection::Enforce);
    bench.add();
    bench.feed(Input::Answered(bench.seen_at(SECOND, STRANGER)));
    assert!(bench.speaker.is_announced(group(1)) && !bench.speaker.is_announced(group(SECOND)));
    assert_eq!(probes(&bench.pass(Duration::from_secs(1))), 1, "it is asked again");
    bench.feed(Input::Unanswered(group(SECOND)));
    assert!(bench.speaker.is_announced(group(SECOND)));

    let mut bench = Bench::owning(Detection::Warn);
    bench.add();
    bench.feed(Input::Answered(bench.seen_at(SECOND, STRANGER)));
    assert!(bench.speaker.is_announced(group(SECOND)) && bench.speaker.conflicts().len() == 1);
}

#[test]
fn a_group_is_handed_over_only_once_the_wire_was_asked_about_all_of_it() {
    let mut bench = Bench::owning(Detection::Enforce);
    bench.add();
    let heard = Message {
        sender: NodeId::of(&name(1)),
        session: 7,
        echo: bench.speaker.peers[&NodeId::of(&name(1))].handshake.token(),
        sequence: 1,
        flags: Flags::default(),
        body: Body::Alive { claims: 0 },
    };
    bench.feed(Input::Message(address(1), heard));
    let offers = |outputs: &[Output]| {
        let offers = |output: &&Output| matches!(output, Output::Send { message, .. } if matches!(message.body, Body::Leave(_)));
        outputs.iter().filter(offers).count()
    };
    assert_eq!(offers(&bench.lose_candidacy()), 0);
    assert!(bench.announced && bench.speaker.owned().contains_key(&group(1)));
    assert_eq!(offers(&bench.feed(Input::Unanswered(group(SECOND)))), 1);
}

#[test]
fn nothing_is_announced_of_a_group_that_was_lost_while_an_address_of_it_was_asked_about() {
    let mut bench = Bench::owning(Detection::Enforce);
    bench.add();
    let mut outputs = bench.lose_candidacy();
    // Until then the other candidate, which is ready, might be heard and take it.
    outputs.extend(bench.pass(OFFERS));
    assert!(outputs.contains(&Output::CancelProbe(group(SECOND))), "{outputs:?}");
    assert_eq!(bench.feed(Input::Unanswered(group(SECOND))), []);
    assert!(bench.speaker.owned().is_empty() && !bench.announced);
}

#[test]
fn a_stranger_whose_service_is_gone_is_watched_until_it_goes_itself() {
    let mut bench = Bench::new(Detection::Enforce, 1);
    bench.feed(Input::Answered(bench.seen(STRANGER, false)));
    bench.remove_service(rules::IpRange::new(group(1), group(1)));
    assert!(bench.speaker.owned().is_empty() && bench.speaker.conflicts().contains_key(&group(1)));
    assert_eq!(probes(&bench.pass(Duration::from_secs(1))), 1);
    bench.feed(Input::Answered(bench.seen(STRANGER, false)));
    assert_eq!(probes(&bench.pass(Duration::from_secs(2))), 1);
    assert!(bench.speaker.over().is_empty());
    assert_eq!(bench.feed(Input::Unanswered(group(1))), [Output::CancelProbe(group(1))]);
    assert!(bench.speaker.conflicts().is_empty() && bench.speaker.over().contains(&group(1)));
}

#[test]
fn a_host_whose_address_no_service_can_get_any_more_is_not_asked_about() {
    let mut bench = Bench::new(Detection::Enforce, 1);
    bench.feed(Input::Answered(bench.seen(STRANGER, false)));
    bench.remove_service(None);
    assert!(bench.speaker.conflicts().is_empty());
    assert_eq!(probes(&bench.pass(Duration::from_secs(100))), 0);
}

#[test]
fn an_address_that_comes_from_another_nodes_group_is_asked_about_too() {
    let mut bench = Bench::owning(Detection::Enforce);
    let mut view = View::clone(&bench.speaker.view);
    let mut elsewhere = Group::clone(&view.groups[&group(1)]);
    elsewhere.id = group(SECOND);
    elsewhere.addresses = [(group(SECOND), Scope::All)].into();
    elsewhere.candidates = Candidates::ranked(group(1), vec![Candidate::new(name(1), Tier::default())]);
    view.groups.insert(group(SECOND), Arc::new(elsewhere));
    bench.feed(Input::View(Arc::new(view)));
    assert_eq!(probes(&bench.add()), 1);
    assert!(!bench.speaker.is_announced(group(SECOND)));
    assert_eq!(bench.feed(Input::Unanswered(group(SECOND))), [Output::Update(group(1))]);
}

#[test]
fn a_stranger_at_an_address_of_another_node_is_not_told_of_by_this_one() {
    let mut bench = Bench::new(Detection::Enforce, 2);
    bench.feed(Input::Answered(bench.seen(STRANGER, false)));
    assert!(bench.speaker.conflicts().contains_key(&group(1)));
    bench.lose_candidacy();
    assert!(bench.speaker.owned().is_empty() && bench.speaker.conflicts().is_empty());
    assert!(bench.speaker.over().is_empty(), "nobody has asked");
}
