//! Reported issues of similar software, reproduced on a real cluster: the user's actions, and the expected
//! behaviour.
//!
//! One cluster for all of them, run one after the other: each leaves the cluster as it found it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "this file contains only tests, in which a failure is a panic"
)]

mod configuration;
mod events;
mod migration;
mod node_addresses;
mod other_writer;
mod reachability;
mod shared_address;
mod support;

use e2e::{Env, Suite};
use testbed::Options;

fn main() -> std::process::ExitCode {
    let suite = Suite::new("cases", || {
        let env = Env::installed(Options { id: "cases".into(), ..Options::default() });
        env.stack_up();
        env
    })
    .test("an_invalid_edit_of_an_advertisement_withdraws_no_address", configuration::advertisement_edits)
    .test(
        "addresses_of_an_invalid_pool_are_served_after_every_pod_was_replaced",
        configuration::pool_edit_and_restarts,
    )
    .test("the_node_that_announces_ipv6_has_ipv6_with_either_placement", reachability::node_without_ipv6)
    .test(
        "a_cordoned_node_announces_an_address_that_no_other_node_can",
        reachability::cordoned_node_on_the_subnet,
    )
    .test(
        "an_interface_without_an_address_announces_until_it_is_down",
        reachability::interface_without_address,
    )
    .test("only_the_node_itself_answers_for_its_own_address", node_addresses::in_a_pool)
    .test("an_address_on_the_interface_of_another_node_is_a_conflict", node_addresses::on_another_node)
    .test("the_newest_event_names_the_node_that_announces", events::return_to_a_node)
    .test(
        "the_status_written_by_another_load_balancer_is_left_alone",
        other_writer::writes_addresses_of_its_own,
    )
    .test(
        "objects_that_replace_an_imported_configuration_belong_to_the_user",
        migration::objects_of_the_same_names,
    )
    .test("pools_with_other_names_replace_imported_ones", migration::objects_of_other_names)
    .test(
        "services_that_share_an_address_change_their_policies_one_after_the_other",
        shared_address::policies_that_change_one_after_the_other,
    );
    e2e::run(vec![suite])
}
