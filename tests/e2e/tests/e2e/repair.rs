//! Repair of the operator's objects.

use std::time::Duration;

use e2e::Env;

use crate::addresses;

/// Timeout of a repair: a deleted workload is created again only after its pods are gone.
const REPAIRED: Duration = Duration::from_secs(20);

/// Every object of the inventory is edited, then deleted, and must come back as it was rendered.
pub(crate) fn each_object_in_turn(env: &Env) {
    env.stack_up();
    // While a role is changed, requests of its processes may be rejected.
    let _guard = env.rejections_expected();
    let inventory = env.inventory();
    assert!(inventory.len() >= 10, "an inventory of {} objects is not a whole stack", inventory.len());
    for object in &inventory {
        let rendered = env.rendered(object);
        env.tamper(object);
        e2e::wait::poll(&format!("{object}, edited, is restored"), REPAIRED, || {
            (env.rendered_opt(object)? == rendered).then_some(())
        });
        if object.kind == "Namespace" {
            continue;
        }
        env.remove(object);
        e2e::wait::poll(&format!("{object}, deleted, is restored"), REPAIRED, || {
            (env.rendered_opt(object)? == rendered).then_some(())
        });
    }
    env.stack_available();
}

/// Service accounts were created again, and the processes have new tokens.
pub(crate) fn still_works(env: &Env) {
    env.stack_available();
    addresses::deleted(env);
}
