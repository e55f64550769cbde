use super::*;

const OURS: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 1]);
const THEIRS: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 9]);
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const ASKER: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x100);
const ADDRESS: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0x12, 0x3456);

fn solicitation(source: Ipv6Addr, destination: Ipv6Addr, option: (u8, [u8; 6])) -> Vec<u8> {
    let message = NeighborMessage { kind: SOLICITATION, flags: 0, target: ADDRESS };
    message.emit(THEIRS, source, destination, multicast_mac(destination), option).as_bytes().to_vec()
}

/// Changes a byte of the ICMPv6 message and corrects the checksum.
fn with_byte(frame: &[u8], at: usize, value: u8) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[at] = value;
    let source = Ipv6Addr::from(<[u8; 16]>::try_from(&frame[22..38]).unwrap());
    let destination = Ipv6Addr::from(<[u8; 16]>::try_from(&frame[38..54]).unwrap());
    Icmpv6Packet::new_unchecked(&mut frame[54..]).fill_checksum(&source, &destination);
    frame
}

#[test]
fn d4_packets_that_rfc_4861_forbids_are_dropped() {
    let group = solicited_node(ADDRESS);
    let good = solicitation(ASKER, group, (SOURCE_LINK_LAYER, THEIRS.0));
    assert!(Ndp::parse(&good).is_ok());

    let mut routed = good.clone();
    routed[21] = 254;
    assert_eq!(Ndp::parse(&routed), Err(DropReason::HopLimit));
    let mut corrupt = good.clone();
    corrupt[70] ^= 1;
    assert_eq!(Ndp::parse(&corrupt), Err(DropReason::Checksum));
    assert_eq!(Ndp::parse(&with_byte(&good, 55, 1)), Err(DropReason::Malformed), "code");
    assert_eq!(Ndp::parse(&with_byte(&good, 62, 0xff)), Err(DropReason::Malformed), "multicast target");
    assert_eq!(Ndp::parse(&with_byte(&good, 79, 0)), Err(DropReason::Malformed), "option of no length");
    assert_eq!(Ndp::parse(&with_byte(&good, 79, 2)), Err(DropReason::Malformed), "option beyond the end");
    for len in 0..good.len() {
        assert!(Ndp::parse(&good[..len]).is_err(), "{len} bytes");
    }

    let unspecified = Ipv6Addr::UNSPECIFIED;
    let detection = solicitation(unspecified, group, (NONCE, [7; 6]));
    assert!(Ndp::parse(&detection).is_ok());
    let with_source = solicitation(unspecified, group, (SOURCE_LINK_LAYER, THEIRS.0));
    assert_eq!(Ndp::parse(&with_source), Err(DropReason::Malformed));
    let elsewhere = solicitation(unspecified, ALL_NODES, (NONCE, [7; 6]));
    assert_eq!(Ndp::parse(&elsewhere), Err(DropReason::Malformed));
}

#[test]
fn d5_a_solicitation_is_parsed_with_and_without_its_option() {
    let with = solicitation(ASKER, ADDRESS, (SOURCE_LINK_LAYER, [2, 0, 0, 0, 0, 8]));
    let Ndp::Solicitation { frame_source, source_mac, .. } = Ndp::parse(&with).unwrap() else { panic!() };
    assert_eq!((frame_source, source_mac), (THEIRS, Some(EthernetAddress([2, 0, 0, 0, 0, 8]))));
    let without = solicitation(ASKER, ADDRESS, (200, [0; 6]));
    let Ndp::Solicitation { frame_source, source_mac, .. } = Ndp::parse(&without).unwrap() else { panic!() };
    assert_eq!((frame_source, source_mac), (THEIRS, None));
}

#[test]
fn d6_d7_d9_d10_advertisements_have_their_flags_destinations_and_the_target_option() {
    let frames = [
        (
            solicited_advertisement(OURS, LINK_LOCAL, ADDRESS, ASKER, THEIRS),
            SOLICITED | OVERRIDE,
            ASKER,
            THEIRS,
        ),
        (
            unsolicited_advertisement(OURS, LINK_LOCAL, ADDRESS),
            OVERRIDE,
            ALL_NODES,
            EthernetAddress([0x33, 0x33, 0, 0, 0, 1]),
        ),
        (
            neighbor_advertisement_to_routers(OURS, LINK_LOCAL, ADDRESS),
            0,
            ALL_ROUTERS,
            EthernetAddress([0x33, 0x33, 0, 0, 0, 2]),
        ),
    ];
    for (frame, flags, destination, mac) in frames {
        let bytes = frame.as_bytes();
        assert_eq!(bytes[58], flags);
        assert_eq!(bytes[21], 255);
        assert_eq!(bytes[38..54], destination.octets());
        assert_eq!(bytes[..6], mac.0);
        assert_eq!(bytes[78..80], [TARGET_LINK_LAYER, 1]);
        let read = Ndp::parse(bytes).unwrap();
        let expected = Ndp::Advertisement { frame_source: OURS, target: ADDRESS, target_mac: Some(OURS) };
        assert_eq!(read, expected);
    }
}

#[test]
fn d11_a_probe_is_duplicate_address_detection_with_a_nonce() {
    let frame = probe(OURS, ADDRESS, [1, 2, 3, 4, 5, 6]);
    assert_eq!(frame.as_bytes()[..6], [0x33, 0x33, 0xff, 0x12, 0x34, 0x56]);
    let expected = Ndp::Solicitation {
        frame_source: OURS,
        source: Ipv6Addr::UNSPECIFIED,
        target: ADDRESS,
        source_mac: None,
        nonce: Some([1, 2, 3, 4, 5, 6]),
    };
    assert_eq!(Ndp::parse(frame.as_bytes()).unwrap(), expected);
}

#[test]
fn solicited_node_groups_hold_the_last_three_bytes() {
    assert_eq!(solicited_node(ADDRESS), "ff02::1:ff12:3456".parse::<Ipv6Addr>().unwrap());
}
