//! What the operator made is kept as it made it.

use std::time::Duration;

use e2e::Bed;

use crate::addresses;

/// A workload that is deleted takes its pods along before it is made anew.
const REPAIRED: Duration = Duration::from_secs(20);

/// Every object of the inventory is edited, then deleted, and must come back as it was rendered.
pub(crate) fn each_object_in_turn(bed: &Bed) {
    bed.stack_up();
    // While a role is not as it shall be, its holder is refused what it asks for.
    let _defaced = bed.refusals_expected();
    let inventory = bed.inventory();
    assert!(inventory.len() >= 10, "an inventory of {} objects is not a whole stack", inventory.len());
    for object in &inventory {
        let rendered = bed.rendered(object);
        bed.deface(object);
        e2e::wait::poll(&format!("{object}, edited, is as rendered"), REPAIRED, || {
            (bed.rendered_opt(object)? == rendered).then_some(())
        });
        if object.kind == "Namespace" {
            continue;
        }
        bed.remove(object);
        e2e::wait::poll(&format!("{object}, deleted, is back as rendered"), REPAIRED, || {
            (bed.rendered_opt(object)? == rendered).then_some(())
        });
    }
    bed.stack_available();
}

/// Accounts were made anew, and with them tokens: the processes have them.
pub(crate) fn still_works(bed: &Bed) {
    bed.stack_available();
    addresses::deleted(bed);
}
