//! The configuration of MetalLB before v0.13, imported: the ConfigMap of v0.8 to v0.12, and the kind `AddressPool`.
//!
//! What it says becomes today's objects, which are the operator's as everything else that it renders, until a user takes
//! them over ([`ownership`](crate::ownership)). An error takes nothing away: as long as a source has one, everything
//! that was imported from it before stays, and the objects of the entry with the error stay as they are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crds::names::LABEL_IMPORTED_FROM;
use crds::{LegacyAddressPool, ObjectMeta, Resource};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use rules::legacy::{Converted, convert, convert_address_pools};
use rules::{ConfigKind as _, Configuration, Finding, Objects, Severity, for_each_config_kind};

use crate::validate::Fault;
use crate::{Key, Object, ValidatedStack, meta};

/// Value of [`LABEL_IMPORTED_FROM`](crds::names::LABEL_IMPORTED_FROM).
pub const CONFIG_MAP: &str = "configmap";
/// Value of [`LABEL_IMPORTED_FROM`](crds::names::LABEL_IMPORTED_FROM).
pub const ADDRESS_POOL: &str = "addresspool";

/// On every object that was imported from a ConfigMap: its name. So an import whose ConfigMap was deleted can be told from one
/// of a stack that names another ConfigMap by now.
pub const ANNOTATION_CONFIG_MAP: &str = "lbstack.dev/config-map";

/// What there is to import.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The ConfigMap, if there is one.
    pub config_map: Option<ConfigMapText>,
    /// The name of the ConfigMap that the stack gives.
    pub named: String,
    /// The names of the ConfigMaps from which existing objects were imported, as [`ANNOTATION_CONFIG_MAP`] has them; an
    /// empty one where that is not known.
    pub imported_config_maps: BTreeSet<String>,
    /// Every `AddressPool` in the stack's namespace.
    pub address_pools: Vec<Arc<LegacyAddressPool>>,
    /// `AddressPool`s that cannot be decoded: the name of each, and why.
    pub undecoded: Vec<(String, String)>,
    /// From which of the two objects exist that were imported from it.
    pub imported: BTreeSet<&'static str>,
    /// Of which of the two it is not known whether there are any: what was imported from it stays.
    pub unknown: Vec<&'static str>,
}

/// The ConfigMap as it is.
#[derive(Clone, Debug)]
pub struct ConfigMapText {
    /// Its name.
    pub name: String,
    /// The key that the configuration is under.
    pub key: String,
    /// What is under each of its keys.
    pub data: BTreeMap<String, String>,
}

impl ConfigMapText {
    /// Whether any of its texts is a configuration of MetalLB, be it a wrong one. Its name, `config`, is one that many use.
    fn is_of_metallb(&self) -> bool {
        self.data.values().any(|text| is_configuration(text))
    }
}

/// Whether `text` has keys that only MetalLB's configuration has, or entries like its pools. It may be nested once too
/// often, under a mistyped key, or no YAML: so it is not parsed.
fn is_configuration(text: &str) -> bool {
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
    let is_announced = |pair: &[&str]| {
        let protocol = pair[1].trim_matches(quotes).to_ascii_lowercase();
        let key = pair[0].trim_end_matches(':').trim_matches(quotes);
        key == "protocol" && matches!(protocol.as_str(), "layer2" | "bgp")
    };
    KEYS.into_iter().any(has_key) || has_key("addresses") && words.windows(2).any(is_announced)
}

/// What was imported, and what is to be said about it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Imported {
    /// The name of the ConfigMap.
    config_map: String,
    from_config_map: Converted,
    from_address_pools: Converted,
    pub(crate) faults: Vec<Fault>,
    /// Something was left out.
    pub(crate) spoiled: bool,
    /// Sources with an error: whatever was imported from them before stays.
    pub(crate) stays: Vec<&'static str>,
    /// Objects of an entry with an error, which therefore stay as they are if they exist.
    pub(crate) frozen: BTreeSet<Key>,
}

