//! The finalizer of the stack.

use kube::ResourceExt as _;
use kube::api::DynamicObject;
use render::ownership::last_writer;
use render::status::{Obstacle, Outcome};
use tokio::time::Instant;

use crate::api::{Api, ApiError, NotLeading, json_of};
use crate::rewrite_limit::RewriteLimit;
use crate::stack::{FINALIZER, Stack};

/// The result of setting the finalizer.
pub(crate) enum FinalizerResult {
    /// It was set already, or the stack has changed since it was read.
    Unchanged,
    /// It was set; the stack as it is now.
    Set(Box<DynamicObject>),
    /// It cannot be set. The stack is reconciled without it all the same: the finalizer is only needed for
    /// those parts of a teardown that garbage collection does not cover.
    Missing(Obstacle),
}

/// Sets the finalizer, unless somebody keeps removing it.
pub(crate) async fn set_finalizer(
    api: &Api,
    stack: &Stack,
    limit: &mut RewriteLimit,
) -> Result<FinalizerResult, NotLeading> {
    if stack.has_finalizer() {
        return Ok(FinalizerResult::Unchanged);
    }
    let missing = |outcome| FinalizerResult::Missing(Obstacle { subject: "the stack".to_owned(), outcome });
    let now = Instant::now();
    if limit.blocked_for(now).is_some() {
        return Ok(missing(Outcome::Contested(format!(
            "{} keeps removing the finalizer {FINALIZER}; without it, deleting the stack leaves labels of \
             its namespace and ConfigurationStates behind: stop the other writer",
            last_writer(&json_of(&stack.object))
        ))));
    }
    let finalizers = [stack.object.finalizers(), &[FINALIZER.to_owned()]].concat();
    let error = match api.set_finalizers(&stack.object, &finalizers).await {
        Ok(written) => {
            limit.record(now);
            return Ok(FinalizerResult::Set(Box::new(written)));
        }
        Err(error) => error.object_error()?,
    };
    if error.is_conflict() {
        // The cache will receive the newer version.
        return Ok(FinalizerResult::Unchanged);
    }
    let text = format!("the finalizer {FINALIZER} cannot be set: {}", error.explain());
    tracing::warn!("{text}");
    Ok(missing(Outcome::Failed(text)))
}

/// Removes the finalizer of a stack that has been torn down.
pub(crate) async fn remove_finalizer(api: &Api, stack: &Stack) -> Result<(), ApiError> {
    let others = stack.object.finalizers().iter().filter(|finalizer| *finalizer != FINALIZER);
    match api.set_finalizers(&stack.object, &others.cloned().collect::<Vec<_>>()).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}
