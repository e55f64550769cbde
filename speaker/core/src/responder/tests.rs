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

struct Bench {
    responder: Responder,
    now: Instant,
}

impl Bench {
    fn new(links: Vec<Link>) -> Self {
        let mut bench = Self { responder: Responder::new(7), now: Instant::now() };
        bench.feed(Input::Links(links));
        bench
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
    let asked = Arp {
        request: true,
        destination: EthernetAddress::BROADCAST,
        sender_mac: THEIRS,
        sender: "10.0.0.100".parse().unwrap(),
        target: target.parse().unwrap(),
    };
    let mut frame = arp::reply(THEIRS, &Arp { target: asked.sender, sender: asked.target, ..asked });
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
    let mut bench = Bench::new(vec![link(LINK, "eth0")]);
    bench.announce("10.0.0.5", Scope::All);
    assert_eq!(transmitted(&bench.frame(LINK, request("10.0.0.5"))), [(LINK, Purpose::Answer)]);
    assert_eq!(bench.frame(LINK, request("10.0.0.6")), []);
    let mut unicast = request("10.0.0.5");
    unicast.as_mut()[..6].copy_from_slice(&OURS.0);
    assert_eq!(transmitted(&bench.frame(LINK, unicast)), [(LINK, Purpose::Answer)]);
    let mut for_another = request("10.0.0.5");
    for_another.as_mut()[..6].copy_from_slice(&[2, 0, 0, 0, 0, 77]);
    assert_eq!(bench.frame(LINK, for_another), []);
    bench.feed(Input::Withdraw(ip("10.0.0.5")));
    assert_eq!(bench.frame(LINK, request("10.0.0.5")), []);
}

#[test]
fn a3_a_probe_for_an_announced_address_is_answered() {
    let mut bench = Bench::new(vec![link(LINK, "eth0")]);
    bench.announce("10.0.0.5", Scope::All);
    let probe = arp::probe(THEIRS, "10.0.0.5".parse().unwrap());
    assert_eq!(transmitted(&bench.frame(LINK, probe)), [(LINK, Purpose::Answer)]);
}

#[test]
fn a7_one_question_gets_one_answer_and_our_own_frames_get_none() {
    let mut bench = Bench::new(vec![link(LINK, "eth0"), link(3, "eth1")]);
    bench.announce("10.0.0.5", Scope::All);
    assert_eq!(bench.frame(LINK, request("10.0.0.5")).len(), 1);
    let own = arp::gratuitous_request(EthernetAddress([2, 0, 0, 0, 0, 2]), "10.0.0.5".parse().unwrap());
    assert_eq!(bench.responder.handle(bench.now, Input::Frame(LINK, own.as_bytes())), Err(Dropped::Own));
    assert_eq!(bench.responder.poll_output(), None);
}

#[test]
fn an_address_is_answered_for_only_on_the_links_of_its_scope() {
    let mut bench = Bench::new(vec![link(LINK, "eth0"), link(3, "eth1")]);
    bench.announce("10.0.0.5", named("eth1"));
    assert_eq!(bench.frame(LINK, request("10.0.0.5")), []);
    assert_eq!(transmitted(&bench.frame(3, request("10.0.0.5"))), [(3, Purpose::Answer)]);
    bench.announce("10.0.0.5", named("eth0"));
    assert_eq!(transmitted(&bench.frame(LINK, request("10.0.0.5"))), [(LINK, Purpose::Answer)]);
    assert_eq!(bench.frame(3, request("10.0.0.5")), []);
}

#[test]
fn c6_a_new_link_and_a_carrier_that_came_back_are_announced_on_at_once() {
    let mut bench = Bench::new(vec![link(LINK, "eth0")]);
    bench.announce("10.0.0.5", Scope::All);
    let outputs = bench.feed(Input::Links(vec![link(LINK, "eth0"), link(3, "eth1")]));
    assert_eq!(transmitted(&outputs), [(3, Purpose::Gratuitous); 2]);
    let again = Link { carrier_ups: 1, ..link(LINK, "eth0") };
    let outputs = bench.feed(Input::Links(vec![again, link(3, "eth1")]));
    assert_eq!(transmitted(&outputs), [(LINK, Purpose::Gratuitous); 2]);
}

#[test]
fn c3_however_often_a_link_was_renewed_one_refresh_a_minute_remains() {
    let mut bench = Bench::new(vec![link(LINK, "eth0")]);
    for address in ["10.0.0.5", "fd00::5"] {
        bench.announce(address, Scope::All);
    }
    for carrier_ups in 1..=5 {
        bench.feed(Input::Links(vec![Link { link_local: None, carrier_ups, ..link(LINK, "eth0") }]));
        bench.pass(Duration::from_secs(1));
        bench.feed(Input::Links(vec![Link { carrier_ups, ..link(LINK, "eth0") }]));
        bench.pass(Duration::from_secs(7));
    }
    for address in ["10.0.0.5", "fd00::5", "10.0.0.6"] {
        bench.feed(Input::Remind(ip(address)));
    }
    bench.pass(Duration::from_secs(120));
    let refreshes = transmitted(&bench.pass(Duration::from_secs(600)));
    assert_eq!(refreshes, [(LINK, Purpose::Gratuitous); 20]);
}

#[test]
fn a_reminder_is_all_waves_once_more() {
    let mut bench = Bench::new(vec![link(LINK, "eth0")]);
    let mut first = bench.feed(Input::Announce(ip("10.0.0.5"), Scope::All));
    first.extend(bench.pass(Duration::from_secs(6)));
    let mut again = bench.feed(Input::Remind(ip("10.0.0.5")));
    again.extend(bench.pass(Duration::from_secs(6)));
    assert_eq!((first.len(), &first), (12, &again));
}

#[test]
fn b3_an_answer_ends_a_probe_and_somebody_elses_probe_is_told_and_does_not() {
    let mut bench = Bench::new(vec![link(LINK, "eth0")]);
    let address = "10.0.0.5".parse().unwrap();
    let told = |probing| {
        Output::Answered(Sighting { address: ip("10.0.0.5"), mac: THEIRS, ours: OURS, link: LINK, probing })
    };
    let asked = bench.feed(Input::Probe(ip("10.0.0.5"), Scope::All, Plan::TAKEOVER));
    assert_eq!(transmitted(&asked), [(LINK, Purpose::Probe)]);
    assert_eq!(bench.frame(LINK, arp::probe(THEIRS, address)), [told(true)]);
    assert_eq!(transmitted(&bench.pass(Duration::from_millis(30))), [(LINK, Purpose::Probe)], "it goes on");
    assert_eq!(bench.frame(LINK, arp::gratuitous_reply(THEIRS, address)), [told(false)]);
    assert_eq!(bench.pass(Duration::from_secs(1)), [], "it is over");
}

#[test]
fn b5_a_silent_wire_is_known_after_two_questions_of_25_ms() {
    let mut bench = Bench::new(vec![link(LINK, "eth0")]);
    let begun = bench.now;
    bench.feed(Input::Probe(ip("10.0.0.5"), Scope::All, Plan::TAKEOVER));
    let outputs = bench.pass(Duration::from_millis(50));
    assert_eq!(transmitted(&outputs), [(LINK, Purpose::Probe)]);
    assert_eq!(outputs.last(), Some(&Output::Unanswered(ip("10.0.0.5"))));
    assert_eq!(bench.now - begun, Plan::TAKEOVER.duration());
}

#[test]
fn a_question_that_is_asked_anew_is_not_answered_by_what_was_found_out_before() {
    let mut bench = Bench::new(vec![link(LINK, "eth0")]);
    let addresses = [ip("10.0.0.5"), ip("10.0.0.6")];
    for address in addresses {
        bench.feed(Input::Probe(address, Scope::All, Plan::TAKEOVER));
    }
    bench.pass(Plan::TAKEOVER.duration() - Duration::from_millis(1));
    // Stopped for a while; what is asked is void, and is asked anew before anything else is looked at.
    bench.now += Duration::from_secs(5);
    for input in [
        Input::CancelProbe(addresses[0]),
        Input::CancelProbe(addresses[1]),
        Input::Probe(addresses[0], Scope::All, Plan::TAKEOVER),
        Input::Probe(addresses[1], Scope::All, Plan::TAKEOVER),
    ] {
        bench.responder.handle(bench.now, input).unwrap();
    }
    let outputs: Vec<Output> = std::iter::from_fn(|| bench.responder.poll_output()).collect();
    assert!(!outputs.iter().any(|output| matches!(output, Output::Unanswered(_))), "{outputs:?}");
    let silent = bench.pass(Plan::TAKEOVER.duration());
    assert_eq!(silent.iter().filter(|output| matches!(output, Output::Unanswered(_))).count(), 2);
}

#[test]
fn b6_b7_a_foreign_claim_is_told_and_defended_at_most_once_in_ten_seconds() {
    let mut bench = Bench::new(vec![link(LINK, "eth0")]);
    bench.announce("10.0.0.5", Scope::All);
    let foreign = arp::gratuitous_request(THEIRS, "10.0.0.5".parse().unwrap());
    let sighting = Sighting { address: ip("10.0.0.5"), mac: THEIRS, ours: OURS, link: LINK, probing: false };
    assert_eq!(bench.frame(LINK, foreign), [Output::Contested(sighting)]);
    assert_eq!(transmitted(&bench.feed(Input::Defend(ip("10.0.0.5")))), [(LINK, Purpose::Defence)]);
    bench.pass(Duration::from_secs(9));
    assert_eq!(bench.feed(Input::Defend(ip("10.0.0.5"))), []);
    bench.pass(Duration::from_secs(2));
    assert_eq!(transmitted(&bench.feed(Input::Defend(ip("10.0.0.5")))), [(LINK, Purpose::Defence)]);
}

#[test]
fn d1_d2_solicited_node_groups_are_joined_once_for_addresses_that_share_them() {
    let mut bench = Bench::new(vec![link(LINK, "eth0")]);
    let group = v6("ff02::1:ff00:5");
    let joined = bench.feed(Input::Announce(ip("fd00::5"), Scope::All));
    assert_eq!(joined[0], Output::Join(LINK, group));
    let second = bench.feed(Input::Announce(ip("fd01::5"), Scope::All));
    assert!(!second.contains(&Output::Join(LINK, group)));
    assert_eq!(bench.feed(Input::Withdraw(ip("fd00::5"))), []);
    assert_eq!(bench.feed(Input::Withdraw(ip("fd01::5"))), [Output::Leave(LINK, group)]);
}

#[test]
fn d1_d11_the_group_is_joined_before_the_probe_and_kept_for_the_announcement() {
    let mut bench = Bench::new(vec![link(LINK, "eth0")]);
    let group = v6("ff02::1:ff00:5");
    let probed = bench.feed(Input::Probe(ip("fd00::5"), Scope::All, Plan::FIRST_CLAIM));
    assert_eq!(probed[0], Output::Join(LINK, group));
    assert_eq!(transmitted(&probed), [(LINK, Purpose::Probe)]);
    bench.pass(Duration::from_millis(300));
    let outputs = bench.feed(Input::Announce(ip("fd00::5"), Scope::All));
    assert!(!outputs.iter().any(|output| matches!(output, Output::Join(..) | Output::Leave(..))));
}

#[test]
fn d3_d5_d7_solicitations_are_answered_by_unicast_also_without_an_option() {
    let mut bench = Bench::new(vec![link(LINK, "eth0")]);
    bench.announce("fd00::5", Scope::All);
    // A unicast reachability probe: to the address itself, option or not.
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
        let outputs = bench.frame(LINK, frame);
        let [Output::Transmit { frame, purpose: Purpose::Answer, .. }] = &outputs[..] else {
            panic!("{outputs:?}")
        };
        assert_eq!(frame.as_bytes()[..6], THEIRS.0);
        assert_eq!(frame.as_bytes()[38..54], source.octets());
        assert_eq!(frame.as_bytes()[58], 0x60);
    }
}

