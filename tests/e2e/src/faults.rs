//! What befalls nodes of a whole cluster, and how it is mended.

use std::time::Duration;

use testbed::{Options, Signal, TrafficReport};

use crate::{Bed, wait};

/// Of the Service that is watched: one of each family.
pub const ADDRESSES: [&str; 2] = ["192.168.33.50", "fd00:33::50"];
/// The name of that Service and its pool.
pub const SERVICE: &str = "failover";
/// Long enough for a takeover to be over, and for a client to see it.
pub const WATCHED: Duration = Duration::from_secs(3);
const SERVED: Duration = Duration::from_secs(60);
const FIRST_REQUESTS: Duration = Duration::from_millis(300);

/// Something that befalls a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It loses power.
    PowerOff,
    /// Its cable is pulled.
    Cable,
    /// Its speaker is killed.
    Kill,
    /// Its speaker hangs.
    Stop,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::PowerOff, Self::Cable, Self::Kill, Self::Stop];

    /// For tables, and to choose it by.
    pub fn name(self) -> &'static str {
        match self {
            Self::PowerOff => "power-off",
            Self::Cable => "cable",
            Self::Kill => "sigkill",
            Self::Stop => "sigstop",
        }
    }

    /// It happens.
    pub fn begin(self, bed: &Bed, node: &str) {
        match self {
            Self::PowerOff => bed.power_off(node),
            Self::Cable => plug(bed, node, false),
            Self::Kill => signal(bed, node, Signal::SIGKILL),
            Self::Stop => signal(bed, node, Signal::SIGSTOP),
        }
    }

    /// It is over.
    pub fn mend(self, bed: &Bed, node: &str) {
        match self {
            Self::PowerOff => bed.power_on(node),
            Self::Cable => plug(bed, node, true),
            // The kubelet starts it again.
            Self::Kill => {}
            Self::Stop => signal(bed, node, Signal::SIGCONT),
        }
    }
}

fn plug(bed: &Bed, node: &str, plugged_in: bool) {
    bed.cluster.node(node).unwrap().cable(plugged_in).unwrap();
}

fn signal(bed: &Bed, node: &str, signal: Signal) {
    bed.cluster.pod("metallb-system", &bed.pod_of("speaker", node)).unwrap().signal(signal).unwrap();
}

/// A cluster with lbstack and a Service that answers on [`ADDRESSES`].
pub fn served(options: Options) -> Bed {
    let bed = Bed::installed(options);
    bed.stack_up();
    bed.pool(SERVICE, &ADDRESSES.map(|address| format!("{address}-{address}")).join(", "));
    bed.web();
    bed.service(SERVICE, SERVICE, "ipFamilyPolicy: RequireDualStack");
    let [v4, v6] = ADDRESSES;
    bed.served(&format!("http://{v4}/"), SERVED);
    bed.served(&format!("http://[{v6}]/"), SERVED);
    bed
}

/// Moves the pods of the Service away from `node`, and waits until every node forwards to where they are. Where the
/// network has just been away, kube-proxy's connection to the API needs seconds to go on, and until then it forwards to pods
/// that are gone: that is not what is measured.
pub fn web_away_from(bed: &Bed, node: &str) {
    bed.web_away_from(node);
    let service = bed.get(&["service", "--namespace", "default", SERVICE]);
    let port = service["spec"]["ports"][0]["nodePort"].as_u64().expect("it has a node port");
    for node in bed.nodes() {
        let address = bed.cluster.host(&node).unwrap_or_else(|error| panic!("{error}")).v4;
        let (url, client) = (format!("http://{address}:{port}/"), bed.cluster.client());
        // Each goes to one of the endpoints by chance.
        let all_answer = || (0..8).all(|_| client.curl(&url).is_ok()).then_some(());
        wait::poll(&format!("{node} forwards to the pods"), SERVED, all_answer);
    }
}

/// The clients of [`clients`], as tables and messages call them.
pub const CLIENTS: [&str; 4] =
    ["IPv4, knows the owner", "IPv4, asks anew", "IPv6, knows the owner", "IPv6, asks anew"];

/// What clients see while `during` lasts: of either family one that knows who has the address, and one that asks before
/// each request. In the order of [`CLIENTS`].
pub fn clients(bed: &Bed, during: impl FnOnce()) -> [TrafficReport; 4] {
    let [v4, v6] = ADDRESSES;
    let traffic = [bed.traffic(v4), bed.resolving_traffic(v4), bed.traffic(v6), bed.resolving_traffic(v6)];
    // Their first requests find the way.
    std::thread::sleep(FIRST_REQUESTS);
    during();
    traffic.map(|traffic| bed.seen(traffic))
}

/// What clients of either family see that ask before each request, over something that takes a while.
pub fn resolving_clients(bed: &Bed, during: impl FnOnce()) -> [TrafficReport; 2] {
    let traffic = ADDRESSES.map(|address| bed.resolving_traffic(address));
    std::thread::sleep(FIRST_REQUESTS);
    during();
    std::thread::sleep(WATCHED);
    traffic.map(|traffic| bed.seen(traffic))
}
