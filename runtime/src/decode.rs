//! Decoding of API objects one by one.
//!
//! If a list is decoded as a whole, one object that does not fit (of a newer version, or pruned by an older
//! definition) makes the whole list fail. So each object is decoded on its own ([`Lenient`]), and one that
//! cannot be decoded is reported by name.
//!
//! Managed fields, and the annotation in which `kubectl apply` keeps a copy of the object, are skipped: only
//! the operator reads them, and they are more than half of most objects.

use std::borrow::Cow;
use std::fmt;

use kube::api::{Api, ObjectMeta};
use kube::core::DynamicResourceScope;
use kube::runtime::reflector::ObjectRef;
use kube::{Client, Resource};
use serde::de::{DeserializeOwned, DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// The field in which the API server records which manager owns which field.
const MANAGED_FIELDS: &str = "managedFields";

/// The annotation in which `kubectl apply` keeps a copy of the object.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// An object of a list or of a watch: decoded, or what could be read of it. `FULL`: with the fields that only
/// the operator reads.
#[derive(Clone, Debug)]
pub struct Lenient<K, const FULL: bool = false>(pub Result<K, Box<Undecoded>>);

/// An object that cannot be decoded.
#[derive(Clone, Debug)]
pub struct Undecoded {
    /// Its name, namespace, UID and version.
    pub metadata: ObjectMeta,
    /// Its `status`, which contains no secrets.
    pub status: Value,
    /// Which field is invalid, and why. It contains no values of the object, which may be secret.
    pub reason: String,
}

impl<'de, K: DeserializeOwned, const FULL: bool> Deserialize<'de> for Lenient<K, FULL> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object =
            if FULL { Map::deserialize(deserializer)? } else { Pruned::Object.deserialize(deserializer)? };
        let undecoded = Undecoded {
            metadata: identifying_metadata(&object),
            status: object.get("status").cloned().unwrap_or_default(),
            reason: String::new(),
        };
        let decoded = decode(Value::Object(object));
        Ok(Self(decoded.map_err(|reason| Box::new(Undecoded { reason, ..undecoded }))))
    }
}

/// Decodes one object.
///
/// # Errors
///
/// Which field is invalid, and why, without values of the object, which may be secret.
pub fn decode<T: DeserializeOwned>(object: Value) -> Result<T, String> {
    serde_path_to_error::deserialize(object)
        .map_err(|error| without_values(&error.path().to_string(), &error.inner().to_string()))
}

/// Which part of an API object is being decoded. Fields are skipped by their path, not by their name alone:
/// an annotation or label may have any name.
#[derive(Clone, Copy)]
enum Pruned {
    Object,
    Metadata,
    Annotations,
}

impl Pruned {
    /// Whether the entry is skipped.
    fn skips(self, key: &str) -> bool {
        match self {
            Self::Object => false,
            Self::Metadata => key == MANAGED_FIELDS,
            Self::Annotations => key == LAST_APPLIED,
        }
    }

    /// The part that the entry is, if something in it is skipped.
    fn nested(self, key: &str) -> Option<Self> {
        match (self, key) {
            (Self::Object, "metadata") => Some(Self::Metadata),
            (Self::Metadata, "annotations") => Some(Self::Annotations),
            _ => None,
        }
    }
}

impl<'de> DeserializeSeed<'de> for Pruned {
    type Value = Map<String, Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Pruned {
    type Value = Map<String, Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Map::new())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if self.skips(&key) {
                entries.next_value::<IgnoredAny>()?;
            } else if let Some(part) = self.nested(&key) {
                object.insert(key, entries.next_value_seed(part)?.into());
            } else {
                object.insert(key, entries.next_value()?);
            }
        }
        Ok(object)
    }
}

/// The metadata that identify the object.
fn identifying_metadata(object: &Map<String, Value>) -> ObjectMeta {
    let metadata = object.get("metadata");
    let text = |field: &str| metadata?.get(field)?.as_str().map(ToOwned::to_owned);
    ObjectMeta {
        name: text("name"),
        namespace: text("namespace"),
        uid: text("uid"),
        resource_version: text("resourceVersion"),
        ..ObjectMeta::default()
    }
}

