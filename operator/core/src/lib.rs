//! From a `LoadBalancerStack` to every object of the stack, without a cluster, a clock or chance.
//!
//! [`validate`] turns the resource into a [`ValidatedStack`] or says what is wrong; [`render`] makes every object
//! of it and cannot fail. [`drift`] tells how an object in the cluster differs from the rendered one, and whose
//! doing that is. [`health`] turns what was observed into conditions. [`rbac`] is the one table of rights, and
//! [`install`] the operator's own manifest.

mod accounts;
mod controller;
pub mod definitions;
pub mod drift;
mod fields;
pub mod health;
pub mod install;
pub mod legacy;
mod meta;
mod names;
mod namespace;
mod object;
pub mod ownership;
mod pod;
mod pools;
mod quantity;
pub mod rbac;
pub mod retention;
mod speaker;
mod validate;

pub use namespace::POD_SECURITY;
pub use object::{Extent, Key, Kind, Manifests, Object, Prepared, selector};
pub use validate::{BeaconKey, Facts, Fault, ValidatedStack, validate};

/// Every object of `stack`, in the order to apply.
pub fn render(stack: &ValidatedStack) -> Manifests<Prepared> {
    let mut objects: Vec<Object> = vec![namespace::namespace(stack).into()];
    objects.extend(accounts::objects(stack));
    objects.extend(pools::objects(stack));
    let taken = objects.iter().map(Object::key).collect();
    objects.extend(legacy::objects(stack, taken).0);
    objects.extend(controller::objects(stack));
    objects.extend(speaker::objects(stack));
    objects.sort_by_key(Object::key);
    Manifests(objects)
}

#[cfg(test)]
mod tests;
