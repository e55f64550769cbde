//! Objects of the API, decoded one by one.
//!
//! A list that is decoded as a whole is lost as a whole: one object of a newer version, or one that an older definition
//! has pruned, and nothing of the kind is known any more. So each object is decoded alone ([`Lenient`]), and what
//! cannot be decoded is reported by name.
//!
//! Managed fields and the annotation in which `kubectl apply` keeps a copy of the object are not even decoded: no process
//! but the operator reads those, and they are the larger half of most objects.

use std::borrow::Cow;
use std::fmt;

use kube::api::{Api, ObjectMeta};
use kube::core::DynamicResourceScope;
use kube::runtime::reflector::ObjectRef;
use kube::{Client, Resource};
use serde::de::{DeserializeOwned, DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// Where the API server keeps who manages which field.
const MANAGED_FIELDS: &str = "managedFields";

/// Where `kubectl apply` keeps a copy of the object.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// An object of a list or of a watch: decoded, or what is known of it. `WHOLE`: with what no process but the operator reads.
#[derive(Clone, Debug)]
pub struct Lenient<K, const WHOLE: bool = false>(pub Result<K, Box<Undecoded>>);

/// An object that cannot be decoded.
#[derive(Clone, Debug)]
pub struct Undecoded {
    /// Its name, namespace, UID and version.
    pub metadata: ObjectMeta,
    /// Its `status`, in which nothing is secret.
    pub status: Value,
    /// Which field does not fit, and why. Values of the object are not part of it: they may be secret.
    pub reason: String,
}

impl<'de, K: DeserializeOwned, const WHOLE: bool> Deserialize<'de> for Lenient<K, WHOLE> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object =
            if WHOLE { Map::deserialize(deserializer)? } else { Part::Object.deserialize(deserializer)? };
        let undecoded = Undecoded {
            metadata: identity(&object),
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
/// Which field does not fit, and why, without values of the object: they may be secret.
pub fn decode<T: DeserializeOwned>(object: Value) -> Result<T, String> {
    serde_path_to_error::deserialize(object)
        .map_err(|error| describe(&error.path().to_string(), &error.inner().to_string()))
}

/// An object of the API without what nobody reads. Where that is counts, not what it is called: an annotation or label may
/// have any name.
#[derive(Clone, Copy)]
enum Part {
    Object,
    Metadata,
    Annotations,
}

impl Part {
    /// Whether nobody reads the entry.
    fn drops(self, key: &str) -> bool {
        match self {
            Self::Object => false,
            Self::Metadata => key == MANAGED_FIELDS,
            Self::Annotations => key == LAST_APPLIED,
        }
    }

    /// What the entry is, if something in it is not read.
    fn entry(self, key: &str) -> Option<Self> {
        match (self, key) {
            (Self::Object, "metadata") => Some(Self::Metadata),
            (Self::Metadata, "annotations") => Some(Self::Annotations),
            _ => None,
        }
    }
}

impl<'de> DeserializeSeed<'de> for Part {
    type Value = Map<String, Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Part {
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
            if self.drops(&key) {
                entries.next_value::<IgnoredAny>()?;
            } else if let Some(part) = self.entry(&key) {
                object.insert(key, entries.next_value_seed(part)?.into());
            } else {
                object.insert(key, entries.next_value()?);
            }
        }
        Ok(object)
    }
}

/// What identifies the object.
fn identity(object: &Map<String, Value>) -> ObjectMeta {
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

/// The reference by which a store finds the object with this metadata.
pub fn reference<K: Resource>(metadata: &ObjectMeta, dynamic: K::DynamicType) -> ObjectRef<K> {
    let mut reference = ObjectRef::new_with(metadata.name.as_deref().unwrap_or_default(), dynamic);
    reference.namespace.clone_from(&metadata.namespace);
    reference
}

/// The path and the message, without the value that serde quotes in it.
fn describe(path: &str, message: &str) -> String {
    // These have names of fields and types, and numbers of items.
    let harmless =
        ["missing field ", "unknown field ", "duplicate field ", "invalid length ", "data did not match "];
    let expected = |what: &str| message.strip_prefix(what)?.rsplit_once(", expected ");
    let typed =
        ["invalid type: ", "invalid value: "].into_iter().find_map(|what| Some((what, expected(what)?)));
    let message = if let Some((what, (found, expected))) = typed {
        // What was found begins with its type and goes on with the value in quotes.
        let kind = found.split(['`', '"', '\'']).next().unwrap_or_default().trim_end();
        format!("{what}{kind}, expected {expected}")
    } else if let Some((_, expected)) = expected("unknown variant ") {
        format!("unknown variant, expected {expected}")
    } else if harmless.iter().any(|beginning| message.starts_with(beginning)) {
        message.to_owned()
    } else {
        // A type says in its own words what is wrong, and may quote the value.
        "is not a valid value".to_owned()
    };
    if path == "." { message } else { format!("{path}: {message}") }
}

impl<K: Resource, const WHOLE: bool> Resource for Lenient<K, WHOLE> {
    type DynamicType = K::DynamicType;
    /// So that an [`Api`] of any scope can be made of it.
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

/// An object of this name that cannot be decoded, as tests need it.
#[cfg(test)]
pub(crate) fn undecodable<K>(name: &str) -> Lenient<K> {
    let metadata = ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() };
    Lenient(Err(Box::new(Undecoded { metadata, status: Value::Null, reason: "missing field `x`".into() })))
}

/// `api`, by `client`, with each object decoded alone.
pub fn lenient<K: Resource, const WHOLE: bool>(
    api: &Api<K>,
    dynamic: &K::DynamicType,
    client: Client,
) -> Api<Lenient<K, WHOLE>> {
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
    fn an_object_that_cannot_be_decoded_takes_no_other_of_its_list_with_it() {
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
    fn why_an_object_cannot_be_decoded_is_said_without_its_values() {
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
        assert_eq!(describe(".", quoted), "invalid value: string, expected a port");
        assert_eq!(describe("status", "missing field `x`"), "status: missing field `x`");
    }

    #[test]
    fn requirement_6_a_value_that_a_type_quotes_in_its_own_words_is_not_repeated() {
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
    fn what_no_process_reads_is_dropped_before_an_object_is_decoded() {
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
    fn requirement_6_annotations_and_labels_of_any_name_hide_no_object() {
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
