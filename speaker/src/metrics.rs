//! Metrics: those of MetalLB (`docs/reference/metallb.md` §3.9) and our own.

use std::collections::HashMap;
use std::fmt::{self, Display, Write as _};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use announce::cluster::{NodeName, ServiceKey};
use announce::layer2::beacon::Rejected;
use announce::layer2::frame::DropReason;
use announce::layer2::ownership::Counts;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// MetalLB's counters have no suffix `_total`, which the text format requires of counters: so they are
/// exposed as gauges. `rate()` works all the same.
type Count = Gauge<u64, AtomicU64>;

/// A label that is formatted only when metrics are scraped: there may be thousands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Lazy<T>(T);

impl<T: Display> EncodeLabelValue for Lazy<T> {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        write!(encoder, "{}", self.0)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ip {
    ip: Lazy<IpAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Announcement {
    service: Lazy<Arc<ServiceKey>>,
    protocol: &'static str,
    node: Lazy<NodeName>,
    ip: Lazy<IpAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CauseLabel {
    cause: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PeerState {
    state: &'static str,
}

/// All metrics of the speaker.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    requests_received: Family<Ip, Count>,
    responses_sent: Family<Ip, Count>,
    gratuitous_sent: Family<Ip, Count>,
    announced: Family<Announcement, Gauge>,
    dropped: Family<ReasonLabel, Counter>,
    rejected: Family<ReasonLabel, Counter>,
    pub(crate) send_errors: Counter,
    pub(crate) overrun: Counter,
    pub(crate) kernel_drops: Counter,
    pub(crate) beacon_errors: Counter,
    pub(crate) owned_groups: Gauge,
    taken: Family<CauseLabel, Count>,
    lost: Count,
    suspicions: Count,
    nacks: Count,
    vetoes: Count,
    stalls: Count,
    not_fresh: Family<ReasonLabel, Count>,
    peers: Family<PeerState, Gauge>,
    conflicts: Gauge,
    pub(crate) answer_latency: AnswerLatency,
    /// Under MetalLB's names, which both of its processes have.
    api: Api,
}

/// Reads from the API and writes to it.
#[derive(Clone, Debug, Default)]
struct Api {
    updates: Counter,
    update_errors: Counter,
    loaded: Gauge,
    stale: Gauge,
}

/// Time from the receipt of a request to its answer.
#[derive(Clone, Debug)]
pub(crate) struct AnswerLatency(pub(crate) Histogram);

impl Default for AnswerLatency {
    fn default() -> Self {
        // From the duration of a busy loop to what a client would notice.
        Self(Histogram::new(exponential_buckets(5e-6, 4.0, 9)))
    }
}

/// The counters of one address, to be looked up once.
#[derive(Clone, Debug)]
pub(crate) struct AddressCounters {
    pub(crate) requests: Count,
    pub(crate) responses: Count,
    pub(crate) gratuitous: Count,
}

impl Metrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        let layer2 = registry.sub_registry_with_prefix("metallb_layer2");
        let requests = "Requests for an address that this node announces";
        layer2.register("requests_received", requests, self.requests_received.clone());
        layer2.register("responses_sent", "Answers to such requests", self.responses_sent.clone());
        let gratuitous = "Frames sent without a request, to announce an address";
        layer2.register("gratuitous_sent", gratuitous, self.gratuitous_sent.clone());
        let announced = "1 for each address of a Service that this node announces";
        registry.register("metallb_speaker_announced", announced, self.announced.clone());
        let api = registry.sub_registry_with_prefix("metallb_k8s_client");
        api.register("updates", "Rounds of writes of statuses", self.api.updates.clone());
        api.register("update_errors", "Those in which a write failed", self.api.update_errors.clone());
        api.register("config_loaded_bool", "Whether configuration was read", self.api.loaded.clone());
        let stale = "Whether an object is left out for an error";
        api.register("config_stale_bool", stale, self.api.stale.clone());
        let speaker = registry.sub_registry_with_prefix("lbstack_speaker");
        speaker.register(
            "frames_dropped",
            "Received frames that were dropped, by reason",
            self.dropped.clone(),
        );
        speaker.register("beacons_rejected", "Beacons that were rejected, by reason", self.rejected.clone());
        speaker.register("send_errors", "Frames that could not be sent", self.send_errors.clone());
        speaker.register("beacon_errors", "Beacons that could not be sent", self.beacon_errors.clone());
        let overrun = "Received frames and beacons that were dropped because the driver's queue was full";
        speaker.register("overrun", overrun, self.overrun.clone());
        let dropped = "Received frames and beacons that the kernel dropped because a receive buffer was full";
        speaker.register("kernel_drops", dropped, self.kernel_drops.clone());
        let owned = "Groups of addresses that this node owns";
        speaker.register("owned_groups", owned, self.owned_groups.clone());
        let taken = "Groups taken, by cause: vacant, owner down, handover";
        speaker.register("groups_taken", taken, self.taken.clone());
        speaker.register("groups_lost", "Groups lost to a better claim", self.lost.clone());
        speaker.register("suspicions", "Times that a speaker went down", self.suspicions.clone());
        let nacks = "Times that another speaker objected to a takeover";
        speaker.register("nacks", nacks, self.nacks.clone());
        let vetoes = "Times that an owner that seemed to be down answered a probe";
        speaker.register("vetoes", vetoes, self.vetoes.clone());
        let stalls = "Times that this speaker was stalled and had to probe its groups again";
        speaker.register("stalls", stalls, self.stalls.clone());
        let not_fresh = "Verified beacons that were ignored: of an old session, or replayed";
        speaker.register("beacons_not_fresh", not_fresh, self.not_fresh.clone());
        speaker.register(
            "peers",
            "Other speakers: heard, or blocked: alive but not heard",
            self.peers.clone(),
        );
        speaker.register("conflicts", "Addresses that a foreign host uses", self.conflicts.clone());
        let latency = "Time from the receipt of a request to its answer";
        speaker.register_with_unit("answer_latency", latency, Unit::Seconds, self.answer_latency.0.clone());
    }

