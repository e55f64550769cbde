//! Metrics of the operator.

use std::sync::atomic::AtomicI64;

use crds::LoadBalancerStackStatus;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use render::Kind;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TypeLabel {
    r#type: String,
}

/// Metrics of the operator. The values of labels are kinds and condition types, so there are few.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    reconciles: Counter,
    failures: Counter,
    repairs: Family<KindLabel, Counter>,
    conditions: Family<TypeLabel, Gauge<i64, AtomicI64>>,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("reconciles", "Reconciliations of the stack", metrics.reconciles.clone());
        registry.register("reconcile_failures", "Reconciliations that failed", metrics.failures.clone());
        registry.register(
            "repairs",
            "Repairs of objects that another writer had changed",
            metrics.repairs.clone(),
        );
        let help = "Conditions of the stack: 1 is True, 0 False, -1 Unknown";
        registry.register("stack_condition", help, metrics.conditions.clone());
        metrics
    }

    pub(crate) fn on_reconciled(&self, failed: bool) {
        self.reconciles.inc();
        if failed {
            self.failures.inc();
        }
    }

    pub(crate) fn on_repaired(&self, kind: Kind) {
        self.repairs.get_or_create(&KindLabel { kind: kind.to_string() }).inc();
    }

    pub(crate) fn set_conditions(&self, status: &LoadBalancerStackStatus) {
        for condition in &status.conditions {
            let value = match condition.status.as_str() {
                "True" => 1,
                "False" => 0,
                _ => -1,
            };
            self.conditions.get_or_create(&TypeLabel { r#type: condition.type_.clone() }).set(value);
        }
    }

    /// The stack has been deleted.
    pub(crate) fn clear(&self) {
        self.conditions.clear();
    }
}
