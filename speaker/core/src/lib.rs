//! Announcement of addresses on layer 2, as pure logic: time, randomness and keys are arguments; sockets and
//! the API are elsewhere.
//!
//! | module | content |
//! |---|---|
//! | [`cluster`] | identifiers, summaries of API objects, links, eligible nodes: independent of a protocol |
//! | [`layer2`] | announcement by ARP and NDP |

pub mod cluster;
pub mod layer2;

pub use smoltcp::wire::EthernetAddress;

/// The longest value of a label.
const LONGEST_LABEL: usize = 63;

/// The name of a node as a label value: the name itself if it is short enough, else its beginning and a
/// digest.
pub fn label_value(node: &str) -> std::borrow::Cow<'_, str> {
    shortened(node, LONGEST_LABEL)
}

/// `name` itself if it is not longer than `longest`, else its beginning and a digest.
pub fn shortened(name: &str, longest: usize) -> std::borrow::Cow<'_, str> {
    if name.len() <= longest {
        return name.into();
    }
    let digest = hex(&digest(&[name.as_bytes()])[..8]);
    let end = name.floor_char_boundary(longest.saturating_sub(digest.len() + 1));
    // A name must not end with one of these.
    let beginning = name[..end].trim_end_matches(['-', '.', '_']);
    format!("{beginning}-{digest}").into()
}

/// `bytes` in hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// SHA-256 over `parts`, each preceded by its length, so that different lists of parts have different
/// digests.
pub fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_node_is_a_label_value_however_long_it_is() {
        assert_eq!(label_value("node1"), "node1");
        let short = "n".repeat(LONGEST_LABEL);
        assert_eq!(label_value(&short), short);
        let dotted = format!("{}.example.org", "a".repeat(46));
        let long =
            [format!("{}1", "n".repeat(63)), format!("{}2", "n".repeat(63)), format!("{dotted}.{dotted}")];
        for name in &long {
            let value = label_value(name);
            assert!(value.len() <= LONGEST_LABEL && !value.contains(".-"), "{value}");
        }
        assert_ne!(label_value(&long[0]), label_value(&long[1]));
    }
}
