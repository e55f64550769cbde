//! Imports the configuration of MetalLB before v0.13: the ConfigMap of v0.8 to v0.12, and the kind
//! `AddressPool`.
//!
//! It is converted into objects of the current kinds, which the operator owns like everything else that it
//! renders, until a user takes them over ([`ownership`](crate::ownership)). An error deletes nothing: while a
//! source has an error, everything that was imported from it before is kept, and the objects of the entry
//! with the error are not changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crds::names::LABEL_IMPORTED_FROM;
use crds::{LegacyAddressPool, ObjectMeta, Resource};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use rules::legacy::{Converted, convert, convert_address_pools};
use rules::{ConfigKind as _, Configuration, Finding, Objects, Severity, for_each_config_kind};

use crate::finding::SpecFinding;
use crate::meta::StackMeta;
use crate::object::{Key, Object};

/// Value of [`LABEL_IMPORTED_FROM`](crds::names::LABEL_IMPORTED_FROM).
pub const CONFIG_MAP: &str = "configmap";
/// Value of [`LABEL_IMPORTED_FROM`](crds::names::LABEL_IMPORTED_FROM).
pub const ADDRESS_POOL: &str = "addresspool";

/// The annotation of every object imported from a ConfigMap, with the name of the ConfigMap. It distinguishes
/// a deleted ConfigMap from a stack that now names another one.
pub const ANNOTATION_CONFIG_MAP: &str = "lbstack.dev/config-map";

/// The legacy configuration that there is to import.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The ConfigMap, if there is one.
    pub config_map: Option<ConfigMapText>,
    /// The name of the ConfigMap in the spec of the stack.
    pub named: String,
    /// The names of the ConfigMaps from which existing objects were imported, according to
    /// [`ANNOTATION_CONFIG_MAP`]; an empty string stands for an unknown name.
    pub imported_config_maps: BTreeSet<String>,
    /// Every `AddressPool` in the stack's namespace.
    pub address_pools: Vec<Arc<LegacyAddressPool>>,
    /// `AddressPool`s that cannot be decoded: name and reason.
    pub undecoded: Vec<(String, String)>,
    /// The sources from which existing objects were imported.
    pub imported: BTreeSet<&'static str>,
    /// Sources that have not been listed yet: what was imported from them is kept.
    pub unknown: Vec<&'static str>,
}

/// The content of the legacy ConfigMap.
#[derive(Clone, Debug)]
pub struct ConfigMapText {
    /// Its name.
    pub name: String,
    /// The key with the configuration.
    pub key: String,
    /// The text of each key.
    pub data: BTreeMap<String, String>,
}

impl ConfigMapText {
    /// Whether any of its texts looks like a MetalLB configuration, even an invalid one. Its name, `config`,
    /// is common.
    fn is_metallb_configuration(&self) -> bool {
        self.data.values().any(|text| has_metallb_keys(text))
    }
}

/// Whether `text` has keys that only MetalLB's configuration has, or entries like its pools. It is not
/// parsed, because it may be indented too far, be under a mistyped key, or be invalid YAML.
fn has_metallb_keys(text: &str) -> bool {
    const KEYS: [&str; 5] =
        ["address-pools", "bgp-communities", "bfd-profiles", "peer-address", "avoid-buggy-ips"];
    let is_comment = |word: &&str| word.starts_with('#');
    let words = text.lines().flat_map(|line| {
        let words = line.split([' ', '\t', ',', '{', '}', '[', ']']).filter(|word| !word.is_empty());
        words.take_while(move |word| !is_comment(word))
    });
    let words: Vec<&str> = words.collect();
    let quotes = ['"', '\''];
    let has_key = |key: &str| {
        let mut keys = words.iter().filter_map(|word| word.strip_suffix(':'));
        keys.any(|found| found.trim_matches(quotes) == key)
    };
    let is_announcing_protocol = |pair: &[&str]| {
        let protocol = pair[1].trim_matches(quotes).to_ascii_lowercase();
        let key = pair[0].trim_end_matches(':').trim_matches(quotes);
        key == "protocol" && matches!(protocol.as_str(), "layer2" | "bgp")
    };
    KEYS.into_iter().any(has_key) || has_key("addresses") && words.windows(2).any(is_announcing_protocol)
}

/// The result of an import.
#[derive(Clone, Debug, Default)]
pub(crate) struct Imported {
    /// The objects, without those whose name is taken.
    pub(crate) objects: Vec<Object>,
    pub(crate) findings: Vec<SpecFinding>,
    /// Whether configuration is left out because of an error.
    pub(crate) degraded: bool,
    /// Sources with an error: everything imported from them before is kept.
    pub(crate) retained: Vec<&'static str>,
    /// Objects of entries with an error, which are left unchanged if they exist.
    pub(crate) frozen: BTreeSet<Key>,
}