    pub(crate) fn dropped(&self, reason: DropReason) {
        // Our own frames come back on some links; they are not set_counts.
        if reason != DropReason::Own {
            self.dropped.get_or_create(&ReasonLabel { reason: reason.label() }).inc();
        }
    }

    /// The counters of the ownership state machine.
    pub(crate) fn set_counts(&self, counts: Counts, alive: usize, blocked: usize) {
        let by_cause =
            [("vacant", counts.claims), ("silent_owner", counts.takeovers), ("handover", counts.handovers)];
        for (cause, count) in by_cause {
            self.taken.get_or_create(&CauseLabel { cause }).set(count);
        }
        for (reason, count) in [("stale", counts.stale), ("replayed", counts.replayed)] {
            self.not_fresh.get_or_create(&ReasonLabel { reason }).set(count);
        }
        self.lost.set(counts.superseded);
        self.suspicions.set(counts.suspicions);
        self.nacks.set(counts.nacks);
        self.vetoes.set(counts.vetoes);
        self.stalls.set(counts.stalls);
        for (state, count) in [("heard", alive), ("blocked", blocked)] {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.peers.get_or_create(&PeerState { state }).set(count);
        }
    }

    pub(crate) fn conflicts(&self, count: usize) {
        self.conflicts.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(crate) fn rejected(&self, reason: Rejected) {
        self.rejected.get_or_create(&ReasonLabel { reason: reason.label() }).inc();
    }

    /// Counts a round of writes. `errors` is whether the configuration has errors.
    pub(crate) fn count_write_round(&self, failed: bool, errors: bool) {
        self.api.updates.inc();
        if failed {
            self.api.update_errors.inc();
        }
        self.api.loaded.set(1);
        self.api.stale.set(i64::from(errors));
    }

    /// The number of rounds of writes.
    #[cfg(test)]
    pub(crate) fn rounds(&self) -> u64 {
        self.api.updates.get()
    }

    /// Removes the counters of an address that is no longer announced.
    pub(crate) fn forget(&self, address: IpAddr) {
        let label = Ip { ip: Lazy(address) };
        self.requests_received.remove(&label);
        self.responses_sent.remove(&label);
        self.gratuitous_sent.remove(&label);
    }

    pub(crate) fn announced(&self, service: &Arc<ServiceKey>, node: &NodeName, ip: IpAddr, yes: bool) {
        let label = Announcement {
            service: Lazy(Arc::clone(service)),
            protocol: "layer2",
            node: Lazy(node.clone()),
            ip: Lazy(ip),
        };
        if yes {
            self.announced.get_or_create(&label).set(1);
        } else {
            self.announced.remove(&label);
        }
    }
}

/// Counters by address, for the packet path: one look-up in a map, no lock.
#[derive(Debug)]
pub(crate) struct PerAddress {
    metrics: Metrics,
    known: HashMap<IpAddr, AddressCounters>,
}

impl PerAddress {
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self { metrics, known: HashMap::new() }
    }

    pub(crate) fn of(&mut self, address: IpAddr) -> &AddressCounters {
        self.known.entry(address).or_insert_with(|| {
            let label = Ip { ip: Lazy(address) };
            AddressCounters {
                requests: self.metrics.requests_received.get_or_create_owned(&label),
                responses: self.metrics.responses_sent.get_or_create_owned(&label),
                gratuitous: self.metrics.gratuitous_sent.get_or_create_owned(&label),
            }
        })
    }

    pub(crate) fn forget(&mut self, address: IpAddr) {
        if self.known.remove(&address).is_some() {
            self.metrics.forget(address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metrics_have_metallbs_names_and_values() {
        let (metrics, mut registry) = (Metrics::default(), Registry::default());
        metrics.register(&mut registry);
        let address: IpAddr = "10.0.0.1".parse().unwrap();
        let mut by_address = PerAddress::new(metrics.clone());
        by_address.of(address).requests.inc();
        by_address.of(address).gratuitous.inc();
        let (web, node): (_, NodeName) = (Arc::new(ServiceKey::new("default", "web")), "node1".into());
        metrics.announced(&web, &node, address, true);
        metrics.count_write_round(true, false);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "metallb_layer2_requests_received{ip=\"10.0.0.1\"} 1",
            "metallb_layer2_gratuitous_sent{ip=\"10.0.0.1\"} 1",
            "metallb_speaker_announced{service=\"default/web\",protocol=\"layer2\",node=\"node1\",ip=\"10.0.0.1\"} 1",
            "metallb_k8s_client_updates_total 1",
            "metallb_k8s_client_update_errors_total 1",
            "metallb_k8s_client_config_loaded_bool 1",
            "metallb_k8s_client_config_stale_bool 0",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} is not in\n{text}");
        }
        by_address.forget(address);
        metrics.announced(&web, &node, address, false);
        text.clear();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(!text.contains("10.0.0.1"), "{text}");
    }
}
