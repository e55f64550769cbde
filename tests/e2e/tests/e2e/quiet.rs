//! What the API server's audit log says of us.

use std::time::Duration;

use e2e::Bed;

/// At rest nothing is written but Leases.
pub(crate) fn no_writes(bed: &Bed) {
    bed.stack_available();
    at_rest(bed);
    let writes = bed.writes_within(Duration::from_secs(60));
    let foreign: Vec<_> = writes.iter().filter(|write| write.resource != "leases").collect();
    assert!(foreign.is_empty(), "writes of ours at rest: {foreign:#?}");
    assert!(!writes.is_empty(), "not even a Lease was renewed: is the audit log on?");
}

/// What the test before did is over when ten seconds have passed without a word about it.
fn at_rest(bed: &Bed) {
    for _ in 0..6 {
        if bed.writes_within(Duration::from_secs(10)).iter().all(|write| write.resource == "leases") {
            return;
        }
    }
    panic!("a minute after the stack was available it was still being written to");
}

/// The roles hold everything that the processes ask for, and they ask for nothing else.
pub(crate) fn no_refusals(bed: &Bed) {
    let refused = bed.requests_refused();
    assert!(refused.is_empty(), "requests of ours that were refused: {refused:#?}");
}