pub(crate) fn import(sources: &Sources, namespace: &str) -> Imported {
    let mut imported =
        Imported { stays: sources.unknown.clone(), config_map: sources.named.clone(), ..Imported::default() };
    if let Some(config_map) = &sources.config_map {
        imported.config_map(config_map, namespace, sources.imported.contains(CONFIG_MAP));
    } else {
        imported.no_config_map(sources);
    }
    imported.address_pools(sources, namespace);
    let faulty = imported.from_config_map.invalid.iter().chain(&imported.from_address_pools.invalid);
    imported.frozen = faulty.filter_map(Key::of).collect();
    imported
}

impl Imported {
    fn config_map(&mut self, map: &ConfigMapText, namespace: &str, imported_before: bool) {
        let ConfigMapText { name, key, data } = map;
        if !imported_before && !map.is_of_metallb() {
            return;
        }
        let Some(text) = data.get(key) else {
            self.spoil(CONFIG_MAP);
            self.faults.push(Fault {
                field: format!("ConfigMap {name}"),
                value: String::new(),
                problem: format!("has no key {key:?}"),
                remedy: format!("put the configuration under it, or set spec.legacyConfigMap.key; {STAYS}"),
            });
            return;
        };
        match convert(text, name, namespace) {
            Ok((converted, findings)) => {
                self.from_config_map = converted;
                if findings.iter().any(|finding| finding.severity == Severity::Error) {
                    self.spoil(CONFIG_MAP);
                }
                self.faults.extend(findings.into_iter().map(of_source));
            }
            Err(unreadable) if unreadable.empty && !imported_before => {}
            Err(unreadable) => {
                self.spoil(CONFIG_MAP);
                let remedy = if unreadable.empty {
                    format!(
                        "to remove what was imported, delete the ConfigMap or write address-pools: []; {STAYS}"
                    )
                } else {
                    format!("correct the text; {STAYS}")
                };
                let field = format!("ConfigMap {name} line {}", unreadable.line);
                self.faults.push(Fault { field, value: String::new(), problem: unreadable.problem, remedy });
            }
        }
    }

    /// There is no ConfigMap of the name that the stack gives. If it was imported before, it has been deleted, and so is what
    /// was imported from it; a name under which nothing was ever imported is an error.
    fn no_config_map(&mut self, sources: &Sources) {
        let Sources { named, imported_config_maps: imported, unknown, .. } = sources;
        if unknown.contains(&CONFIG_MAP) || imported.is_empty() || imported.contains(named) {
            return;
        }
        self.spoil(CONFIG_MAP);
        let before: Vec<&str> = imported.iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
        let before = if before.is_empty() { "another ConfigMap".to_owned() } else { before.join(", ") };
        self.faults.push(Fault {
            field: "spec.legacyConfigMap.name".to_owned(),
            value: named.clone(),
            problem: format!(
                "there is no ConfigMap of this name, and the configuration was imported from {before}"
            ),
            remedy: format!(
                "correct the name, or create the ConfigMap (with address-pools: [] to remove what was imported); {STAYS}"
            ),
        });
    }

    fn address_pools(&mut self, sources: &Sources, namespace: &str) {
        let (converted, findings) = convert_address_pools(&sources.address_pools, namespace);
        self.from_address_pools = converted;
        if findings.iter().any(|finding| finding.severity == Severity::Error) {
            self.spoil(ADDRESS_POOL);
        }
        self.faults.extend(findings.into_iter().map(of_source));
        for (name, why) in &sources.undecoded {
            self.spoil(ADDRESS_POOL);
            self.faults.push(Fault {
                field: format!("AddressPool {name}"),
                value: String::new(),
                problem: format!("cannot be decoded: {why}"),
                remedy: format!("correct it; {STAYS}"),
            });
        }
    }

    /// Something of `source` is wrong.
    fn spoil(&mut self, source: &'static str) {
        self.stays.push(source);
        self.spoiled = true;
    }