/// Imports `sources` into the namespace of the stack. An object that has the name of an `inline` one, or of a
/// rejected inline pool, is left out.
pub(crate) fn import(
    sources: &Sources,
    meta: &StackMeta,
    inline: &[Object],
    rejected: &[String],
) -> Imported {
    let mut imported = Imported { retained: sources.unknown.clone(), ..Imported::default() };
    let from_config_map = if let Some(map) = &sources.config_map {
        imported.convert_config_map(map, &meta.namespace, sources.imported.contains(CONFIG_MAP))
    } else {
        imported.on_missing_config_map(sources);
        Converted::default()
    };
    let from_address_pools = imported.convert_address_pools(sources, &meta.namespace);
    let invalid = from_config_map.invalid.iter().chain(&from_address_pools.invalid);
    imported.frozen = invalid.filter_map(Key::of).collect();
    let mut objects = converted_objects(meta, CONFIG_MAP, &sources.named, from_config_map.objects);
    objects.extend(converted_objects(meta, ADDRESS_POOL, &sources.named, from_address_pools.objects));
    let mut taken: BTreeSet<Key> = inline.iter().map(Object::key).collect();
    let is_rejected = |key: &Key| key.kind.is_pool_object() && rejected.contains(&key.name);
    let (objects, shadowed): (Vec<Object>, Vec<Object>) = objects.into_iter().partition(|object| {
        let key = object.key();
        !is_rejected(&key) && taken.insert(key)
    });
    imported.validate(inline, &objects);
    imported.findings.extend(shadowed.iter().map(shadowed_warning));
    imported.objects = objects;
    imported
}

impl Imported {
    /// Converts the ConfigMap. `imported_before`: objects exist that were imported from a ConfigMap.
    fn convert_config_map(
        &mut self,
        map: &ConfigMapText,
        namespace: &str,
        imported_before: bool,
    ) -> Converted {
        let ConfigMapText { name, key, data } = map;
        if !imported_before && !map.is_metallb_configuration() {
            return Converted::default();
        }
        let Some(text) = data.get(key) else {
            self.mark_degraded(CONFIG_MAP);
            self.findings.push(SpecFinding {
                field: format!("ConfigMap {name}"),
                value: String::new(),
                problem: format!("has no key {key:?}"),
                hint: format!(
                    "store the configuration under this key, or set spec.legacyConfigMap.key; {KEPT}"
                ),
            });
            return Converted::default();
        };
        match convert(text, name, namespace) {
            Ok((converted, findings)) => {
                if findings.iter().any(|finding| finding.severity == Severity::Error) {
                    self.mark_degraded(CONFIG_MAP);
                }
                self.findings.extend(findings.into_iter().map(source_finding));
                converted
            }
            Err(unreadable) if unreadable.empty && !imported_before => Converted::default(),
            Err(unreadable) => {
                self.mark_degraded(CONFIG_MAP);
                let hint = if unreadable.empty {
                    format!(
                        "to remove what was imported, delete the ConfigMap or write address-pools: []; {KEPT}"
                    )
                } else {
                    format!("correct the text; {KEPT}")
                };
                let field = format!("ConfigMap {name} line {}", unreadable.line);
                self.findings.push(SpecFinding {
                    field,
                    value: String::new(),
                    problem: unreadable.problem,
                    hint,
                });
                Converted::default()
            }
        }
    }

    /// The ConfigMap that the stack names does not exist. If it was imported before, it has been deleted, and
    /// so is what was imported from it; a name that was never imported is an error.
    fn on_missing_config_map(&mut self, sources: &Sources) {
        let Sources { named, imported_config_maps: imported, unknown, .. } = sources;
        if unknown.contains(&CONFIG_MAP) || imported.is_empty() || imported.contains(named) {
            return;
        }
        self.mark_degraded(CONFIG_MAP);
        let before: Vec<&str> = imported.iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
        let before = if before.is_empty() { "another ConfigMap".to_owned() } else { before.join(", ") };
        self.findings.push(SpecFinding {
            field: "spec.legacyConfigMap.name".to_owned(),
            value: named.clone(),
            problem: format!(
                "there is no ConfigMap of this name, and the configuration was imported from {before}"
            ),
            hint: format!(
                "correct the name, or create the ConfigMap (with address-pools: [] to remove what was \
                 imported); {KEPT}"
            ),
        });
    }

