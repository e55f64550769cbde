use super::*;

const OURS: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 1]);
const THEIRS: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 9]);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 33, 30);
const ASKER: Ipv4Addr = Ipv4Addr::new(192, 168, 33, 100);

fn request(sender: Ipv4Addr) -> Vec<u8> {
    emit(ArpOperation::Request, THEIRS, sender, NO_MAC, ADDRESS, EthernetAddress::BROADCAST)
        .as_bytes()
        .to_vec()
}

#[test]
fn a1_other_hardware_protocol_lengths_and_operations_are_dropped() {
    let good = request(ASKER);
    assert!(Arp::parse(&good).is_ok());
    for (at, value, reason) in [
        (15, 32, DropReason::NotEthernetIpv4),
        (16, 0x86, DropReason::NotEthernetIpv4),
        (21, 3, DropReason::Operation),
        (22, 0xff, DropReason::SenderMac),
        (13, 0, DropReason::EtherType),
    ] {
        let mut bad = good.clone();
        bad[at] = value;
        assert_eq!(Arp::parse(&bad), Err(reason), "byte {at}");
    }
    for (at, value) in [(18, 8), (19, 16)] {
        let mut bad = good.clone();
        bad[at] = value;
        assert!(Arp::parse(&bad).is_err(), "byte {at}");
    }
    for len in 0..14 + 28 {
        assert_eq!(Arp::parse(&good[..len]), Err(DropReason::Truncated), "{len} bytes");
    }
}

#[test]
fn a2_the_reply_is_sent_only_to_the_requester() {
    let received = Arp::parse(&request(ASKER)).unwrap();
    let answer = reply(OURS, &received);
    let read = Arp::parse(answer.as_bytes()).unwrap();
    assert!(!read.request);
    assert_eq!((read.destination, read.sender_mac), (THEIRS, OURS));
    assert_eq!((read.sender, read.target), (ADDRESS, ASKER));
}

#[test]
fn a3_a_probe_is_answered_like_any_request() {
    let received = Arp::parse(&request(Ipv4Addr::UNSPECIFIED)).unwrap();
    assert!(received.is_probe());
    let read = Arp::parse(reply(OURS, &received).as_bytes()).unwrap();
    assert_eq!((read.destination, read.sender, read.target), (THEIRS, ADDRESS, Ipv4Addr::UNSPECIFIED));
}

#[test]
fn a4_a5_the_source_is_the_sender_and_frames_are_padded_with_zeros() {
    let received = Arp::parse(&request(ASKER)).unwrap();
    let frames = [
        reply(OURS, &received),
        gratuitous_request(OURS, ADDRESS),
        gratuitous_reply(OURS, ADDRESS),
        probe(OURS, ADDRESS),
    ];
    for frame in frames {
        let bytes = frame.as_bytes();
        assert_eq!(bytes.len(), 60);
        assert_eq!(bytes[6..12], bytes[22..28]);
        assert!(bytes[42..].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn b2_b4_c1_probes_and_both_gratuitous_forms_have_the_fields_of_rfc_5227() {
    let probe = Arp::parse(probe(OURS, ADDRESS).as_bytes()).unwrap();
    assert!(probe.is_probe() && probe.destination.is_broadcast() && probe.target == ADDRESS);
    let request = gratuitous_request(OURS, ADDRESS);
    assert_eq!(request.as_bytes()[32..38], [0; 6]);
    let request = Arp::parse(request.as_bytes()).unwrap();
    assert!(request.request && request.destination.is_broadcast());
    assert_eq!((request.sender, request.target), (ADDRESS, ADDRESS));
    let reply = Arp::parse(gratuitous_reply(OURS, ADDRESS).as_bytes()).unwrap();
    assert!(!reply.request && reply.destination.is_broadcast());
    assert_eq!((reply.sender, reply.target), (ADDRESS, ADDRESS));
}