/// The key of the object with this metadata in a store.
pub fn object_ref<K: Resource>(metadata: &ObjectMeta, dynamic: K::DynamicType) -> ObjectRef<K> {
    let mut reference = ObjectRef::new_with(metadata.name.as_deref().unwrap_or_default(), dynamic);
    reference.namespace.clone_from(&metadata.namespace);
    reference
}

/// The path and the message of an error, without the value that serde quotes in it.
fn without_values(path: &str, message: &str) -> String {
    // These contain names of fields and types, and numbers of items.
    let safe_prefixes =
        ["missing field ", "unknown field ", "duplicate field ", "invalid length ", "data did not match "];
    let expected = |what: &str| message.strip_prefix(what)?.rsplit_once(", expected ");
    let typed =
        ["invalid type: ", "invalid value: "].into_iter().find_map(|what| Some((what, expected(what)?)));
    let message = if let Some((what, (found, expected))) = typed {
        // The found value starts with its type, followed by the value in quotes.
        let kind = found.split(['`', '"', '\'']).next().unwrap_or_default().trim_end();
        format!("{what}{kind}, expected {expected}")
    } else if let Some((_, expected)) = expected("unknown variant ") {
        format!("unknown variant, expected {expected}")
    } else if safe_prefixes.iter().any(|prefix| message.starts_with(prefix)) {
        message.to_owned()
    } else {
        // A custom message of a type, which may quote the value.
        "is not a valid value".to_owned()
    };
    if path == "." { message } else { format!("{path}: {message}") }
}

impl<K: Resource, const FULL: bool> Resource for Lenient<K, FULL> {
    type DynamicType = K::DynamicType;
    /// Allows an [`Api`] of any scope.
    type Scope = DynamicResourceScope;

    fn kind(dt: &K::DynamicType) -> Cow<'_, str> {
        K::kind(dt)
    }

    fn group(dt: &K::DynamicType) -> Cow<'_, str> {
        K::group(dt)
    }

    fn version(dt: &K::DynamicType) -> Cow<'_, str> {
        K::version(dt)
    }

    fn plural(dt: &K::DynamicType) -> Cow<'_, str> {
        K::plural(dt)
    }

    fn meta(&self) -> &ObjectMeta {
        self.0.as_ref().map_or_else(|undecoded| &undecoded.metadata, K::meta)
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.0.as_mut().map_or_else(|undecoded| &mut undecoded.metadata, K::meta_mut)
    }
}

/// An object of this name that cannot be decoded, for tests.
#[cfg(test)]
pub(crate) fn undecodable<K>(name: &str) -> Lenient<K> {
    let metadata = ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() };
    Lenient(Err(Box::new(Undecoded { metadata, status: Value::Null, reason: "missing field `x`".into() })))
}

