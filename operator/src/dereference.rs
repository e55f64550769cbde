//! What the spec points at, and what only the cluster can tell.

use std::collections::BTreeMap;
use std::sync::Arc;

use crds::names::{ANNOTATION_ACCOUNT, BEACON_KEY_SECRET, CONTROLLER, SECRET_KEY, SPEAKER};
use crds::{LegacyConfigMap, LoadBalancerStackSpec};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::SignedDuration;
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use render::health::Workload;
use render::legacy::{ADDRESS_POOL, CONFIG_MAP, ConfigMapText, Sources};
use render::{BeaconKey, Facts, Key, Kind};
use ring::rand::{SecureRandom as _, SystemRandom};

use crate::api::{Api, Error};
use crate::apply::json_of;
use crate::watch::{Caches, Seen};

/// Why the facts are not known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FactsError {
    /// Whether there is a key already cannot be told; a new one must not replace it.
    #[error("Secret {BEACON_KEY_SECRET} cannot be read: {0}")]
    Secret(Error),
    /// The system gives no random bytes.
    #[error("the system gives no random bytes for Secret {BEACON_KEY_SECRET}")]
    Random,
}

/// What is remembered of the facts, for when the object that tells is missing.
#[derive(Debug, Default)]
pub(crate) struct Known {
    beacon_key: Option<BeaconKey>,
    nodes: i32,
    /// The uids that the service accounts had when they were first seen.
    accounts: BTreeMap<&'static str, String>,
}

/// Gathers the facts for `spec`.
pub(crate) async fn facts(
    api: &Api,
    caches: &mut Caches,
    spec: &LoadBalancerStackSpec,
    image: Option<&String>,
    known: &mut Known,
) -> Result<Facts, FactsError> {
    let namespace = &spec.namespace;
    let speaker = workload(caches, namespace, Kind::DaemonSet, SPEAKER);
    let speaker = speaker.map(|live| Workload::daemon_set(&json_of(&live)));
    if let Some(speaker) = speaker.filter(|speaker| speaker.observed) {
        known.nodes = speaker.desired;
    }
    let beacon_key = beacon_key(api, caches, namespace, &mut known.beacon_key).await?;
    let legacy = legacy(caches, namespace, &spec.legacy_config_map).await;
    let renewed_accounts = renewed_accounts(caches, namespace, &mut known.accounts);
    Ok(Facts { default_image: image.cloned(), beacon_key, nodes: known.nodes, legacy, renewed_accounts })
}

/// The clocks of two API servers differ by less.
const CLOCKS_DIFFER: SignedDuration = SignedDuration::from_secs(30);

/// Accounts that were made anew after the workload that uses them: its pods have tokens of the former ones, which count no
/// more. That is so if this process has seen another uid, if the workload was rolled out for it already, or if the account is
/// younger than the workload: at an install both are made in this order, and API servers whose clocks differ may give the
/// times.
fn renewed_accounts(
    caches: &Caches,
    namespace: &str,
    seen: &mut BTreeMap<&'static str, String>,
) -> BTreeMap<&'static str, String> {
    let renewed = |(kind, name): (Kind, &'static str)| {
        let account = workload(caches, namespace, Kind::ServiceAccount, name)?.metadata;
        let uid = account.uid?;
        let changed = *seen.entry(name).or_insert_with(|| uid.clone()) != uid;
        let user = workload(caches, namespace, kind, name)?;
        let rolled_out = &user.data["spec"]["template"]["metadata"]["annotations"][ANNOTATION_ACCOUNT];
        let after = account.creation_timestamp?.0.duration_since(user.metadata.creation_timestamp?.0);
        (changed || rolled_out.is_string() || after > CLOCKS_DIFFER).then_some((name, uid))
    };
    [(Kind::Deployment, CONTROLLER), (Kind::DaemonSet, SPEAKER)].into_iter().filter_map(renewed).collect()
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
    let known = [(CONFIG_MAP, caches.knows_config_map()), (ADDRESS_POOL, caches.knows_address_pools())];
    let mut sources = Sources {
        config_map,
        named: from.name.clone(),
        imported_config_maps: caches.imported_config_maps(),
        unknown: known.into_iter().filter(|(_, known)| !known).map(|(source, _)| source).collect(),
        imported: caches.imported(&[CONFIG_MAP, ADDRESS_POOL]),
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

/// The object as mirrored.
pub(crate) fn workload(caches: &Caches, namespace: &str, kind: Kind, name: &str) -> Option<DynamicObject> {
    let key = Key { kind, namespace: Some(namespace.to_owned()), name: name.to_owned() };
    match caches.get(&key) {
        Seen::There(object) => Some((*object).clone()),
        Seen::NotThere => None,
    }
}

/// The key in use. A Secret that was deleted comes back with the key that it had, as long as this process knows
/// it; one that somebody gave another key keeps that.
async fn beacon_key(
    api: &Api,
    caches: &Caches,
    namespace: &str,
    known: &mut Option<BeaconKey>,
) -> Result<BeaconKey, FactsError> {
    let key =
        Key { kind: Kind::Secret, namespace: Some(namespace.to_owned()), name: BEACON_KEY_SECRET.to_owned() };
    let secret = match caches.get(&key) {
        Seen::There(object) => Some((*object).clone()),
        Seen::NotThere => api.get(&key).await.map_err(FactsError::Secret)?,
    };
    if let Some(stored) = secret.as_ref().and_then(stored) {
        return Ok(known.insert(stored).clone());
    }
    if let Some(known) = known {
        return Ok(known.clone());
    }
    let mut random = [0; 32];
    SystemRandom::new().fill(&mut random).map_err(|_| FactsError::Random)?;
    Ok(known.insert(BeaconKey::new(random)).clone())
}

fn stored(secret: &DynamicObject) -> Option<BeaconKey> {
    let secret: Secret = serde_json::from_value(json_of(secret)).ok()?;
    BeaconKey::stored(&secret.data?.get(SECRET_KEY)?.0)
}
