//! What breaks, and what the client sees of it.

use std::time::Duration;

use e2e::Bed;

const SERVED: Duration = Duration::from_secs(60);
/// Kubernetes marks a node NotReady after 40 to 50 s; what is faster than that comes from the speakers.
const NODE_LOST: Duration = Duration::from_secs(90);

/// A Service that two pods serve, with its address and a client that has been served once.
struct Served<'a> {
    bed: &'a Bed,
    manifests: Vec<String>,
    address: String,
}

impl<'a> Served<'a> {
    fn new(bed: &'a Bed, name: &str, address: &str) -> Self {
        let pool = bed.pool(name, &format!("{address}-{address}"));
        let manifests = vec![bed.service(name, name, ""), bed.web(), pool];
        assert_eq!(bed.address("default", name), address);
        bed.served(&format!("http://{address}/"), SERVED);
        Self { bed, manifests, address: address.to_owned() }
    }

    fn is_served(&self, limit: Duration) {
        self.bed.served(&format!("http://{}/", self.address), limit);
    }

    fn end(self) {
        for manifest in &self.manifests {
            self.bed.delete(manifest);
        }
    }
}

pub(crate) fn speaker_pod_deleted(bed: &Bed) {
    let served = Served::new(bed, "restart", "192.168.33.50");
    let owner = bed.announcer("default", "restart");
    let traffic = bed.traffic(&served.address);
    bed.kubectl(&[
        "delete",
        "pod",
        "--namespace",
        "metallb-system",
        "--wait",
        &bed.pod_of("speaker", &owner),
    ]);
    bed.stack_available();
    let seen = bed.seen(traffic);
    assert!(seen.answered > 0 && seen.longest_silence() < Duration::from_secs(5), "{seen:?}");
    assert_eq!(bed.address("default", "restart"), served.address);
    served.is_served(SERVED);
    served.end();
}

pub(crate) fn controllers_killed(bed: &Bed) {
    let served = Served::new(bed, "steady", "192.168.33.51");
    let before = bed.kubectl(&["get", "services", "--all-namespaces", "--output", "wide"]);
    let traffic = bed.traffic(&served.address);
    bed.kill_pods("metallb-system", "component=controller");
    bed.kill_pods("lbstack-system", "");
    bed.stack_available();
    // Who comes after them works: a new Service gets its address.
    let after = Served::new(bed, "after", "192.168.33.52");
    let seen = bed.seen(traffic);
    assert!(
        seen.longest_silence() < Duration::from_secs(1),
        "the data path does not depend on them: {seen:?}"
    );
    after.end();
    let now = bed.kubectl(&["get", "services", "--all-namespaces", "--output", "wide"]);
    assert_eq!(e2e::without_ages(&before), e2e::without_ages(&now), "an address changed");
    served.end();
}

pub(crate) fn api_server_away(bed: &Bed) {
    let served = Served::new(bed, "away", "192.168.33.53");
    let traffic = bed.traffic(&served.address);
    bed.api_server_away_for(Duration::from_secs(30));
    let seen = bed.seen(traffic);
    assert!(seen.longest_silence() < Duration::from_secs(1), "announced addresses stay announced: {seen:?}");
    assert_eq!(bed.address("default", "away"), served.address);
    bed.stack_available();
    served.end();
}

pub(crate) fn power_off(bed: &Bed) {
    let served = Served::new(bed, "power", "192.168.33.54");
    let owner = bed.announcer("default", "power");
    // The answering pods are elsewhere, so that what is measured is the address.
    bed.web_away_from(&owner);
    bed.power_off(&owner);
    served.is_served(NODE_LOST);
    assert_ne!(bed.announcer_after("default", "power", &owner), owner);
    assert_eq!(bed.address("default", "power"), served.address);
    bed.power_on(&owner);
    bed.stack_available();
    served.end();
}