    /// Converts `AddressPool`s.
    fn convert_address_pools(&mut self, sources: &Sources, namespace: &str) -> Converted {
        let (converted, findings) = convert_address_pools(&sources.address_pools, namespace);
        if findings.iter().any(|finding| finding.severity == Severity::Error) {
            self.mark_degraded(ADDRESS_POOL);
        }
        self.findings.extend(findings.into_iter().map(source_finding));
        for (name, why) in &sources.undecoded {
            self.mark_degraded(ADDRESS_POOL);
            self.findings.push(SpecFinding {
                field: format!("AddressPool {name}"),
                value: String::new(),
                problem: format!("cannot be decoded: {why}"),
                hint: format!("correct it; {KEPT}"),
            });
        }
        converted
    }

    /// `source` has an error: what was imported from it is kept.
    fn mark_degraded(&mut self, source: &'static str) {
        self.retained.push(source);
        self.degraded = true;
    }

    /// Validates the imported objects together with those of the inline pools, with the same rules that apply
    /// to all objects. Objects that are invalid, and those that they conflict with, are left unchanged.
    fn validate(&mut self, inline: &[Object], imported: &[Object]) {
        let (_, findings) = Configuration::from_objects(&ordered_by_age(inline.iter().chain(imported)));
        let keys: BTreeSet<Key> = imported.iter().map(Object::key).collect();
        for finding in findings.iter().filter(|finding| finding.severity == Severity::Error) {
            let Some(key) = Key::of(&finding.object).filter(|key| keys.contains(key)) else { continue };
            self.frozen.extend(finding.related.as_ref().and_then(Key::of));
            if !self.frozen.insert(key) {
                continue;
            }
            self.retained.extend([CONFIG_MAP, ADDRESS_POOL]);
            self.degraded = true;
            self.findings.push(SpecFinding {
                field: format!("imported {} {}", finding.object, finding.field),
                value: finding.value.clone(),
                problem: finding.problem.clone(),
                hint: finding.hint.clone(),
            });
        }
    }
}

/// The objects of `all` as the rules expect them, each younger than the one before it.
fn ordered_by_age<'a>(all: impl Iterator<Item = &'a Object>) -> Objects {
    fn aged<K: Resource + Clone>(object: &K, second: i64) -> Arc<K> {
        let mut object = object.clone();
        object.meta_mut().creation_timestamp = Timestamp::from_second(second).ok().map(Time);
        Arc::new(object)
    }
    let mut objects = Objects::default();
    for (object, second) in all.zip(0..) {
        for_each_config_kind!(K => if let Ok(object) = <&K>::try_from(object) {
            K::of_mut(&mut objects).push(aged(object, second));
        });
    }
    objects
}

const KEPT: &str = "until then the last imported configuration stays in force";

/// A finding on a source of imported objects.
fn source_finding(finding: Finding) -> SpecFinding {
    SpecFinding {
        field: format!("{} {}", finding.object, finding.field),
        value: finding.value,
        problem: finding.problem,
        hint: finding.hint,
    }
}

/// The warning about an imported object whose name is taken.
fn shadowed_warning(object: &Object) -> SpecFinding {
    SpecFinding {
        field: format!("imported {}", object.key()),
        value: String::new(),
        problem: "is ignored: an inline pool of the stack, or the ConfigMap, has an object of the same name"
            .to_owned(),
        hint: "remove it from the legacy configuration, or rename one of the two".to_owned(),
    }
}

/// The converted objects of `source`; `config_map` is the name of the ConfigMap.
fn converted_objects(
    meta: &StackMeta,
    source: &str,
    config_map: &str,
    mut converted: Objects,
) -> Vec<Object> {
    let own = |object: &ObjectMeta| {
        let mut own = meta.namespaced(object.name.as_deref().unwrap_or_default(), None);
        let labels = own.labels.get_or_insert_default();
        labels.insert(LABEL_IMPORTED_FROM.to_owned(), source.to_owned());
        labels.extend(object.labels.clone().into_iter().flatten());
        own.annotations.clone_from(&object.annotations);
        if source == CONFIG_MAP {
            let annotations = own.annotations.get_or_insert_default();
            annotations.insert(ANNOTATION_CONFIG_MAP.to_owned(), config_map.to_owned());
        }
        own
    };
    let mut objects = Vec::new();
    for_each_config_kind!(
        K => objects.extend(with_metadata(std::mem::take(K::of_mut(&mut converted)), own))
    );
    objects
}

/// Replaces the metadata of converted objects by that of the stack.
fn with_metadata<K: Resource + Into<Object> + Clone>(
    objects: Vec<Arc<K>>,
    metadata: impl Fn(&ObjectMeta) -> ObjectMeta,
) -> impl Iterator<Item = Object> {
    objects.into_iter().map(move |object| {
        let mut object = Arc::unwrap_or_clone(object);
        *object.meta_mut() = metadata(object.meta());
        object.into()
    })
}
