//! The order of validation.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::Arc;

use crds::Resource;

use crate::finding::ObjectRef;
use crate::objects::{ConfigKind, Objects};

/// Oldest first: by creation time, then by name, so that of two conflicting objects every component rejects
/// the same one.
///
/// An object without a creation time is about to be created: it is the newest.
pub(crate) fn by_age<K: Resource>(a: &Arc<K>, b: &Arc<K>) -> Ordering {
    let age = |object: &Arc<K>| {
        let meta = object.meta();
        let created = meta.creation_timestamp.as_ref().map(|time| time.0);
        (created.is_none(), created, meta.name.clone())
    };
    age(a).cmp(&age(b))
}

/// `objects`, oldest first.
pub(crate) fn oldest_first<K: Resource>(objects: &[Arc<K>]) -> Vec<Arc<K>> {
    let mut sorted = objects.to_vec();
    sorted.sort_by(by_age);
    sorted
}

/// Which objects are validated after all others, so that conflicts are resolved against them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Precedence {
    /// Objects whose present version is replaced by an earlier one.
    pub(crate) substituted: BTreeSet<ObjectRef>,
    /// Objects that were never valid: the objects that they conflict with come before them.
    pub(crate) never_valid: BTreeSet<ObjectRef>,
}

impl Precedence {
    /// Objects of lower rank are validated first.
    pub(crate) fn rank(&self, object: &ObjectRef) -> u8 {
        if self.never_valid.contains(object) { 2 } else { u8::from(self.substituted.contains(object)) }
    }
}

/// The objects of a kind in the order of validation: by rank, then oldest first.
pub(crate) fn by_precedence<K: ConfigKind>(
    objects: &Objects,
    precedence: &Precedence,
) -> Vec<(ObjectRef, Arc<K>)> {
    let mut sorted: Vec<(ObjectRef, Arc<K>)> =
        K::of(objects).iter().map(|object| (ObjectRef::of(&**object), Arc::clone(object))).collect();
    sorted.sort_by(|(a, left), (b, right)| {
        precedence.rank(a).cmp(&precedence.rank(b)).then_with(|| by_age(left, right))
    });
    sorted
}
