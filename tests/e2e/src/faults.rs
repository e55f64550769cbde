//! Faults of nodes of a whole cluster.

use std::time::Duration;

use testbed::{Options, Signal, TrafficReport};

use crate::{Env, wait};

/// The addresses of the Service under test, one of each family.
pub const ADDRESSES: [&str; 2] = ["192.168.33.50", "fd00:33::50"];
/// The name of that Service and its pool.
pub const SERVICE: &str = "failover";
/// Long enough for a takeover, and for a client to notice it.
pub const WATCHED: Duration = Duration::from_secs(3);
const SERVED: Duration = Duration::from_secs(60);
const FIRST_REQUESTS: Duration = Duration::from_millis(300);

/// A fault of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It loses power.
    PowerOff,
    /// Its cable is unplugged.
    Cable,
    /// Its speaker is killed.
    Kill,
    /// Its speaker is stopped by SIGSTOP.
    Stop,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::PowerOff, Self::Cable, Self::Kill, Self::Stop];

    /// Its name in tables and arguments.
    pub fn name(self) -> &'static str {
        match self {
            Self::PowerOff => "power-off",
            Self::Cable => "cable",
            Self::Kill => "sigkill",
            Self::Stop => "sigstop",
        }
    }

    /// Injects the fault.
    pub fn inject(self, env: &Env, node: &str) {
        match self {
            Self::PowerOff => env.power_off(node),
            Self::Cable => plug(env, node, false),
            Self::Kill => signal(env, node, Signal::SIGKILL),
            Self::Stop => signal(env, node, Signal::SIGSTOP),
        }
    }

    /// Ends the fault.
    pub fn clear(self, env: &Env, node: &str) {
        match self {
            Self::PowerOff => env.power_on(node),
            Self::Cable => plug(env, node, true),
            // The kubelet restarts it.
            Self::Kill => {}
            Self::Stop => signal(env, node, Signal::SIGCONT),
        }
    }
}

fn plug(env: &Env, node: &str, plugged_in: bool) {
    env.cluster.node(node).unwrap().cable(plugged_in).unwrap();
}

fn signal(env: &Env, node: &str, signal: Signal) {
    env.cluster.pod("metallb-system", &env.pod_of("speaker", node)).unwrap().signal(signal).unwrap();
}

/// A cluster with lbstack and a Service that answers on [`ADDRESSES`].
pub fn served(options: Options) -> Env {
    let env = Env::installed(options);
    env.stack_up();
    env.pool(SERVICE, &ADDRESSES.map(|address| format!("{address}-{address}")).join(", "));
    env.web();
    env.service(SERVICE, SERVICE, "ipFamilyPolicy: RequireDualStack");
    let [v4, v6] = ADDRESSES;
    env.served(&format!("http://{v4}/"), SERVED);
    env.served(&format!("http://[{v6}]/"), SERVED);
    env
}

/// Moves the pods of the Service away from `node`, and waits until every node forwards to the new ones. After
/// a network outage, kube-proxy's connection to the API server needs seconds to recover, and until then it
/// forwards to deleted pods, which is not what is measured.
pub fn web_away_from(env: &Env, node: &str) {
    env.web_away_from(node);
    let service = env.get(&["service", "--namespace", "default", SERVICE]);
    let port = service["spec"]["ports"][0]["nodePort"].as_u64().expect("it has a node port");
    for node in env.nodes() {
        let address = env.cluster.host(&node).unwrap_or_else(|error| panic!("{error}")).v4;
        let (url, client) = (format!("http://{address}:{port}/"), env.cluster.client());
        // Each request goes to a random endpoint.
        let all_answer = || (0..8).all(|_| client.curl(&url).is_ok()).then_some(());
        wait::poll(&format!("{node} forwards to the pods"), SERVED, all_answer);
    }
}

/// Names of the clients of [`clients`] in tables and messages.
pub const CLIENTS: [&str; 4] =
    ["IPv4, cached neighbour", "IPv4, resolving", "IPv6, cached neighbour", "IPv6, resolving"];

/// The results of clients while `during` runs: of each family one with a cached neighbour entry, and one with
/// address resolution before each request. In the order of [`CLIENTS`].
pub fn clients(env: &Env, during: impl FnOnce()) -> [TrafficReport; 4] {
    let [v4, v6] = ADDRESSES;
    let traffic = [env.traffic(v4), env.resolving_traffic(v4), env.traffic(v6), env.resolving_traffic(v6)];
    // The first requests fill caches on the path.
    std::thread::sleep(FIRST_REQUESTS);
    during();
    traffic.map(|traffic| env.stop_traffic(traffic))
}

/// The results of a client of each family with address resolution before each request, during and after
/// `during`.
pub fn resolving_clients(env: &Env, during: impl FnOnce()) -> [TrafficReport; 2] {
    let traffic = ADDRESSES.map(|address| env.resolving_traffic(address));
    std::thread::sleep(FIRST_REQUESTS);
    during();
    std::thread::sleep(WATCHED);
    traffic.map(|traffic| env.stop_traffic(traffic))
}
