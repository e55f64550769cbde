//! Assignment and release of addresses.

use std::time::Duration;

use e2e::Env;

const SOON: Duration = Duration::from_secs(10);
const SERVED: Duration = Duration::from_secs(60);

pub(crate) fn dual_stack(env: &Env) {
    let pool = env.pool("dual", "192.168.33.40-192.168.33.40, fd00:33::40-fd00:33::40");
    let web = env.web();
    let service = env.service("dual", "dual", "ipFamilyPolicy: RequireDualStack");
    let addresses = env.addresses("default", "dual", 2);
    assert_eq!(addresses, ["192.168.33.40", "fd00:33::40"]);
    env.served("http://192.168.33.40/", SERVED);
    env.served("http://[fd00:33::40]/", SERVED);
    for manifest in [service, web, pool] {
        env.delete(&manifest);
    }
}

pub(crate) fn deleted(env: &Env) {
    let pool = env.pool("one", "192.168.33.41-192.168.33.41");
    let web = env.web();
    let first = env.service("first", "one", "");
    assert_eq!(env.address("default", "first"), "192.168.33.41");
    env.served("http://192.168.33.41/", SERVED);
    // A client with a cached neighbour entry is served before the node claims the address again.
    e2e::wait::poll("one node answers for 192.168.33.41", SOON, || {
        (env.who_has("192.168.33.41").len() == 1).then_some(())
    });
    env.delete(&first);
    // Within a second no node answers for the address any more.
    e2e::wait::poll("no node answers for 192.168.33.41", Duration::from_secs(1), || {
        env.who_has("192.168.33.41").is_empty().then_some(())
    });
    let second = env.service("second", "one", "");
    assert_eq!(env.address("default", "second"), "192.168.33.41");
    env.served("http://192.168.33.41/", SERVED);
    for manifest in [second, web, pool] {
        env.delete(&manifest);
    }
}

pub(crate) fn exhausted(env: &Env) {
    let pool = env.pool("small", "192.168.33.42-192.168.33.42");
    let (web, holds) = (env.web(), env.service("holds", "small", ""));
    assert_eq!(env.address("default", "holds"), "192.168.33.42");
    let waits = env.service("waits", "small", "");
    let event = env.event("Service", "waits", "AllocationFailed", SOON);
    assert!(
        event.contains("small") && event.contains("1 of 1"),
        "the event does not contain the reason: {event}"
    );
    env.delete(&holds);
    assert_eq!(env.address("default", "waits"), "192.168.33.42");
    env.served("http://192.168.33.42/", SERVED);
    for manifest in [waits, web, pool] {
        env.delete(&manifest);
    }
}

pub(crate) fn type_changed(env: &Env) {
    let pool = env.pool("change", "192.168.33.43-192.168.33.43");
    let service = env.service("change", "change", "");
    assert_eq!(env.address("default", "change"), "192.168.33.43");
    env.kubectl(&["patch", "service", "change", "--patch", r#"{"spec":{"type":"ClusterIP"}}"#]);
    let next = env.service("next", "change", "");
    assert_eq!(env.address("default", "next"), "192.168.33.43");
    let left = env.kubectl(&[
        "get",
        "service",
        "change",
        "--output",
        "jsonpath={.status.loadBalancer}{.metadata.annotations}",
    ]);
    assert!(!left.contains("192.168.33.43") && !left.contains("ip-allocated-from-pool"), "{left}");
    for manifest in [service, next, pool] {
        env.delete(&manifest);
    }
}
