//! Faults, and their effect on a client.

use std::time::Duration;

use e2e::Env;

const SERVED: Duration = Duration::from_secs(60);
/// Kubernetes marks a node NotReady only after 40 to 50 s; the speakers are faster.
const NODE_LOST: Duration = Duration::from_secs(90);

/// A Service that two pods serve, with its address and a client that has been served once.
struct Served<'a> {
    env: &'a Env,
    manifests: Vec<String>,
    address: String,
}

impl<'a> Served<'a> {
    fn new(env: &'a Env, name: &str, address: &str) -> Self {
        let pool = env.pool(name, &format!("{address}-{address}"));
        let manifests = vec![env.service(name, name, ""), env.web(), pool];
        assert_eq!(env.address("default", name), address);
        env.served(&format!("http://{address}/"), SERVED);
        Self { env, manifests, address: address.to_owned() }
    }

    fn is_served(&self, limit: Duration) {
        self.env.served(&format!("http://{}/", self.address), limit);
    }

    fn end(self) {
        for manifest in &self.manifests {
            self.env.delete(manifest);
        }
    }
}

pub(crate) fn speaker_pod_deleted(env: &Env) {
    let served = Served::new(env, "restart", "192.168.33.50");
    let owner = env.announcer("default", "restart");
    let traffic = env.traffic(&served.address);
    env.kubectl(&[
        "delete",
        "pod",
        "--namespace",
        "metallb-system",
        "--wait",
        &env.pod_of("speaker", &owner),
    ]);
    env.stack_available();
    let report = env.stop_traffic(traffic);
    assert!(report.answered > 0 && report.longest_silence() < Duration::from_secs(5), "{report:?}");
    assert_eq!(env.address("default", "restart"), served.address);
    served.is_served(SERVED);
    served.end();
}

pub(crate) fn controllers_killed(env: &Env) {
    let served = Served::new(env, "steady", "192.168.33.51");
    let before = env.kubectl(&["get", "services", "--all-namespaces", "--output", "wide"]);
    let traffic = env.traffic(&served.address);
    env.kill_pods("metallb-system", "component=controller");
    env.kill_pods("lbstack-system", "");
    env.stack_available();
    // Their successors work: a new Service gets its address.
    let after = Served::new(env, "after", "192.168.33.52");
    let report = env.stop_traffic(traffic);
    assert!(
        report.longest_silence() < Duration::from_secs(1),
        "the data path does not depend on them: {report:?}"
    );
    after.end();
    let now = env.kubectl(&["get", "services", "--all-namespaces", "--output", "wide"]);
    assert_eq!(e2e::without_ages(&before), e2e::without_ages(&now), "an address changed");
    served.end();
}

pub(crate) fn api_server_outage(env: &Env) {
    let served = Served::new(env, "away", "192.168.33.53");
    let traffic = env.traffic(&served.address);
    env.api_server_outage(Duration::from_secs(30));
    let report = env.stop_traffic(traffic);
    assert!(
        report.longest_silence() < Duration::from_secs(1),
        "announced addresses stay announced: {report:?}"
    );
    assert_eq!(env.address("default", "away"), served.address);
    env.stack_available();
    served.end();
}

pub(crate) fn power_off(env: &Env) {
    let served = Served::new(env, "power", "192.168.33.54");
    let owner = env.announcer("default", "power");
    // The pods run on other nodes, so that only the address is affected.
    env.web_away_from(&owner);
    env.power_off(&owner);
    served.is_served(NODE_LOST);
    assert_ne!(env.announcer_after("default", "power", &owner), owner);
    assert_eq!(env.address("default", "power"), served.address);
    env.power_on(&owner);
    env.stack_available();
    served.end();
}
