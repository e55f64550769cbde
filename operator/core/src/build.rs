//! Builds the objects of a validated stack.

use crate::object::{Manifests, Object};
use crate::stack::ValidatedStack;

mod controller;
pub mod install;
pub(crate) mod namespace;
mod pod;
mod service_accounts;
mod speaker;

/// Builds every object of `stack`, in the order to apply.
pub fn build(stack: &ValidatedStack) -> Manifests<Object> {
    let mut objects: Vec<Object> = vec![namespace::namespace(stack).into()];
    objects.extend(service_accounts::objects(stack));
    objects.extend(stack.configuration.iter().cloned());
    objects.extend(controller::objects(stack));
    objects.extend(speaker::objects(stack));
    objects.sort_by_key(Object::key);
    Manifests(objects)
}
