//! The validated stack, from which every object is built.

use std::collections::BTreeSet;
use std::fmt;

use crds::{ControllerSettings, ImagePullPolicy, LogLevel, SpeakerSettings};
use k8s_openapi::ByteString;

use crate::finding::SpecFinding;
use crate::meta::StackMeta;
use crate::object::{Key, Object};

/// The key with which speakers sign their beacons.
#[derive(Clone, PartialEq, Eq)]
pub struct BeaconKey(Vec<u8>);

impl BeaconKey {
    /// A new key. `random` must come from a cryptographically secure generator.
    pub fn new(random: [u8; 32]) -> Self {
        Self(random.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect())
    }

    /// The key stored in a Secret; none if it is too short.
    pub fn stored(bytes: &[u8]) -> Option<Self> {
        (bytes.len() >= 16).then(|| Self(bytes.to_vec()))
    }

    pub(crate) fn bytes(&self) -> ByteString {
        ByteString(self.0.clone())
    }
}

/// Hides the key: it must not appear in logs.
impl fmt::Debug for BeaconKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BeaconKey(…)")
    }
}

/// A stack that can be rendered.
#[derive(Clone, Debug)]
pub struct ValidatedStack {
    pub(crate) meta: StackMeta,
    pub(crate) image: String,
    pub(crate) image_pull_policy: Option<ImagePullPolicy>,
    pub(crate) load_balancer_class: String,
    pub(crate) log_level: LogLevel,
    pub(crate) controller: ControllerSettings,
    pub(crate) speaker: SpeakerSettings,
    pub(crate) beacon_key: BeaconKey,
    pub(crate) nodes: i32,
    /// The objects of inline pools and of imported configuration. They are built during validation, which
    /// applies the rules to them.
    pub(crate) configuration: Vec<Object>,
    /// The names of rejected inline pools.
    pub(crate) rejected: Vec<String>,
    /// Legacy sources with an error.
    pub(crate) retained_sources: Vec<&'static str>,
    pub(crate) frozen: BTreeSet<Key>,
    pub(crate) degraded: bool,
    pub(crate) warnings: Vec<SpecFinding>,
}

impl ValidatedStack {
    /// Whether an existing object that is not rendered is kept: either it was imported from a source that has
    /// an error now; or it belongs to an inline pool while some inline pool is rejected, which may be the
    /// same pool under a new name.
    pub fn retains(&self, key: &Key, imported_from: Option<&str>) -> bool {
        match imported_from {
            Some(source) => self.retained_sources.contains(&source),
            None => key.kind.is_pool_object() && !self.rejected.is_empty(),
        }
    }

    /// Whether a rendered object, if it exists, is left unchanged because its source has an error: the object
    /// in the cluster is the last valid configuration.
    pub fn is_frozen(&self, key: &Key) -> bool {
        self.frozen.contains(key)
    }

    /// Findings that do not invalidate the whole spec: errors in inline pools and imported configuration, and
    /// warnings.
    pub fn warnings(&self) -> &[SpecFinding] {
        &self.warnings
    }

    /// Whether any configuration is left out because of an error.
    pub fn is_degraded(&self) -> bool {
        self.degraded
    }
}
