//! What befalls nodes of a whole cluster, and how it is mended.

use std::time::Duration;

use testbed::{Signal, TrafficReport};

use crate::Bed;

/// Long enough for a takeover to be over, and for a client to see it.
pub const WATCHED: Duration = Duration::from_secs(3);

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

/// What two clients of `address` see while `during` lasts: one that knows who has the address, and one that asks before each
/// request.
pub fn clients(bed: &Bed, address: &str, during: impl FnOnce()) -> [TrafficReport; 2] {
    let traffic = [bed.traffic(address), bed.resolving_traffic(address)];
    // Their first requests find the way.
    std::thread::sleep(Duration::from_millis(300));
    during();
    traffic.map(|traffic| bed.seen(traffic))
}
