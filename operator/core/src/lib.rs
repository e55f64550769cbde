//! Renders a `LoadBalancerStack` into the objects of the stack. Pure: no cluster, no clock, no random
//! numbers.
//!
//! [`validate`] turns the resource into a [`ValidatedStack`], or returns the errors of its spec. [`render`]
//! builds every object of a validated stack and cannot fail. [`drift`] compares an object in the cluster with
//! the rendered one, and names the field managers that changed it. [`status`] computes the conditions of the
//! stack. [`rbac`] is the single table of permissions, and [`install`] the operator's own manifest.

mod controller;
pub mod crd;
pub mod drift;
mod fields;
pub mod install;
pub mod legacy;
mod meta;
mod namespace;
mod object;
pub mod ownership;
mod pod;
mod pools;
mod quantity;
pub mod rbac;
pub mod retention;
mod service_accounts;
mod speaker;
pub mod status;
mod syntax;
mod validate;

pub use namespace::POD_SECURITY;
pub use object::{Extent, Key, Kind, Manifests, Object, Prepared, selector};
pub use validate::{BeaconKey, RenderInputs, SpecFinding, ValidatedStack, validate};

/// Builds every object of `stack`, in the order to apply.
pub fn render(stack: &ValidatedStack) -> Manifests<Prepared> {
    let mut objects: Vec<Object> = vec![namespace::namespace(stack).into()];
    objects.extend(service_accounts::objects(stack));
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