    /// Validates what was imported as everybody else will, beside the objects that inline pools stand for.
    /// What is invalid, and what it conflicts with, stays as it is.
    pub(crate) fn validate(&mut self, inline: &[Object], imported: &[Object]) {
        let (_, findings) = Configuration::from_objects(&in_order(inline.iter().chain(imported)));
        let keys: BTreeSet<Key> = imported.iter().map(Object::key).collect();
        for finding in findings.iter().filter(|finding| finding.severity == Severity::Error) {
            let Some(key) = Key::of(&finding.object).filter(|key| keys.contains(key)) else { continue };
            self.frozen.extend(finding.related.as_ref().and_then(Key::of));
            if !self.frozen.insert(key) {
                continue;
            }
            self.stays.extend([CONFIG_MAP, ADDRESS_POOL]);
            self.spoiled = true;
            self.faults.push(Fault {
                field: format!("imported {} {}", finding.object, finding.field),
                value: finding.value.clone(),
                problem: finding.problem.clone(),
                remedy: finding.hint.clone(),
            });
        }
    }
}

/// The objects of `all` as the rules take them, each younger than the one before it.
fn in_order<'a>(all: impl Iterator<Item = &'a Object>) -> Objects {
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

const STAYS: &str = "until then what was imported last stays in force";

/// A finding on a source.
fn of_source(finding: Finding) -> Fault {
    Fault {
        field: format!("{} {}", finding.object, finding.field),
        value: finding.value,
        problem: finding.problem,
        remedy: finding.hint,
    }
}

/// The imported objects; and apart from them those whose name an inline pool or an earlier source has `taken`.
pub(crate) fn objects(stack: &ValidatedStack, mut taken: BTreeSet<Key>) -> (Vec<Object>, Vec<Object>) {
    let sources =
        [(CONFIG_MAP, &stack.imported.from_config_map), (ADDRESS_POOL, &stack.imported.from_address_pools)];
    let all =
        sources.into_iter().flat_map(|(source, converted)| all(stack, source, converted.objects.clone()));
    all.partition(|object| {
        let key = object.key();
        !stack.withholds(&key) && taken.insert(key)
    })
}

/// What is to be said about an imported object whose name is taken.
pub(crate) fn shadowed(object: &Object) -> Fault {
    Fault {
        field: format!("imported {}", object.key()),
        value: String::new(),
        problem: "is left out: an inline pool of the stack, or the ConfigMap, has one of that name"
            .to_owned(),
        remedy: "take it out of the old configuration, or rename one of the two".to_owned(),
    }
}

fn all(stack: &ValidatedStack, source: &str, mut converted: Objects) -> Vec<Object> {
    let mut objects = Vec::new();
    for_each_config_kind!(
        K => objects.extend(adopt(stack, source, std::mem::take(K::of_mut(&mut converted))))
    );
    objects
}

/// Makes converted objects the stack's own.
fn adopt<K: Resource + Into<Object> + Clone>(
    stack: &ValidatedStack,
    source: &str,
    objects: Vec<Arc<K>>,
) -> Vec<Object> {
    let adopt = |object: Arc<K>| {
        let mut object = Arc::unwrap_or_clone(object);
        let name = object.meta().name.clone().unwrap_or_default();
        let ObjectMeta { labels, annotations, .. } = std::mem::take(object.meta_mut());
        let mut metadata = meta::namespaced(stack, &name, None);
        let own = metadata.labels.get_or_insert_default();
        own.insert(LABEL_IMPORTED_FROM.to_owned(), source.to_owned());
        own.extend(labels.into_iter().flatten());
        metadata.annotations = annotations;
        if source == CONFIG_MAP {
            let own = metadata.annotations.get_or_insert_default();
            own.insert(ANNOTATION_CONFIG_MAP.to_owned(), stack.imported.config_map.clone());
        }
        *object.meta_mut() = metadata;
        object.into()
    };
    objects.into_iter().map(adopt).collect()
}
