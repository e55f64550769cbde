use super::*;

fn ring(secret: &[u8]) -> Keyring {
    Keyring::new([Key::from_secret(secret)])
}

fn message(body: Body) -> Message {
    let flags = Flags { leaving: true, stalled: false, wanted: true };
    Message { sender: NodeId::from_name("node1"), session: 7, echo: 8, sequence: 9, flags, body }
}

fn claim(group: &str, epoch: u64) -> Claim {
    Claim { group: group.parse().unwrap(), epoch }
}

fn bodies() -> Vec<Body> {
    let claims = vec![claim("10.0.0.1", 3), claim("fd00::1", u64::MAX)];
    vec![
        Body::Hello { macs: vec![[1; 6], [2; 6]], keys: vec![KeyId([1, 2, 3, 4])] },
        Body::Alive { digest: 99 },
        Body::Update(vec![(claims[0], true), (claims[1], false)]),
        Body::Request,
        Body::Claims { digest: 5, part: 1, parts: 2, claims: claims.clone() },
        Body::Intent(claims.clone()),
        Body::Nack(claims.clone()),
        Body::Leave(claims),
        Body::Unknown,
    ]
}

#[test]
fn messages_are_decoded_as_they_were_encoded() {
    let key = Key::from_secret(b"secret");
    for body in bodies() {
        let message = message(body);
        assert_eq!(Message::open(&message.seal(&key), &ring(b"secret")), Ok(message));
    }
}

#[test]
fn an_alive_takes_at_most_128_bytes_and_no_message_more_than_1200() {
    let key = Key::from_secret(b"secret");
    assert!(message(Body::Alive { digest: 1 }).seal(&key).len() <= 128);
    let claims = vec![claim("fd00::1", 1); ENTRIES];
    let longest = Body::Update(claims.iter().map(|claim| (*claim, true)).collect());
    assert!(message(longest).seal(&key).len() <= LONGEST);
    let claims = Body::Claims { digest: 1, part: 0, parts: 1, claims };
    assert!(message(claims).seal(&key).len() <= LONGEST);
}

#[test]
fn every_changed_byte_and_every_other_key_is_rejected() {
    let sealed = message(Body::Alive { digest: 1 }).seal(&Key::from_secret(b"secret"));
    for at in 0..sealed.len() {
        let mut bad = sealed.clone();
        bad[at] ^= 0x40;
        assert!(Message::open(&bad, &ring(b"secret")).is_err(), "byte {at}");
    }
    assert_eq!(Message::open(&sealed, &ring(b"other")), Err(Rejected::UnknownKey));
    for len in 0..sealed.len() {
        assert!(Message::open(&sealed[..len], &ring(b"secret")).is_err(), "{len} bytes");
    }
}

/// A message of a later release with more content, signed again.
fn later(body: Body, version: u8, readable_by: u8, more: &[u8]) -> Vec<u8> {
    let key = Key::from_secret(b"secret");
    let mut bytes = message(body).seal(&key);
    bytes.truncate(bytes.len() - TAG);
    bytes[0] = version;
    bytes[1] = readable_by;
    bytes.extend(more);
    let tag = key.sign(&bytes);
    bytes.extend(&tag.as_ref()[..TAG]);
    bytes
}

#[test]
fn a_message_of_the_next_release_is_accepted_if_it_is_readable_by_this_version() {
    let known = Body::Alive { digest: 4 };
    let opened = Message::open(&later(known.clone(), 2, 1, b"more"), &ring(b"secret"));
    assert_eq!(opened.unwrap().body, known);
    let opened = Message::open(&later(known, 3, 2, b""), &ring(b"secret"));
    assert_eq!(opened, Err(Rejected::Version));
    let mut unknown_kind = later(Body::Unknown, 2, 1, b"more");
    unknown_kind[2] = 0;
    assert_eq!(Message::open(&unknown_kind, &ring(b"secret")).unwrap().body, Body::Unknown);
}

#[test]
fn a_new_key_is_used_only_for_peers_that_have_it() {
    let (old, new) = (Key::from_secret(b"old"), Key::from_secret(b"new"));
    let both = Keyring::new([new.clone(), old.clone()]);
    assert_eq!(both.for_peer(&[old.id()]), std::slice::from_ref(&old));
    assert_eq!(both.for_peer(&[old.id(), new.id()]), std::slice::from_ref(&new));
    assert_eq!(both.for_peer(&[]), [new, old]);
}

#[test]
fn digests_differ_by_group_and_epoch_and_can_be_kept_up_to_date() {
    let (a, b) = (claim("10.0.0.1", 1), claim("10.0.0.2", 1));
    assert_ne!(digest([a]), digest([b]));
    assert_ne!(digest([a]), digest([claim("10.0.0.1", 2)]));
    assert_eq!(digest([a, b]) ^ digest_of(b), digest([a]));
    assert_eq!(digest([]), 0);
}
