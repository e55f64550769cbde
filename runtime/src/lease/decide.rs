//! The decision what to do about a Lease: a pure function of the observed Lease and the time.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use tokio::time::Instant;

/// The fields of a Lease that an election uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseRecord {
    /// Who holds it; none after a release.
    pub holder: Option<String>,
    /// How long it is valid after a renewal.
    pub duration: Duration,
    /// How often its holder changed.
    pub transitions: i32,
    /// The holder's clock at the last renewal. Only compared for equality.
    pub renewed: Option<Timestamp>,
    /// Version of the object.
    pub version: Option<String>,
}

/// A Lease as last read, and when that state was first observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// What was read.
    pub record: LeaseRecord,
    /// When it was first observed, by the local monotonic clock.
    pub since: Instant,
}

/// What to do about a Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Another process holds it and may still write.
    Wait,
    /// No other process can be writing under it: acquire it.
    Acquire {
        /// The value for `leaseTransitions`.
        transitions: i32,
    },
    /// This process holds it: renew it.
    Renew,
}

impl From<&Lease> for LeaseRecord {
    fn from(lease: &Lease) -> Self {
        let spec = lease.spec.clone().unwrap_or_default();
        let seconds = spec.lease_duration_seconds.and_then(|s| u64::try_from(s).ok()).unwrap_or(0);
        Self {
            holder: spec.holder_identity.filter(|holder| !holder.is_empty()),
            duration: Duration::from_secs(seconds),
            transitions: spec.lease_transitions.unwrap_or(0),
            renewed: spec.renew_time.map(|time| time.0),
            version: lease.resource_version(),
        }
    }
}

impl Observation {
    /// The observation after `lease` was read at `now`: `since` changes only if the Lease has changed.
    pub fn update(before: Option<Self>, lease: Option<&Lease>, now: Instant) -> Option<Self> {
        let record = LeaseRecord::from(lease?);
        match before {
            Some(before) if before.record == record => Some(before),
            _ => Some(Self { record, since: now }),
        }
    }
}

/// What `identity` does about the observed Lease (`None`: it does not exist).
pub fn decide(observed: Option<&Observation>, identity: &str, now: Instant) -> Decision {
    let Some(Observation { record, since }) = observed else { return Decision::Acquire { transitions: 0 } };
    let expired = now.saturating_duration_since(*since) >= record.duration;
    match &record.holder {
        Some(holder) if holder == identity => Decision::Renew,
        Some(_) if !expired => Decision::Wait,
        Some(_) | None => Decision::Acquire { transitions: record.transitions.saturating_add(1) },
    }
}
