//! Frames as received on a link.
#![no_main]

use announce::layer2::fuzz::Frames;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    assert!(Frames::new().frame(bytes) <= 1);
});
