use super::*;

const LINK: LinkIndex = 2;
const OURS: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 1]);
const THEIRS: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 9]);

fn link(index: LinkIndex, name: &str) -> Link {
    Link {
        index,
        name: name.into(),
        mac: EthernetAddress([2, 0, 0, 0, 0, u8::try_from(index).unwrap() - 1]),
        broadcast: true,
        link_local: Some("fe80::1".parse().unwrap()),
        subnets: BTreeSet::new(),
        carrier_ups: 0,
    }
}

struct ResponderHarness {
    responder: Responder,
    now: Instant,
}

impl ResponderHarness {
    fn new(links: Vec<Link>) -> Self {
        let mut harness = Self { responder: Responder::new(7), now: Instant::now() };
        harness.feed(Input::Links(links));
        harness
    }

    fn feed(&mut self, input: Input<'_>) -> Vec<Output> {
        let _ = self.responder.handle(self.now, input);
        std::iter::from_fn(|| self.responder.poll_output()).collect()
    }

    fn frame(&mut self, link: LinkIndex, frame: Frame) -> Vec<Output> {
        self.feed(Input::Frame(link, frame.as_bytes()))
    }

    fn pass(&mut self, time: Duration) -> Vec<Output> {
        let end = self.now + time;
        let mut outputs = Vec::new();
        while let Some(at) = self.responder.next_deadline().filter(|at| *at <= end) {
            self.now = at.max(self.now);
            outputs.extend(self.feed(Input::Deadline));
        }
        self.now = end;
        outputs
    }

