//! Field reports about this kind of software, replayed on a real cluster: what a user did, and what must hold.
//!
//! One cluster for all of them, one after the other: each leaves the cluster as it found it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "all of this is tests: what is not as expected is a panic"
)]

mod configuration;
mod events;
mod migration;
mod node_addresses;
mod other_writer;
mod reachability;
mod shared_address;
mod support;

use e2e::{Bed, Suite};
use testbed::Options;

fn main() -> std::process::ExitCode {
    let suite = Suite::new("cases", || {
        let bed = Bed::installed(Options { id: "cases".into(), ..Options::default() });
        bed.stack_up();
        bed
    })
    .test("an_invalid_edit_of_an_advertisement_takes_no_address_down", configuration::advertisement_edits)
    .test(
        "an_invalid_pool_serves_what_it_assigned_after_every_pod_was_replaced",
        configuration::pool_edit_and_restarts,
    )
    .test("the_node_that_announces_ipv6_has_ipv6_with_either_placement", reachability::node_without_ipv6)
    .test("a_cordoned_node_announces_what_no_other_node_reaches", reachability::cordoned_node_on_the_subnet)
    .test(
        "an_interface_without_an_address_announces_until_it_is_down",
        reachability::interface_without_address,
    )
    .test("a_nodes_own_address_is_answered_by_that_node_alone", node_addresses::in_a_pool)
    .test("an_address_on_the_interface_of_another_node_is_a_conflict", node_addresses::on_another_node)
    .test("the_newest_event_names_the_node_that_announces", events::return_to_a_node)
    .test("another_load_balancer_of_a_service_is_not_fought", other_writer::writes_addresses_of_its_own)
    .test(
        "objects_that_replace_an_imported_configuration_are_the_users",
        migration::objects_of_the_same_names,
    )
    .test("pools_of_other_names_take_over_from_imported_ones", migration::objects_of_other_names)
    .test(
        "services_that_share_an_address_change_their_policies_one_after_the_other",
        shared_address::policies_that_change_one_after_the_other,
    );
    e2e::run(vec![suite])
}
