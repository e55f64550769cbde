//! Checks of the API server's audit log.

use std::time::Duration;

use e2e::Env;

/// At rest only Leases are written.
pub(crate) fn no_writes(env: &Env) {
    env.stack_available();
    at_rest(env);
    let writes = env.writes_within(Duration::from_secs(60));
    let foreign: Vec<_> = writes.iter().filter(|write| write.resource != "leases").collect();
    assert!(foreign.is_empty(), "writes of the stack at rest: {foreign:#?}");
    assert!(!writes.is_empty(), "not even a Lease was renewed: is the audit log on?");
}

/// Waits until the effects of the previous test have ended: ten seconds without a write.
fn at_rest(env: &Env) {
    for _ in 0..6 {
        if env.writes_within(Duration::from_secs(10)).iter().all(|write| write.resource == "leases") {
            return;
        }
    }
    panic!("there were still writes a minute after the stack was available");
}

/// The roles allow all requests of the processes.
pub(crate) fn no_rejections(env: &Env) {
    let rejected = env.rejected_requests();
    assert!(rejected.is_empty(), "rejected requests of the stack: {rejected:#?}");
}
