//! Beacons as received, and as if they had been signed.
#![no_main]

use announce::layer2::fuzz::Beacons;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut speaker = Beacons::new();
    speaker.raw(bytes);
    speaker.signed(bytes);
});