#[test]
fn d6_duplicate_address_detection_for_our_address_is_answered_to_everybody() {
    let mut bench = Bench::new(vec![link(LINK, "eth0")]);
    bench.announce("fd00::5", Scope::All);
    let outputs = bench.frame(LINK, ndp::probe(THEIRS, v6("fd00::5"), [9; 6]));
    let [Output::Transmit { frame, purpose: Purpose::Answer, .. }] = &outputs[..] else {
        panic!("{outputs:?}")
    };
    assert_eq!(frame.as_bytes()[..6], [0x33, 0x33, 0, 0, 0, 1]);
    assert_eq!(frame.as_bytes()[58], 0x20);
}

#[test]
fn d9_d10_a_claim_is_advertised_to_all_nodes_and_once_to_the_routers() {
    let mut bench = Bench::new(vec![link(LINK, "eth0")]);
    let mut outputs = bench.feed(Input::Announce(ip("fd00::5"), Scope::All));
    outputs.extend(bench.pass(Duration::from_secs(10)));
    let to = |last: u8| {
        let is_to = |output: &&Output| matches!(output, Output::Transmit { frame, .. } if frame.as_bytes()[5] == last);
        outputs.iter().filter(is_to).count()
    };
    assert_eq!((to(1), to(2)), (6, 1));
}

