//! Command line arguments of the speaker. All have defaults, except the names that depend on the pod.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use announce::cluster::ExcludeLabel;
use announce::layer2::ownership::{self, Detection};
use announce::layer2::placement::Placement;
use announce::layer2::view::ViewSettings;
use regex::RegexSet;

use crate::api::watches::WatchConfig;

/// `lbstack speaker`: announces addresses on layer 2.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    #[command(flatten)]
    pub(crate) common: runtime::args::Common,

    /// Namespace of the stack.
    #[arg(long, env = "POD_NAMESPACE", default_value = crds::names::DEFAULT_NAMESPACE)]
    pub(crate) namespace: String,

    /// Name of the node that this speaker runs on.
    #[arg(long, env = "NODE_NAME")]
    pub(crate) node_name: String,

    /// Name of the pod; events carry it.
    #[arg(long, env = "POD_NAME")]
    pub(crate) pod_name: Option<String>,

    /// Announce Services with this spec.loadBalancerClass; without it, those that have none.
    #[arg(long, default_value = "")]
    pub(crate) load_balancer_class: String,

    /// Directory of the state that a restarted speaker needs while the API server is unavailable.
    #[arg(long, default_value = "/var/lib/lbstack")]
    pub(crate) state_dir: PathBuf,

    /// How addresses are spread over nodes.
    #[arg(long, value_enum, default_value_t = PlacementArg::Balanced, ignore_case = true)]
    pub(crate) placement: PlacementArg,

    /// How the label node.kubernetes.io/exclude-from-external-load-balancers on a node is treated. Auto:
    /// honoured unless every node has it.
    #[arg(long, value_enum, default_value_t = ExcludeLabelArg::Auto, ignore_case = true)]
    pub(crate) exclude_label: ExcludeLabelArg,

    /// UDP port of the speakers' beacons.
    #[arg(long, default_value_t = 7946)]
    pub(crate) beacon_port: u16,

    /// Milliseconds between two beacons.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(20..=1000))]
    pub(crate) beacon_interval_ms: u64,

    /// Number of beacon intervals without a beacon after which a speaker is considered down.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(2..=20))]
    pub(crate) beacon_misses: u32,

    /// Address on which beacons are received; all addresses if not set.
    #[arg(long, env = "POD_IP")]
    pub(crate) pod_ip: Option<IpAddr>,

    /// Directories with keys for beacons, the preferred one first; each may contain a file `secretkey`.
    #[arg(long, value_delimiter = ',', default_values_t = DEFAULT_KEY_DIRS.map(String::from))]
    pub(crate) key_dirs: Vec<String>,

    /// What to do when a foreign host, which is no speaker, uses an address of a Service.
    #[arg(long, value_enum, default_value_t = DetectionArg::Enforce, ignore_case = true)]
    pub(crate) conflict_detection: DetectionArg,

    /// Interfaces to ignore: regular expressions that match their names.
    #[arg(long, value_delimiter = ',', default_values_t = DEFAULT_EXCLUDED.map(String::from))]
    pub(crate) exclude_interfaces: Vec<String>,
}

/// The Secret that users may create as MetalLB's manual describes, and the operator's own.
const DEFAULT_KEY_DIRS: [&str; 2] = ["/etc/lbstack/memberlist", "/etc/lbstack/beacon-key"];

/// MetalLB's list (`docs/reference/metallb.md` §7.3): interfaces that container runtimes and network plugins
/// create.
const DEFAULT_EXCLUDED: [&str; 14] = [
    "^docker.*",
    "^cbr.*",
    "^dummy.*",
    "^virbr.*",
    "^lxcbr.*",
    "^veth.*",
    "^lo$",
    "^cali.*",
    "^tunl.*",
    "^flannel.*",
    "^kube-ipvs.*",
    "^cni.*",
    "^nodelocaldns.*",
    "^lxc.*",
];

#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
#[value(rename_all = "PascalCase")]
pub(crate) enum PlacementArg {
    /// No node gets more than its share while others have less; the owner of an address keeps it.
    Balanced,
    /// MetalLB's hash.
    Hash,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
#[value(rename_all = "PascalCase")]
pub(crate) enum ExcludeLabelArg {
    Auto,
    Honour,
    Ignore,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
#[value(rename_all = "PascalCase")]
pub(crate) enum DetectionArg {
    /// Do not announce the address, or defend it; and report the conflict.
    Enforce,
    /// Announce it all the same; and report the conflict.
    Warn,
    /// Do not detect conflicts.
    Off,
}

impl From<DetectionArg> for Detection {
    fn from(arg: DetectionArg) -> Self {
        match arg {
            DetectionArg::Enforce => Self::Enforce,
            DetectionArg::Warn => Self::Warn,
            DetectionArg::Off => Self::Off,
        }
    }
}

impl From<PlacementArg> for Placement {
    fn from(arg: PlacementArg) -> Self {
        match arg {
            PlacementArg::Balanced => Self::Balanced,
            PlacementArg::Hash => Self::Hash,
        }
    }
}

impl From<ExcludeLabelArg> for ExcludeLabel {
    fn from(arg: ExcludeLabelArg) -> Self {
        match arg {
            ExcludeLabelArg::Auto => Self::Auto,
            ExcludeLabelArg::Honour => Self::Honour,
            ExcludeLabelArg::Ignore => Self::Ignore,
        }
    }
}

impl Args {
    /// The settings of the view.
    pub(crate) fn view(&self) -> ViewSettings {
        ViewSettings {
            me: self.node_name.as_str().into(),
            placement: self.placement.into(),
            exclude_label: self.exclude_label.into(),
        }
    }

    /// The settings of the watches.
    pub(crate) fn watches(&self) -> WatchConfig {
        WatchConfig {
            namespace: self.namespace.clone(),
            node: self.node_name.as_str().into(),
            pod: self.pod_name.clone(),
            class: self.class(),
        }
    }

    /// The load balancer class; none if it is empty.
    fn class(&self) -> Option<String> {
        (!self.load_balancer_class.is_empty()).then(|| self.load_balancer_class.clone())
    }

    /// The address and port on which beacons are received.
    pub(crate) fn beacon_address(&self) -> SocketAddr {
        SocketAddr::new(self.pod_ip.unwrap_or(Ipv6Addr::UNSPECIFIED.into()), self.beacon_port)
    }

    /// The settings of the ownership state machine.
    pub(crate) fn ownership(&self, session: u64) -> ownership::OwnershipSettings {
        ownership::OwnershipSettings {
            me: self.node_name.as_str().into(),
            interval: Duration::from_millis(self.beacon_interval_ms),
            detect_multiplier: self.beacon_misses,
            detection: self.conflict_detection.into(),
            session,
        }
    }

    /// The expressions of `--exclude-interfaces`.
    pub(crate) fn excluded(&self) -> Result<RegexSet, regex::Error> {
        RegexSet::new(self.exclude_interfaces.iter().filter(|expression| !expression.is_empty()))
    }
}
