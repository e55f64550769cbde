//! What to do about a Lease: a pure function of what was observed, and when.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use tokio::time::Instant;

/// What matters of a Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Who holds it; none after a release.
    pub holder: Option<String>,
    /// How long it lasts after a renewal.
    pub duration: Duration,
    /// How often it changed hands.
    pub transitions: i32,
    /// The holder's clock at the last renewal. Only whether it changes matters.
    pub renewed: Option<Timestamp>,
    /// Version of the object.
    pub version: Option<String>,
}

/// A Lease as last seen, and since when it looks like that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// What was seen.
    pub record: Record,
    /// When it was first seen like that, by the local monotonic clock.
    pub since: Instant,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Another holds it and may still write.
    Wait,
    /// Nobody can be writing under it: take it.
    Acquire {
        /// Transitions to store.
        transitions: i32,
    },
    /// It is ours: renew it.
    Renew,
}

impl From<&Lease> for Record {
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
    /// The observation after looking at `lease` at `now`: the clock starts again only if it changed.
    pub fn update(before: Option<Self>, lease: Option<&Lease>, now: Instant) -> Option<Self> {
        let record = Record::from(lease?);
        match before {
            Some(before) if before.record == record => Some(before),
            _ => Some(Self { record, since: now }),
        }
    }
}

/// What `identity` does about the Lease that it observed (`None`: there is none).
pub fn decide(observed: Option<&Observation>, identity: &str, now: Instant) -> Decision {
    let Some(Observation { record, since }) = observed else { return Decision::Acquire { transitions: 0 } };
    let expired = now.saturating_duration_since(*since) >= record.duration;
    match &record.holder {
        Some(holder) if holder == identity => Decision::Renew,
        Some(_) if !expired => Decision::Wait,
        Some(_) | None => Decision::Acquire { transitions: record.transitions.saturating_add(1) },
    }
}