#[test]
fn d11_our_own_probe_looped_back_is_no_conflict() {
    let mut bench = Bench::new(vec![link(LINK, "eth0")]);
    let outputs = bench.feed(Input::Probe(ip("fd00::5"), Scope::All, Plan::FIRST_CLAIM));
    let frame = outputs.iter().find_map(|output| match output {
        Output::Transmit { frame, .. } => Some(*frame),
        _ => None,
    });
    let mut looped = frame.unwrap();
    // Through a repeater that puts its own address there.
    looped.as_mut()[6..12].copy_from_slice(&THEIRS.0);
    assert_eq!(bench.responder.handle(bench.now, Input::Frame(LINK, looped.as_bytes())), Err(Dropped::Own));
}

#[test]
fn d12_somebody_elses_detection_at_the_same_time_is_told() {
    let mut bench = Bench::new(vec![link(LINK, "eth0")]);
    bench.feed(Input::Probe(ip("fd00::5"), Scope::All, Plan::FIRST_CLAIM));
    let outputs = bench.frame(LINK, ndp::probe(THEIRS, v6("fd00::5"), [9; 6]));
    let sighting = Sighting { address: ip("fd00::5"), mac: THEIRS, ours: OURS, link: LINK, probing: true };
    assert_eq!(outputs, [Output::Answered(sighting)]);
}