/// `api` with `client`, with each object decoded on its own.
pub fn lenient<K: Resource, const FULL: bool>(
    api: &Api<K>,
    dynamic: &K::DynamicType,
    client: Client,
) -> Api<Lenient<K, FULL>> {
    match api.namespace() {
        Some(namespace) => Api::namespaced_with(client, namespace, dynamic),
        None => Api::all_with(client, dynamic),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Service;
    use kube::ResourceExt;
    use kube::core::ObjectList;
    use serde_json::json;

    use super::*;

    fn list(items: Value) -> Vec<Lenient<Service>> {
        let text = json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": items}).to_string();
        serde_json::from_str::<ObjectList<Lenient<Service>>>(&text).unwrap().items
    }

    #[test]
    fn an_object_that_cannot_be_decoded_does_not_affect_the_others_of_its_list() {
        let bad = json!({"metadata": {"name": "bad", "namespace": "ns"}, "spec": {"ports": [{"port": "http"}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "10.0.0.1"}]}}});
        let items = list(json!([{"metadata": {"name": "a"}}, bad, {"metadata": {"name": "b"}}]));
        assert_eq!(items.iter().map(ResourceExt::name_any).collect::<Vec<_>>(), ["a", "bad", "b"]);
        assert!(items[0].0.is_ok() && items[2].0.is_ok());
        let undecoded = items[1].0.as_ref().unwrap_err();
        assert_eq!(undecoded.metadata.namespace.as_deref(), Some("ns"));
        assert_eq!(undecoded.status.pointer("/loadBalancer/ingress/0/ip"), Some(&json!("10.0.0.1")));
        assert_eq!(undecoded.reason, "spec.ports[0].port: invalid type: string, expected i32");
    }

    #[test]
    fn the_reason_why_an_object_cannot_be_decoded_contains_none_of_its_values() {
        for secret in [json!(31_337), json!(true), json!(31_337.5), json!(["31337"]), json!({"31337": 1})] {
            let reason = list(json!([{"metadata": {"name": "a"}, "spec": {"externalName": secret}}]))
                .remove(0)
                .0
                .unwrap_err()
                .reason;
            assert!(reason.starts_with("spec.externalName: invalid type: "), "{reason}");
            assert!(!reason.contains("31337") && !reason.contains("true"), "{reason}");
        }
        let quoted = r#"invalid value: string "a, expected b, `c`", expected a port"#;
        assert_eq!(without_values(".", quoted), "invalid value: string, expected a port");
        assert_eq!(without_values("status", "missing field `x`"), "status: missing field `x`");
    }

    #[test]
    fn requirement_6_a_value_that_a_custom_message_quotes_is_removed() {
        #[derive(Debug, Deserialize)]
        #[serde(rename_all = "lowercase")]
        enum Protocol {
            Layer2,
        }
        #[derive(Debug)]
        struct Checked;
        impl<'de> Deserialize<'de> for Checked {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Err(serde::de::Error::custom(format!("{text} is too short")))
            }
        }
        let reason = decode::<Protocol>(json!("s3cret`, expected `x")).unwrap_err();
        assert_eq!(reason, "unknown variant, expected `layer2`");
        assert!(matches!(decode(json!("layer2")), Ok(Protocol::Layer2)));
        assert_eq!(decode::<Checked>(json!("s3cret")).unwrap_err(), "is not a valid value");
        let time = json!({"creationTimestamp": "s3cret"});
        let reason = decode::<ObjectMeta>(time).unwrap_err();
        assert!(reason.starts_with("creationTimestamp: ") && !reason.contains("s3cret"), "{reason}");
    }

    #[test]
    fn fields_that_no_process_reads_are_skipped() {
        let annotations = json!({LAST_APPLIED: "{}", "kept": "yes"});
        let fields = json!([{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}]);
        let labels = json!({"managed": "stays", "metadata": "stays"});
        let metadata =
            json!({"name": "a", "annotations": annotations, "labels": labels, "managedFields": fields});
        let service = list(json!([{"metadata": metadata}])).remove(0).0.unwrap();
        assert_eq!(service.metadata.managed_fields, None);
        assert_eq!(service.annotations().keys().collect::<Vec<_>>(), ["kept"]);
        assert_eq!(service.labels().keys().collect::<Vec<_>>(), ["managed", "metadata"]);
    }

    #[test]
    fn requirement_6_annotations_and_labels_of_any_name_are_kept() {
        for name in ["metadata", "annotations", MANAGED_FIELDS] {
            let metadata = json!({"name": "a", "annotations": {name: "x"}, "labels": {name: "x"}});
            let spec = json!({"selector": {name: "x"}});
            let service = list(json!([{"metadata": metadata, "spec": spec}])).remove(0).0.unwrap();
            assert_eq!(service.annotations().get(name).map(String::as_str), Some("x"));
            assert_eq!(service.labels().get(name).map(String::as_str), Some("x"));
            assert_eq!(service.spec.unwrap().selector.unwrap().get(name).map(String::as_str), Some("x"));
        }
        assert!(list(json!([{"metadata": {"name": "a", "annotations": null}}])).remove(0).0.is_ok());
    }
}
