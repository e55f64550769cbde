//! Metrics, under MetalLB's names and our own. Gauges are computed at scrape from the last snapshot of the
//! allocator task.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use ipam::RefusalReason;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::pool_stats::PoolStats;

/// The snapshot that the allocator task publishes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) pools: BTreeMap<String, PoolStats>,
    pub(crate) refused: BTreeMap<RefusalReason, usize>,
    pub(crate) leading: bool,
    pub(crate) loaded: bool,
    pub(crate) errors: usize,
}

/// All metrics of the controller.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    snapshot: Arc<Mutex<Snapshot>>,
    /// Status writes.
    pub(crate) updates: Counter,
    /// Status writes that failed.
    pub(crate) update_errors: Counter,
}

impl Snapshot {
    /// The snapshot of a standby replica: it has read the configuration, and has no statistics.
    pub(crate) fn standing_by() -> Self {
        Self { loaded: true, ..Self::default() }
    }
}

impl Metrics {
    /// Registers all metrics.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("metallb_k8s_client_updates", "Writes of Service status", metrics.updates.clone());
        registry.register(
            "metallb_k8s_client_update_errors",
            "Writes of Service status that failed",
            metrics.update_errors.clone(),
        );
        registry.register_collector(Box::new(Published(Arc::clone(&metrics.snapshot))));
        metrics
    }

    pub(crate) fn publish(&self, update: impl FnOnce(&mut Snapshot)) {
        update(&mut self.snapshot.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

type ReadStat = fn(&PoolStats) -> i64;

#[derive(Debug)]
struct Published(Arc<Mutex<Snapshot>>);

impl Collector for Published {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let snapshot = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let by_pool: [(&str, &str, ReadStat); 6] = [
            ("metallb_allocator_addresses_total", "Addresses of the pool", |p| {
                p.total_v4.saturating_add(p.total_v6)
            }),
            ("metallb_allocator_ipv4_addresses_total", "IPv4 addresses of the pool", |p| p.total_v4),
            ("metallb_allocator_ipv6_addresses_total", "IPv6 addresses of the pool", |p| p.total_v6),
            ("metallb_allocator_addresses_in_use_total", "Addresses in use", |p| {
                p.in_use_v4.saturating_add(p.in_use_v6)
            }),
            ("metallb_allocator_ipv4_addresses_in_use_total", "IPv4 addresses in use", |p| p.in_use_v4),
            ("metallb_allocator_ipv6_addresses_in_use_total", "IPv6 addresses in use", |p| p.in_use_v6),
        ];
        for (name, help, read) in by_pool {
            let values = snapshot.pools.iter().map(|(pool, stats)| ([("pool", pool.as_str())], read(stats)));
            family(&mut encoder, name, help, values)?;
        }
        let refused = RefusalReason::ALL.iter().map(|reason| {
            let count = snapshot.refused.get(reason).copied().unwrap_or_default();
            ([("reason", reason.as_str())], i64::try_from(count).unwrap_or(i64::MAX))
        });
        family(
            &mut encoder,
            "lbstack_services_refused",
            "Services that did not get what they ask for",
            refused,
        )?;
        for (name, help, on) in [
            ("metallb_k8s_client_config_loaded_bool", "Whether configuration was read", snapshot.loaded),
            (
                "metallb_k8s_client_config_stale_bool",
                "Whether an object is left out for an error",
                snapshot.errors > 0,
            ),
            ("lbstack_controller_leading", "Whether this replica gives out addresses", snapshot.leading),
        ] {
            family(&mut encoder, name, help, std::iter::once(([], i64::from(on))))?;
        }
        Ok(())
    }
}

fn family<'a, const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl Iterator<Item = ([(&'a str, &'a str); N], i64)>,
) -> fmt::Result {
    let gauge = ConstGauge::new(0_i64);
    let mut metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
    for (labels, value) in values {
        if N == 0 {
            return ConstGauge::new(value).encode(metric);
        }
        ConstGauge::new(value).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metrics_have_metallbs_names_and_values() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        metrics.updates.inc();
        let lan = PoolStats {
            in_use_v4: 3,
            in_use_v6: 1,
            total_v4: 256,
            total_v6: i64::MAX,
            ..PoolStats::default()
        };
        metrics.publish(|snapshot| {
            *snapshot = Snapshot {
                pools: BTreeMap::from([("lan".to_owned(), lan)]),
                refused: BTreeMap::from([(RefusalReason::NoPoolFits, 2)]),
                leading: true,
                loaded: true,
                errors: 1,
            };
        });
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "metallb_k8s_client_updates_total 1",
            "metallb_k8s_client_update_errors_total 0",
            "metallb_k8s_client_config_loaded_bool 1",
            "metallb_k8s_client_config_stale_bool 1",
            "metallb_allocator_addresses_in_use_total{pool=\"lan\"} 4",
            "metallb_allocator_ipv4_addresses_total{pool=\"lan\"} 256",
            // Saturated.
            "metallb_allocator_addresses_total{pool=\"lan\"} 9223372036854775807",
            "lbstack_controller_leading 1",
            "lbstack_services_refused{reason=\"NoPoolFits\"} 2",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} is not in\n{text}");
        }
    }
}
