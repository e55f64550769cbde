use super::*;

fn accepted(text: &str) -> String {
    match parse_addresses(text) {
        Ok(Some(range)) => format!("{range} {}", range.family()),
        Ok(None) => "empty".to_owned(),
        Err(error) => panic!("{text:?} was rejected: {error}"),
    }
}

#[test]
fn prefixes_and_ranges_are_parsed_as_metallb_parses_them() {
    for (text, expected) in [
        ("192.168.10.0/24", "192.168.10.0-192.168.10.255 IPv4"),
        ("10.0.0.5/32", "10.0.0.5 IPv4"),
        ("fc00:f853:ccd:e799::/124", "fc00:f853:ccd:e799::-fc00:f853:ccd:e799::f IPv6"),
        ("192.168.1.10/24", "192.168.1.0-192.168.1.255 IPv4"),
        ("192.168.9.1-192.168.9.5", "192.168.9.1-192.168.9.5 IPv4"),
        (" 1.1.1.1 - 1.1.1.3 ", "1.1.1.1-1.1.1.3 IPv4"),
        ("1.2.3.4-fc00::1", "empty"),
        ("::1-1.2.3.4", "empty"),
        ("::ffff:1.2.3.0/120", "1.2.3.0-1.2.3.255 IPv4"),
        ("::ffff:1.2.3.0/64", "::-::ffff:ffff:ffff:ffff IPv6"),
        ("::ffff:1.2.3.4-1.2.3.6", "1.2.3.4-1.2.3.6 IPv4"),
        ("0.0.0.0/0", "0.0.0.0-255.255.255.255 IPv4"),
        ("::/0", "::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff IPv6"),
        ("127.0.0.0/8", "127.0.0.0-127.255.255.255 IPv4"),
        ("224.0.0.0/4", "224.0.0.0-239.255.255.255 IPv4"),
        ("10.0.0.0/024", "10.0.0.0-10.0.0.255 IPv4"),
    ] {
        assert_eq!(accepted(text), expected, "{text:?}");
    }
}

#[test]
fn everything_else_is_rejected_with_a_hint() {
    for text in [
        "10.0.0.5",
        " 10.0.0.0/24",
        "10.0.0.0/24 ",
        "10.0.0.9-10.0.0.1",
        "fc00::1-1.2.3.4",
        "1.1.1.1-2.2.2.2-3.3.3.3",
        "-",
        "",
        "fe80::1%eth0/64",
        "010.0.0.0/8",
        "10.0.0.256/32",
        "10.0.0.0/33",
        "fc00::/129",
        "10.0.0.0/255.0.0.0",
        "10.0.0.0/+8",
        "10.0.0.0/",
        "10.0.0.0/24-10.0.1.0/24",
        "lan",
    ] {
        let error = parse_addresses(text).expect_err(text);
        assert!(!error.to_string().is_empty() && !error.hint().is_empty(), "{text:?}");
    }
    assert_eq!(parse_addresses("10.0.0.5").unwrap_err().hint(), "write 10.0.0.5/32 for this one address");
    assert_eq!(parse_addresses(" 10.0.0.0/24").unwrap_err().hint(), "write it without spaces: 10.0.0.0/24");
}

#[test]
fn counts_saturate_and_ends_are_included() {
    let range = |text| parse_addresses(text).unwrap().unwrap();
    assert_eq!(range("10.0.0.0/8").count(), 1 << 24);
    assert_eq!(range("::/0").count(), u128::MAX);
    assert!(range("::/0").contains("ffff::1".parse().unwrap()));
    assert!(!range("::/0").contains("10.0.0.1".parse().unwrap()));
    assert!(range("10.0.0.1-10.0.0.1").contains("10.0.0.1".parse().unwrap()));
}

#[test]
fn the_shortest_prefix_of_a_range_is_that_of_its_largest_block() {
    let shortest = |text| parse_addresses(text).unwrap().unwrap().shortest_prefix();
    assert_eq!(shortest("10.0.0.0/24"), 24);
    assert_eq!(shortest("10.0.0.1-10.0.0.255"), 25);
    assert_eq!(shortest("10.0.0.5-10.0.0.5"), 32);
    assert_eq!(shortest("0.0.0.0/0"), 0);
    assert_eq!(shortest("::/0"), 0);
    assert_eq!(shortest("::1-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), 1);
    assert_eq!(shortest("192.168.0.230-192.168.1.250"), 25);
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "(?s).{0,60}", shape in "[0-9a-f.:/ -]{0,60}") {
        for text in [text, shape] {
            if let Ok(Some(range)) = parse_addresses(&text) {
                proptest::prop_assert!(range.contains(range.first()) && range.contains(range.last()));
                proptest::prop_assert!(range.shortest_prefix() <= 128 && range.count() >= 1);
            }
        }
    }
}