    /// Announces and lets the waves pass.
    fn announce(&mut self, address: &str, scope: Scope) {
        self.feed(Input::Announce(ip(address), scope));
        self.pass(Duration::from_secs(6));
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn v6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

fn named(name: &str) -> Scope {
    Scope::Named([name.to_owned()].into())
}

fn request(target: &str) -> Frame {
    let request = Arp {
        request: true,
        destination: EthernetAddress::BROADCAST,
        sender_mac: THEIRS,
        sender: "10.0.0.100".parse().unwrap(),
        target: target.parse().unwrap(),
    };
    let mut frame = arp::reply(THEIRS, &Arp { target: request.sender, sender: request.target, ..request });
    frame.as_mut()[..6].copy_from_slice(&[0xff; 6]);
    frame.as_mut()[21] = 1;
    frame
}

fn transmitted(outputs: &[Output]) -> Vec<(LinkIndex, Purpose)> {
    let transmit = |output: &Output| match output {
        Output::Transmit { link, purpose, .. } => Some((*link, *purpose)),
        _ => None,
    };
    outputs.iter().filter_map(transmit).collect()
}

#[test]
fn a2_only_announced_addresses_are_answered_for_whether_asked_by_broadcast_or_unicast() {
    let mut harness = ResponderHarness::new(vec![link(LINK, "eth0")]);
    harness.announce("10.0.0.5", Scope::All);
    assert_eq!(transmitted(&harness.frame(LINK, request("10.0.0.5"))), [(LINK, Purpose::Answer)]);
    assert_eq!(harness.frame(LINK, request("10.0.0.6")), []);
    let mut unicast = request("10.0.0.5");
    unicast.as_mut()[..6].copy_from_slice(&OURS.0);
    assert_eq!(transmitted(&harness.frame(LINK, unicast)), [(LINK, Purpose::Answer)]);
    let mut for_another = request("10.0.0.5");
    for_another.as_mut()[..6].copy_from_slice(&[2, 0, 0, 0, 0, 77]);
    assert_eq!(harness.frame(LINK, for_another), []);
    harness.feed(Input::Withdraw(ip("10.0.0.5")));
    assert_eq!(harness.frame(LINK, request("10.0.0.5")), []);
}

#[test]
fn a3_a_probe_for_an_announced_address_is_answered() {
    let mut harness = ResponderHarness::new(vec![link(LINK, "eth0")]);
    harness.announce("10.0.0.5", Scope::All);
    let probe = arp::probe(THEIRS, "10.0.0.5".parse().unwrap());
    assert_eq!(transmitted(&harness.frame(LINK, probe)), [(LINK, Purpose::Answer)]);
}

#[test]
fn a7_one_request_gets_one_answer_and_our_own_frames_get_none() {
    let mut harness = ResponderHarness::new(vec![link(LINK, "eth0"), link(3, "eth1")]);
    harness.announce("10.0.0.5", Scope::All);
    assert_eq!(harness.frame(LINK, request("10.0.0.5")).len(), 1);
    let own = arp::gratuitous_request(EthernetAddress([2, 0, 0, 0, 0, 2]), "10.0.0.5".parse().unwrap());
    assert_eq!(
        harness.responder.handle(harness.now, Input::Frame(LINK, own.as_bytes())),
        Err(DropReason::Own)
    );
    assert_eq!(harness.responder.poll_output(), None);
}

#[test]
fn an_address_is_answered_for_only_on_the_links_of_its_scope() {
    let mut harness = ResponderHarness::new(vec![link(LINK, "eth0"), link(3, "eth1")]);
    harness.announce("10.0.0.5", named("eth1"));
    assert_eq!(harness.frame(LINK, request("10.0.0.5")), []);
    assert_eq!(transmitted(&harness.frame(3, request("10.0.0.5"))), [(3, Purpose::Answer)]);
    harness.announce("10.0.0.5", named("eth0"));
    assert_eq!(transmitted(&harness.frame(LINK, request("10.0.0.5"))), [(LINK, Purpose::Answer)]);
    assert_eq!(harness.frame(3, request("10.0.0.5")), []);
}

#[test]
fn c6_a_new_link_and_a_carrier_that_came_back_are_announced_on_at_once() {
    let mut harness = ResponderHarness::new(vec![link(LINK, "eth0")]);
    harness.announce("10.0.0.5", Scope::All);
    let outputs = harness.feed(Input::Links(vec![link(LINK, "eth0"), link(3, "eth1")]));
    assert_eq!(transmitted(&outputs), [(3, Purpose::Gratuitous); 2]);
    let again = Link { carrier_ups: 1, ..link(LINK, "eth0") };
    let outputs = harness.feed(Input::Links(vec![again, link(3, "eth1")]));
    assert_eq!(transmitted(&outputs), [(LINK, Purpose::Gratuitous); 2]);
}

#[test]
fn c3_however_often_a_link_was_renewed_one_refresh_a_minute_remains() {
    let mut harness = ResponderHarness::new(vec![link(LINK, "eth0")]);
    for address in ["10.0.0.5", "fd00::5"] {
        harness.announce(address, Scope::All);
    }
    for carrier_ups in 1..=5 {
        harness.feed(Input::Links(vec![Link { link_local: None, carrier_ups, ..link(LINK, "eth0") }]));
        harness.pass(Duration::from_secs(1));
        harness.feed(Input::Links(vec![Link { carrier_ups, ..link(LINK, "eth0") }]));
        harness.pass(Duration::from_secs(7));
    }
    for address in ["10.0.0.5", "fd00::5", "10.0.0.6"] {
        harness.feed(Input::Reannounce(ip(address)));
    }
    harness.pass(Duration::from_secs(120));
    let refreshes = transmitted(&harness.pass(Duration::from_secs(600)));
    assert_eq!(refreshes, [(LINK, Purpose::Gratuitous); 20]);
}

#[test]
fn a_reannouncement_repeats_all_waves() {
    let mut harness = ResponderHarness::new(vec![link(LINK, "eth0")]);
    let mut first = harness.feed(Input::Announce(ip("10.0.0.5"), Scope::All));
    first.extend(harness.pass(Duration::from_secs(6)));
    let mut again = harness.feed(Input::Reannounce(ip("10.0.0.5")));
    again.extend(harness.pass(Duration::from_secs(6)));
    assert_eq!((first.len(), &first), (12, &again));
}

#[test]
fn b3_an_answer_ends_a_probe_and_another_hosts_probe_is_reported_and_does_not() {
    let mut harness = ResponderHarness::new(vec![link(LINK, "eth0")]);
    let address = "10.0.0.5".parse().unwrap();
    let observed = |probing| {
        Output::ProbeAnswered(Observation {
            address: ip("10.0.0.5"),
            mac: THEIRS,
            ours: OURS,
            link: LINK,
            probing,
        })
    };
    let probed = harness.feed(Input::Probe(ip("10.0.0.5"), Scope::All, ProbePlan::TAKEOVER));
    assert_eq!(transmitted(&probed), [(LINK, Purpose::Probe)]);
    assert_eq!(harness.frame(LINK, arp::probe(THEIRS, address)), [observed(true)]);
    assert_eq!(transmitted(&harness.pass(Duration::from_millis(30))), [(LINK, Purpose::Probe)], "it goes on");
    assert_eq!(harness.frame(LINK, arp::gratuitous_reply(THEIRS, address)), [observed(false)]);
    assert_eq!(harness.pass(Duration::from_secs(1)), [], "it is over");
}

#[test]
fn b5_a_probe_is_clear_after_two_requests_of_25_ms() {
    let mut harness = ResponderHarness::new(vec![link(LINK, "eth0")]);
    let begun = harness.now;
    harness.feed(Input::Probe(ip("10.0.0.5"), Scope::All, ProbePlan::TAKEOVER));
    let outputs = harness.pass(Duration::from_millis(50));
    assert_eq!(transmitted(&outputs), [(LINK, Purpose::Probe)]);
    assert_eq!(outputs.last(), Some(&Output::ProbeClear(ip("10.0.0.5"))));
    assert_eq!(harness.now - begun, ProbePlan::TAKEOVER.duration());
}

#[test]
fn the_result_of_an_earlier_probe_is_not_taken_for_that_of_the_next_one() {
    let mut harness = ResponderHarness::new(vec![link(LINK, "eth0")]);
    let addresses = [ip("10.0.0.5"), ip("10.0.0.6")];
    for address in addresses {
        harness.feed(Input::Probe(address, Scope::All, ProbePlan::TAKEOVER));
    }
    harness.pass(ProbePlan::TAKEOVER.duration() - Duration::from_millis(1));
    // After a stall the probes are restarted before their results are handled.
    harness.now += Duration::from_secs(5);
    for input in [
        Input::CancelProbe(addresses[0]),
        Input::CancelProbe(addresses[1]),
        Input::Probe(addresses[0], Scope::All, ProbePlan::TAKEOVER),
        Input::Probe(addresses[1], Scope::All, ProbePlan::TAKEOVER),
    ] {
        harness.responder.handle(harness.now, input).unwrap();
    }
    let outputs: Vec<Output> = std::iter::from_fn(|| harness.responder.poll_output()).collect();
    assert!(!outputs.iter().any(|output| matches!(output, Output::ProbeClear(_))), "{outputs:?}");
    let outputs = harness.pass(ProbePlan::TAKEOVER.duration());
    assert_eq!(outputs.iter().filter(|output| matches!(output, Output::ProbeClear(_))).count(), 2);
}

#[test]
fn b6_b7_a_claim_of_another_host_is_reported_and_defended_against_at_most_once_in_ten_seconds() {
    let mut harness = ResponderHarness::new(vec![link(LINK, "eth0")]);
    harness.announce("10.0.0.5", Scope::All);
    let foreign = arp::gratuitous_request(THEIRS, "10.0.0.5".parse().unwrap());
    let observation =
        Observation { address: ip("10.0.0.5"), mac: THEIRS, ours: OURS, link: LINK, probing: false };
    assert_eq!(harness.frame(LINK, foreign), [Output::Contested(observation)]);
    assert_eq!(transmitted(&harness.feed(Input::Defend(ip("10.0.0.5")))), [(LINK, Purpose::Defence)]);
    harness.pass(Duration::from_secs(9));
    assert_eq!(harness.feed(Input::Defend(ip("10.0.0.5"))), []);
    harness.pass(Duration::from_secs(2));
    assert_eq!(transmitted(&harness.feed(Input::Defend(ip("10.0.0.5")))), [(LINK, Purpose::Defence)]);
}

#[test]
fn d1_d2_solicited_node_groups_are_joined_once_for_addresses_that_share_them() {
    let mut harness = ResponderHarness::new(vec![link(LINK, "eth0")]);
    let group = v6("ff02::1:ff00:5");
    let joined = harness.feed(Input::Announce(ip("fd00::5"), Scope::All));
    assert_eq!(joined[0], Output::Join(LINK, group));
    let second = harness.feed(Input::Announce(ip("fd01::5"), Scope::All));
    assert!(!second.contains(&Output::Join(LINK, group)));
    assert_eq!(harness.feed(Input::Withdraw(ip("fd00::5"))), []);
    assert_eq!(harness.feed(Input::Withdraw(ip("fd01::5"))), [Output::Leave(LINK, group)]);
}

#[test]
fn d1_d11_the_group_is_joined_before_the_probe_and_kept_for_the_announcement() {
    let mut harness = ResponderHarness::new(vec![link(LINK, "eth0")]);
    let group = v6("ff02::1:ff00:5");
    let probed = harness.feed(Input::Probe(ip("fd00::5"), Scope::All, ProbePlan::FIRST_CLAIM));
    assert_eq!(probed[0], Output::Join(LINK, group));
    assert_eq!(transmitted(&probed), [(LINK, Purpose::Probe)]);
    harness.pass(Duration::from_millis(300));
    let outputs = harness.feed(Input::Announce(ip("fd00::5"), Scope::All));
    assert!(!outputs.iter().any(|output| matches!(output, Output::Join(..) | Output::Leave(..))));
}

#[test]
fn d3_d5_d7_solicitations_are_answered_by_unicast_also_without_an_option() {
    let mut harness = ResponderHarness::new(vec![link(LINK, "eth0")]);
    harness.announce("fd00::5", Scope::All);
    // A unicast reachability probe, to the address itself, with or without an option.
    let advertisement =
        ndp::solicited_advertisement(THEIRS, v6("fd00::9"), v6("fd00::5"), v6("fd00::5"), OURS);
    for option in [1, 200] {
        let mut frame = advertisement;
        let bytes = frame.as_mut();
        bytes[54] = 135;
        bytes[58] = 0;
        bytes[78] = option;
        let (source, destination) = (v6("fd00::9"), v6("fd00::5"));
        smoltcp::wire::Icmpv6Packet::new_unchecked(&mut bytes[54..]).fill_checksum(&source, &destination);
        let outputs = harness.frame(LINK, frame);
        let [Output::Transmit { frame, purpose: Purpose::Answer, .. }] = &outputs[..] else {
            panic!("{outputs:?}")
        };
        assert_eq!(frame.as_bytes()[..6], THEIRS.0);
        assert_eq!(frame.as_bytes()[38..54], source.octets());
        assert_eq!(frame.as_bytes()[58], 0x60);
    }
}

#[test]
fn d6_duplicate_address_detection_for_our_address_is_answered_to_all_nodes() {
    let mut harness = ResponderHarness::new(vec![link(LINK, "eth0")]);
    harness.announce("fd00::5", Scope::All);
    let outputs = harness.frame(LINK, ndp::probe(THEIRS, v6("fd00::5"), [9; 6]));
    let [Output::Transmit { frame, purpose: Purpose::Answer, .. }] = &outputs[..] else {
        panic!("{outputs:?}")
    };
    assert_eq!(frame.as_bytes()[..6], [0x33, 0x33, 0, 0, 0, 1]);
    assert_eq!(frame.as_bytes()[58], 0x20);
}

#[test]
fn d9_d10_a_claim_is_advertised_to_all_nodes_and_once_to_the_routers() {
    let mut harness = ResponderHarness::new(vec![link(LINK, "eth0")]);
    let mut outputs = harness.feed(Input::Announce(ip("fd00::5"), Scope::All));
    outputs.extend(harness.pass(Duration::from_secs(10)));
    let to = |last: u8| {
        let is_to = |output: &&Output| match output {
            Output::Transmit { frame, .. } => frame.as_bytes()[5] == last,
            _ => false,
        };
        outputs.iter().filter(is_to).count()
    };
    assert_eq!((to(1), to(2)), (6, 1));
}

#[test]
fn d11_our_own_probe_looped_back_is_no_conflict() {
    let mut harness = ResponderHarness::new(vec![link(LINK, "eth0")]);
    let outputs = harness.feed(Input::Probe(ip("fd00::5"), Scope::All, ProbePlan::FIRST_CLAIM));
    let frame = outputs.iter().find_map(|output| match output {
        Output::Transmit { frame, .. } => Some(*frame),
        _ => None,
    });
    let mut looped = frame.unwrap();
    // Through a repeater that changes the source address.
    looped.as_mut()[6..12].copy_from_slice(&THEIRS.0);
    assert_eq!(
        harness.responder.handle(harness.now, Input::Frame(LINK, looped.as_bytes())),
        Err(DropReason::Own)
    );
}

#[test]
fn d12_a_concurrent_detection_of_another_host_is_reported() {
    let mut harness = ResponderHarness::new(vec![link(LINK, "eth0")]);
    harness.feed(Input::Probe(ip("fd00::5"), Scope::All, ProbePlan::FIRST_CLAIM));
    let outputs = harness.frame(LINK, ndp::probe(THEIRS, v6("fd00::5"), [9; 6]));
    let observation =
        Observation { address: ip("fd00::5"), mac: THEIRS, ours: OURS, link: LINK, probing: true };
    assert_eq!(outputs, [Output::ProbeAnswered(observation)]);
}

#[test]
fn d14_without_a_link_local_address_nothing_is_announced_and_with_one_everything_at_once() {
    let without = Link { link_local: None, ..link(LINK, "eth0") };
    let mut harness = ResponderHarness::new(vec![without]);
    assert_eq!(harness.feed(Input::Announce(ip("fd00::5"), Scope::All)), []);
    let outputs = harness.feed(Input::Links(vec![link(LINK, "eth0")]));
    assert_eq!(outputs[0], Output::Join(LINK, v6("ff02::1:ff00:5")));
    assert_eq!(transmitted(&outputs), [(LINK, Purpose::Gratuitous); 2]);
}

fn outcome(outputs: &[Output]) -> Vec<Output> {
    let ends = |output: &&Output| matches!(output, Output::ProbeClear(_) | Output::ProbeFailed(_));
    outputs.iter().filter(ends).cloned().collect()
}

/// Lets time pass; links in `dead` take no frames. Returns how many requests were sent, and the result.
fn pass_without(harness: &mut ResponderHarness, dead: &[LinkIndex], time: Duration) -> (usize, Vec<Output>) {
    let end = harness.now + time;
    let (mut sent, mut ended) = (0, Vec::new());
    let mut outputs = harness.feed(Input::Deadline);
    loop {
        for output in &outputs {
            if let Output::Transmit { link, address, purpose: Purpose::Probe, .. } = output {
                if dead.contains(link) {
                    let _ =
                        harness.responder.handle(harness.now, Input::Unsent(*link, *address, Purpose::Probe));
                } else {
                    sent += 1;
                }
            }
        }
        ended.extend(outcome(&outputs));
        let Some(at) = harness.responder.next_deadline().filter(|at| *at <= end) else { break };
        harness.now = at.max(harness.now);
        outputs = harness.feed(Input::Deadline);
    }
    harness.now = end;
    (sent, ended)
}

#[test]
fn a_request_that_could_not_be_sent_does_not_count_as_unanswered() {
    let address = ip("10.0.0.5");
    let probed = |links: Vec<Link>| {
        let mut harness = ResponderHarness::new(links);
        let _ = harness.responder.handle(harness.now, Input::Probe(address, Scope::All, ProbePlan::TAKEOVER));
        harness
    };
    let second = Duration::from_secs(1);
    // No link at all, or none that takes the request.
    let mut harness = probed(Vec::new());
    assert_eq!(pass_without(&mut harness, &[], second), (0, vec![Output::ProbeFailed(address)]));
    let mut harness = probed(vec![link(LINK, "eth0")]);
    assert_eq!(pass_without(&mut harness, &[LINK], second), (0, vec![Output::ProbeFailed(address)]));
    // The send queue of the link was full for a moment: the number of requests stays the same.
    let mut harness = probed(vec![link(LINK, "eth0")]);
    assert_eq!(pass_without(&mut harness, &[LINK], Duration::from_millis(30)), (0, vec![]));
    assert_eq!(pass_without(&mut harness, &[], second), (2, vec![Output::ProbeClear(address)]));
    // One of two links takes nothing: finally the other one is sufficient.
    let mut harness = probed(vec![link(LINK, "eth0"), link(3, "eth1")]);
    let (sent, ended) = pass_without(&mut harness, &[3], second);
    assert!(sent >= 2 && ended == [Output::ProbeClear(address)], "{sent} {ended:?}");
}

#[test]
fn an_answer_takes_precedence_over_everything_else_to_be_sent() {
    let mut harness = ResponderHarness::new(vec![link(LINK, "eth0")]);
    harness.announce("10.0.0.5", Scope::All);
    for number in 0..100 {
        let address = IpAddr::V4([10, 0, 1, number].into());
        let _ = harness.responder.handle(harness.now, Input::Probe(address, Scope::All, ProbePlan::TAKEOVER));
    }
    let _ = harness.responder.handle(harness.now, Input::Frame(LINK, request("10.0.0.5").as_bytes()));
    let first = harness.responder.poll_output();
    assert!(matches!(first, Some(Output::Transmit { purpose: Purpose::Answer, .. })), "{first:?}");
}