#[test]
fn d14_without_a_link_local_address_nothing_is_said_and_with_one_everything_at_once() {
    let without = Link { link_local: None, ..link(LINK, "eth0") };
    let mut bench = Bench::new(vec![without]);
    assert_eq!(bench.feed(Input::Announce(ip("fd00::5"), Scope::All)), []);
    let outputs = bench.feed(Input::Links(vec![link(LINK, "eth0")]));
    assert_eq!(outputs[0], Output::Join(LINK, v6("ff02::1:ff00:5")));
    assert_eq!(transmitted(&outputs), [(LINK, Purpose::Gratuitous); 2]);
}

fn outcome(outputs: &[Output]) -> Vec<Output> {
    let ends = |output: &&Output| matches!(output, Output::Unanswered(_) | Output::Unasked(_));
    outputs.iter().filter(ends).cloned().collect()
}

/// Lets time pass; links whose numbers are in `dead` take nothing. How many questions were sent, and how it ended.
fn pass_without(bench: &mut Bench, dead: &[LinkIndex], time: Duration) -> (usize, Vec<Output>) {
    let end = bench.now + time;
    let (mut sent, mut ended) = (0, Vec::new());
    let mut outputs = bench.feed(Input::Deadline);
    loop {
        for output in &outputs {
            if let Output::Transmit { link, address, purpose: Purpose::Probe, .. } = output {
                if dead.contains(link) {
                    let _ = bench.responder.handle(bench.now, Input::Unsent(*link, *address, Purpose::Probe));
                } else {
                    sent += 1;
                }
            }
        }
        ended.extend(outcome(&outputs));
        let Some(at) = bench.responder.next_deadline().filter(|at| *at <= end) else { break };
        bench.now = at.max(bench.now);
        outputs = bench.feed(Input::Deadline);
    }
    bench.now = end;
    (sent, ended)
}

#[test]
fn a_question_that_could_not_be_sent_does_not_count_as_unanswered() {
    let address = ip("10.0.0.5");
    let probed = |links: Vec<Link>| {
        let mut bench = Bench::new(links);
        let _ = bench.responder.handle(bench.now, Input::Probe(address, Scope::All, Plan::TAKEOVER));
        bench
    };
    let second = Duration::from_secs(1);
    // No link at all, or none that takes it.
    let mut bench = probed(Vec::new());
    assert_eq!(pass_without(&mut bench, &[], second), (0, vec![Output::Unasked(address)]));
    let mut bench = probed(vec![link(LINK, "eth0")]);
    assert_eq!(pass_without(&mut bench, &[LINK], second), (0, vec![Output::Unasked(address)]));
    // The queue of the link was full for a moment: as many questions are sent as ever.
    let mut bench = probed(vec![link(LINK, "eth0")]);
    assert_eq!(pass_without(&mut bench, &[LINK], Duration::from_millis(30)), (0, vec![]));
    assert_eq!(pass_without(&mut bench, &[], second), (2, vec![Output::Unanswered(address)]));
    // One of two links takes nothing: the other one has to do, in the end.
    let mut bench = probed(vec![link(LINK, "eth0"), link(3, "eth1")]);
    let (sent, ended) = pass_without(&mut bench, &[3], second);
    assert!(sent >= 2 && ended == [Output::Unanswered(address)], "{sent} {ended:?}");
}

#[test]
fn an_answer_goes_before_everything_else_that_is_to_be_sent() {
    let mut bench = Bench::new(vec![link(LINK, "eth0")]);
    bench.announce("10.0.0.5", Scope::All);
    for number in 0..100 {
        let address = IpAddr::V4([10, 0, 1, number].into());
        let _ = bench.responder.handle(bench.now, Input::Probe(address, Scope::All, Plan::TAKEOVER));
    }
    let _ = bench.responder.handle(bench.now, Input::Frame(LINK, request("10.0.0.5").as_bytes()));
    let first = bench.responder.poll_output();
    assert!(matches!(first, Some(Output::Transmit { purpose: Purpose::Answer, .. })), "{first:?}");
}
