//! Conversion of the configuration formats of MetalLB before v0.13 to today's objects
//! (`docs/reference/metallb.md` §1, §8).
//!
//! What can be read is converted, also if something else is wrong. What cannot be converted is a finding, and
//! the objects of an entry with an error are listed in [`Converted::invalid`], so that they do not replace
//! valid ones.
//!
//! Objects are named after the name or address in their entry, never after its position: adding or removing
//! an entry does not change the objects of the others.

mod address_pool;
mod config_map;
mod names;
mod yaml;

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::finding::ObjectRef;
use crate::for_each_config_kind;
use crate::objects::{ConfigKind, Objects};

pub use address_pool::convert_address_pools;
pub use config_map::convert;

/// The result of a conversion.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Converted {
    /// The objects: an L2Advertisement for each pool of protocol `layer2`, the BGPAdvertisements of those of
    /// protocol `bgp`, and at most one Community, with all aliases.
    pub objects: Objects,
    /// The objects above whose entry has an error.
    pub invalid: BTreeSet<ObjectRef>,
}

impl Converted {
    fn add<K: ConfigKind>(&mut self, object: K) {
        K::of_mut(&mut self.objects).push(Arc::new(object));
    }

    /// Adds `object` to [`invalid`](Self::invalid).
    fn mark_invalid<K: ConfigKind>(&mut self, object: &K) {
        self.invalid.insert(ObjectRef::of(object));
    }

    /// Adds all objects to [`invalid`](Self::invalid).
    fn mark_all_invalid(&mut self) {
        for_each_config_kind!(
            K => self.invalid.extend(K::of(&self.objects).iter().map(|object| ObjectRef::of(&**object)))
        );
    }

    /// Sets the namespace of all objects.
    fn set_namespace(&mut self, namespace: &str) {
        for_each_config_kind!(K => for object in K::of_mut(&mut self.objects) {
            Arc::make_mut(object).metadata.namespace = Some(namespace.to_owned());
        });
    }

    /// Moves everything out of `other` to the end.
    fn append(&mut self, other: &mut Self) {
        for_each_config_kind!(K => K::of_mut(&mut self.objects).append(K::of_mut(&mut other.objects)));
        self.invalid.append(&mut other.invalid);
    }
}

/// The name of the `n`th advertisement of `pool`, counted from 1: the first has the name of the pool, and the
/// others no name of another pool.
fn advertisement_name(pool: &str, n: usize, pools: &BTreeSet<String>) -> String {
    let mut name = if n == 1 { pool.to_owned() } else { format!("{pool}-{n}") };
    while n > 1 && pools.contains(&name) {
        name.push_str("-bgp");
    }
    name
}

/// The text is not valid YAML or empty, so nothing is converted, and the objects of the last import stay.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}; correct the text; until then the objects of the last import stay in force")]
pub struct ParseError {
    /// The text has no content, not even an empty list.
    pub empty: bool,
    /// The line, from 1; 0 if unknown.
    pub line: u64,
    /// What is wrong.
    pub problem: String,
}

#[cfg(test)]
mod tests;
