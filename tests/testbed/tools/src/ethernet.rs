//! Ethernet addresses and frames.

use std::io;

use smoltcp::wire::{EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr};

/// Parses a link-layer address: six bytes in hexadecimal, separated by colons.
///
/// # Errors
///
/// The text is not a link-layer address.
pub fn parse_mac(text: &str) -> io::Result<EthernetAddress> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    let bytes: Option<[u8; 6]> = bytes.and_then(|bytes| bytes.try_into().ok());
    bytes
        .map(EthernetAddress)
        .ok_or_else(|| io::Error::other(format!("{text:?} is not a link-layer address")))
}

/// A frame with a payload of `length` bytes, which `fill` writes.
pub fn frame(
    own_mac: EthernetAddress,
    to: EthernetAddress,
    protocol: EthernetProtocol,
    length: usize,
    fill: impl FnOnce(&mut [u8]),
) -> Vec<u8> {
    let ethernet = EthernetRepr { src_addr: own_mac, dst_addr: to, ethertype: protocol };
    let mut bytes = vec![0; ethernet.buffer_len() + length];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes);
    ethernet.emit(&mut frame);
    fill(frame.payload_mut());
    bytes
}
