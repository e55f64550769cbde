//! The configuration of MetalLB before v0.13, imported: the ConfigMap of v0.8 to v0.12, and the kind `AddressPool`.
//!
//! What it says becomes today's objects, which are the operator's as everything else that it renders. A text that
//! cannot be read at all changes nothing: what was imported last stays.

use std::collections::BTreeSet;
use std::sync::Arc;

use crds::names::LABEL_IMPORTED_FROM;
use crds::{LegacyAddressPool, ObjectMeta, Resource};
use rules::Severity;
use rules::legacy::{Converted, LineFinding, convert, convert_address_pools};

use crate::validate::Fault;
use crate::{Key, Object, ValidatedStack, meta};

/// Value of [`LABEL_IMPORTED_FROM`](crds::names::LABEL_IMPORTED_FROM).
pub const CONFIG_MAP: &str = "configmap";
/// Value of [`LABEL_IMPORTED_FROM`](crds::names::LABEL_IMPORTED_FROM).
pub const ADDRESS_POOL: &str = "addresspool";

/// What there is to import.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The ConfigMap, if there is one.
    pub config_map: Option<ConfigMapText>,
    /// Every `AddressPool` in the stack's namespace.
    pub address_pools: Vec<Arc<LegacyAddressPool>>,
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
    /// What is under it.
    pub text: Option<String>,
}

/// What was imported, and what is to be said about it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Imported {
    from_config_map: Converted,
    from_address_pools: Converted,
    pub(crate) faults: Vec<Fault>,
    /// Something was left out.
    pub(crate) spoiled: bool,
    /// From what nothing could be read: what was imported from it stays.
    pub(crate) stays: Vec<&'static str>,
}

pub(crate) fn import(sources: &Sources, namespace: &str) -> Imported {
    let mut imported = Imported { stays: sources.unknown.clone(), ..Imported::default() };
    if let Some(config_map) = &sources.config_map {
        imported.config_map(config_map, namespace);
    }
    let (converted, findings) = convert_address_pools(&sources.address_pools, namespace);
    imported.from_address_pools = converted;
    imported.spoiled |= findings.iter().any(|finding| finding.severity == Severity::Error);
    imported.faults.extend(findings.into_iter().map(|finding| Fault {
        field: format!("{} {}", finding.object, finding.field),
        value: finding.value,
        problem: finding.problem,
        remedy: finding.remedy,
    }));
    imported
}

impl Imported {
    fn config_map(&mut self, ConfigMapText { name, key, text }: &ConfigMapText, namespace: &str) {
        let Some(text) = text else {
            self.cannot_read(Fault {
                field: format!("ConfigMap {name}"),
                value: String::new(),
                problem: format!("has no key {key:?}"),
                remedy: format!("put the configuration under it, or set spec.legacyConfigMap.key; {STAYS}"),
            });
            return;
        };
        match convert(text, namespace) {
            Ok((converted, findings)) => {
                self.from_config_map = converted;
                self.spoiled |= findings.iter().any(|finding| finding.severity == Severity::Error);
                self.faults.extend(findings.into_iter().map(|finding| of_line(name, finding)));
            }
            Err(unreadable) => self.cannot_read(Fault {
                field: format!("ConfigMap {name} line {}", unreadable.line),
                value: String::new(),
                problem: unreadable.problem,
                remedy: format!("correct the text; {STAYS}"),
            }),
        }
    }

    fn cannot_read(&mut self, fault: Fault) {
        self.stays.push(CONFIG_MAP);
        self.spoiled = true;
        self.faults.push(fault);
    }
}

const STAYS: &str = "until then what was imported last stays in force";

fn of_line(name: &str, finding: LineFinding) -> Fault {
    Fault {
        field: format!("ConfigMap {name} line {} {}", finding.line, finding.field),
        value: String::new(),
        problem: finding.problem,
        remedy: finding.remedy,
    }
}

/// The imported objects; and apart from them those whose name an inline pool or an earlier source has `taken`.
pub(crate) fn objects(stack: &ValidatedStack, mut taken: BTreeSet<Key>) -> (Vec<Object>, Vec<Object>) {
    let sources =
        [(CONFIG_MAP, &stack.imported.from_config_map), (ADDRESS_POOL, &stack.imported.from_address_pools)];
    let all = sources.into_iter().flat_map(|(source, converted)| all(stack, source, converted.clone()));
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

fn all(stack: &ValidatedStack, source: &str, converted: Converted) -> Vec<Object> {
    let Converted { pools, l2_advertisements, bgp_advertisements, bgp_peers, bfd_profiles, communities } =
        converted;
    let mut objects = Vec::new();
    objects.extend(adopt(stack, source, pools));
    objects.extend(adopt(stack, source, l2_advertisements));
    objects.extend(adopt(stack, source, bfd_profiles));
    objects.extend(adopt(stack, source, communities));
    objects.extend(adopt(stack, source, bgp_peers));
    objects.extend(adopt(stack, source, bgp_advertisements));
    objects
}

/// Makes converted objects the stack's own.
fn adopt<K: Resource + Into<Object>>(stack: &ValidatedStack, source: &str, objects: Vec<K>) -> Vec<Object> {
    let adopt = |mut object: K| {
        let name = object.meta().name.clone().unwrap_or_default();
        let ObjectMeta { labels, annotations, .. } = std::mem::take(object.meta_mut());
        let mut metadata = meta::namespaced(stack, &name, None);
        let own = metadata.labels.get_or_insert_default();
        own.insert(LABEL_IMPORTED_FROM.to_owned(), source.to_owned());
        own.extend(labels.into_iter().flatten());
        metadata.annotations = annotations;
        *object.meta_mut() = metadata;
        object.into()
    };
    objects.into_iter().map(adopt).collect()
}
