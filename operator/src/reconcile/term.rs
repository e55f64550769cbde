//! What the operator remembers while it leads.

use std::time::Duration;

use kube::ResourceExt as _;
use kube::api::DynamicObject;
use tokio::time::Instant;

use super::dereference::LastKnown;
use super::update_status::StatusState;
use crate::object_state::ObjectStates;
use crate::rewrite_limit::RewriteLimit;
use crate::stack::Stack;
use crate::watch::{Caches, INITIAL_LISTS_LIMIT};

/// The state between reconciliations while this replica leads. It is dropped when leadership is lost, since
/// it may be outdated after another operator led.
pub(crate) struct Term {
    /// The states of rendered objects.
    pub(crate) rendered: ObjectStates,
    /// The states of objects that are to be deleted.
    pub(crate) pruned: ObjectStates,
    /// The states of objects that belong to users.
    pub(crate) released: ObjectStates,
    /// Recent writes of the finalizer.
    pub(crate) finalizer: RewriteLimit,
    /// The last known inputs of rendering.
    pub(crate) last_known: LastKnown,
    /// The state of the status step.
    pub(crate) status: StatusState,
    /// Until when to wait for initial lists.
    pub(crate) initial_list_deadline: Instant,
    /// The stack as returned by the operator's last write.
    pub(crate) last_written: Option<DynamicObject>,
    /// During a teardown: until when to wait for pods.
    pub(crate) teardown_deadline: Option<Instant>,
}

impl Term {
    /// The state at the beginning of a term.
    pub(crate) fn new() -> Self {
        Self {
            rendered: ObjectStates::new(),
            pruned: ObjectStates::new(),
            released: ObjectStates::new(),
            finalizer: RewriteLimit::default(),
            last_known: LastKnown::default(),
            status: StatusState::default(),
            initial_list_deadline: Instant::now() + INITIAL_LISTS_LIMIT,
            last_written: None,
            teardown_deadline: None,
        }
    }

    /// Whether a teardown is in progress.
    pub(crate) fn is_tearing_down(&self) -> bool {
        self.teardown_deadline.is_some()
    }

    /// Limits the wait for pods during a teardown to `limit` from now on.
    pub(crate) fn limit_teardown(&mut self, limit: Duration) {
        let latest = Instant::now() + limit;
        self.teardown_deadline = self.teardown_deadline.map(|deadline| deadline.min(latest));
    }

    /// Keeps the stack as returned by a write, if it was written.
    pub(crate) fn keep_written(&mut self, written: Option<DynamicObject>) {
        if written.is_some() {
            self.last_written = written;
        }
    }

    /// The newer of the cached stack and the one returned by the last write.
    pub(crate) fn current_stack(&mut self, caches: &Caches) -> Option<Stack> {
        let seen = caches.stack()?;
        let newer = self.last_written.take().filter(|written| {
            let version = |object: &DynamicObject| {
                object.resource_version().and_then(|version| version.parse::<u128>().ok())
            };
            written.uid() == seen.uid() && version(written) > version(&seen)
        });
        self.last_written.clone_from(&newer);
        Some(Stack::read(newer.unwrap_or_else(|| (*seen).clone())))
    }
}
