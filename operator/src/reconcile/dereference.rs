//! Reads what the spec refers to, and the state of the cluster that rendering depends on.

use std::collections::BTreeMap;
use std::sync::Arc;

use crds::names::{ANNOTATION_ACCOUNT, BEACON_KEY_SECRET, CONTROLLER, SECRET_KEY, SPEAKER};
use crds::{LegacyConfigMap, LoadBalancerStackSpec};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::SignedDuration;
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use render::legacy::{ADDRESS_POOL, CONFIG_MAP, ConfigMapText, Sources};
use render::status::Workload;
use render::{BeaconKey, Key, Kind, RenderInputs};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::de::DeserializeOwned;

use crate::api::{Api, ApiError, json_of, typed};
use crate::watch::Caches;

/// Why the inputs of rendering could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DereferenceError {
    /// Whether a key exists is unknown; a new one must not replace it.
    #[error("Secret {BEACON_KEY_SECRET} cannot be read: {0}")]
    Secret(ApiError),
    /// The system's random number generator failed.
    #[error("the system's random number generator failed for Secret {BEACON_KEY_SECRET}")]
    Random,
}

/// The last known values, for use while the object that they are read from is missing.
#[derive(Debug, Default)]
pub(crate) struct LastKnown {
    beacon_key: Option<BeaconKey>,
    nodes: i32,
    /// The UIDs of the service accounts when they were first seen.
    accounts: BTreeMap<&'static str, String>,
}

/// Reads everything beside the spec that rendering depends on.
pub(crate) async fn dereference(
    api: &Api,
    caches: &mut Caches,
    spec: &LoadBalancerStackSpec,
    image: Option<&String>,
    last: &mut LastKnown,
) -> Result<RenderInputs, DereferenceError> {
    let namespace = &spec.namespace;
    let speaker = cached::<DaemonSet>(caches, namespace, Kind::DaemonSet, SPEAKER);
    if let Some(speaker) = speaker.map(|live| Workload::daemon_set(&live)).filter(|speaker| speaker.observed)
    {
        last.nodes = speaker.desired;
    }
    let beacon_key = beacon_key(api, caches, namespace, &mut last.beacon_key).await?;
    let legacy = legacy(caches, namespace, &spec.legacy_config_map).await;
    let recreated_accounts = recreated_accounts(caches, namespace, &mut last.accounts);
    Ok(RenderInputs {
        default_image: image.cloned(),
        beacon_key,
        nodes: last.nodes,
        legacy,
        recreated_accounts,
    })
}

/// The tolerance for the clock skew of two API servers.
const CLOCK_SKEW: SignedDuration = SignedDuration::from_secs(30);

/// Service accounts that were re-created after the workload that uses them, whose pods hold tokens that are
/// no longer valid. That is the case if this process has seen a different UID before, if the workload has
/// already been rolled out for the UID, or if the account is younger than the workload by more than the clock
/// skew: during installation both are created in this order, possibly by API servers with different clocks.
fn recreated_accounts(
    caches: &Caches,
    namespace: &str,
    seen: &mut BTreeMap<&'static str, String>,
) -> BTreeMap<&'static str, String> {
    let recreated = |(kind, name): (Kind, &'static str)| {
        let account = cached_object(caches, namespace, Kind::ServiceAccount, name)?.metadata.clone();
        let uid = account.uid?;
        let changed = *seen.entry(name).or_insert_with(|| uid.clone()) != uid;
        let user = cached_object(caches, namespace, kind, name)?;
        let rolled_out = &user.data["spec"]["template"]["metadata"]["annotations"][ANNOTATION_ACCOUNT];
        let after = account.creation_timestamp?.0.duration_since(user.creation_timestamp()?.0);
        (changed || rolled_out.is_string() || after > CLOCK_SKEW).then_some((name, uid))
    };
    [(Kind::Deployment, CONTROLLER), (Kind::DaemonSet, SPEAKER)].into_iter().filter_map(recreated).collect()
}

/// The configuration of older versions of MetalLB.
async fn legacy(caches: &mut Caches, namespace: &str, from: &LegacyConfigMap) -> Sources {
    let config_map = caches.config_map(namespace, &from.name).await;
    let data = |map: Arc<DynamicObject>| {
        let entries = map.data["data"].as_object().cloned().unwrap_or_default().into_iter();
        entries.filter_map(|(key, text)| Some((key, text.as_str()?.to_owned()))).collect()
    };
    let config_map = config_map.map(|map| ConfigMapText {
        name: from.name.clone(),
        key: from.key.clone(),
        data: data(map),
    });
    let synced = [(CONFIG_MAP, caches.config_map_synced()), (ADDRESS_POOL, caches.address_pools_synced())];
    let mut sources = Sources {
        config_map,
        named: from.name.clone(),
        imported_config_maps: caches.imported_config_maps(),
        unknown: synced.into_iter().filter(|(_, synced)| !synced).map(|(source, _)| source).collect(),
        imported: caches.imported_sources(&[CONFIG_MAP, ADDRESS_POOL]),
        ..Sources::default()
    };
    for pool in caches.address_pools(namespace) {
        match runtime::decode::decode(json_of(&pool)) {
            Ok(decoded) => sources.address_pools.push(Arc::new(decoded)),
            Err(error) => sources.undecoded.push((pool.name_any(), error)),
        }
    }
    sources
}

/// The cached object as `K`.
pub(crate) fn cached<K: DeserializeOwned>(
    caches: &Caches,
    namespace: &str,
    kind: Kind,
    name: &str,
) -> Option<K> {
    typed(&*cached_object(caches, namespace, kind, name)?)
}

/// The cached object.
fn cached_object(caches: &Caches, namespace: &str, kind: Kind, name: &str) -> Option<Arc<DynamicObject>> {
    caches.get(&Key { kind, namespace: Some(namespace.to_owned()), name: name.to_owned() })
}

/// The key in use. A deleted Secret is re-created with the last known key; if somebody stores another key in
/// the Secret, that key is used.
async fn beacon_key(
    api: &Api,
    caches: &Caches,
    namespace: &str,
    known: &mut Option<BeaconKey>,
) -> Result<BeaconKey, DereferenceError> {
    let key =
        Key { kind: Kind::Secret, namespace: Some(namespace.to_owned()), name: BEACON_KEY_SECRET.to_owned() };
    let secret = match caches.get(&key) {
        Some(object) => Some((*object).clone()),
        None => api.get(&key).await.map_err(DereferenceError::Secret)?,
    };
    if let Some(stored) = secret.as_ref().and_then(parse_key) {
        return Ok(known.insert(stored).clone());
    }
    if let Some(known) = known {
        return Ok(known.clone());
    }
    let mut random = [0; 32];
    SystemRandom::new().fill(&mut random).map_err(|_| DereferenceError::Random)?;
    Ok(known.insert(BeaconKey::new(random)).clone())
}

fn parse_key(secret: &DynamicObject) -> Option<BeaconKey> {
    let secret: Secret = typed(secret)?;
    BeaconKey::stored(&secret.data?.get(SECRET_KEY)?.0)
}
