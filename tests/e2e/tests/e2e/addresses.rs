//! Addresses given and given back.

use std::time::Duration;

use e2e::Bed;

const SOON: Duration = Duration::from_secs(10);
const SERVED: Duration = Duration::from_secs(60);

pub(crate) fn dual_stack(bed: &Bed) {
    let pool = bed.pool("dual", "192.168.33.40-192.168.33.40, fd00:33::40-fd00:33::40");
    let web = bed.web();
    let service = bed.service("dual", "dual", "ipFamilyPolicy: RequireDualStack");
    let addresses = bed.addresses("default", "dual", 2);
    assert_eq!(addresses, ["192.168.33.40", "fd00:33::40"]);
    bed.served("http://192.168.33.40/", SERVED);
    bed.served("http://[fd00:33::40]/", SERVED);
    for manifest in [service, web, pool] {
        bed.delete(&manifest);
    }
}

pub(crate) fn deleted(bed: &Bed) {
    let pool = bed.pool("one", "192.168.33.41-192.168.33.41");
    let web = bed.web();
    let first = bed.service("first", "one", "");
    assert_eq!(bed.address("default", "first"), "192.168.33.41");
    bed.served("http://192.168.33.41/", SERVED);
    // A client that still knows who had the address is served before that node claims it again.
    e2e::wait::poll("one node answers for 192.168.33.41", SOON, || {
        (bed.who_has("192.168.33.41").len() == 1).then_some(())
    });
    bed.delete(&first);
    // Within a second nobody answers for the address any more.
    e2e::wait::poll("nobody answers for 192.168.33.41", Duration::from_secs(1), || {
        bed.who_has("192.168.33.41").is_empty().then_some(())
    });
    let second = bed.service("second", "one", "");
    assert_eq!(bed.address("default", "second"), "192.168.33.41");
    bed.served("http://192.168.33.41/", SERVED);
    for manifest in [second, web, pool] {
        bed.delete(&manifest);
    }
}

pub(crate) fn exhausted(bed: &Bed) {
    let pool = bed.pool("small", "192.168.33.42-192.168.33.42");
    let (web, holds) = (bed.web(), bed.service("holds", "small", ""));
    assert_eq!(bed.address("default", "holds"), "192.168.33.42");
    let waits = bed.service("waits", "small", "");
    let event = bed.event("Service", "waits", "AllocationFailed", SOON);
    assert!(event.contains("small") && event.contains("1 of 1"), "the event does not tell why: {event}");
    bed.delete(&holds);
    assert_eq!(bed.address("default", "waits"), "192.168.33.42");
    bed.served("http://192.168.33.42/", SERVED);
    for manifest in [waits, web, pool] {
        bed.delete(&manifest);
    }
}

pub(crate) fn type_changed(bed: &Bed) {
    let pool = bed.pool("change", "192.168.33.43-192.168.33.43");
    let service = bed.service("change", "change", "");
    assert_eq!(bed.address("default", "change"), "192.168.33.43");
    bed.kubectl(&["patch", "service", "change", "--patch", r#"{"spec":{"type":"ClusterIP"}}"#]);
    let next = bed.service("next", "change", "");
    assert_eq!(bed.address("default", "next"), "192.168.33.43");
    let left = bed.kubectl(&[
        "get",
        "service",
        "change",
        "--output",
        "jsonpath={.status.loadBalancer}{.metadata.annotations}",
    ]);
    assert!(!left.contains("192.168.33.43") && !left.contains("ip-allocated-from-pool"), "{left}");
    for manifest in [service, next, pool] {
        bed.delete(&manifest);
    }
}
