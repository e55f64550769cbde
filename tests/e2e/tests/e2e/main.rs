//! The main job, end to end: real binaries in real pods under the rendered roles, real traffic.
//!
//! One cluster for all tests of a kube-proxy mode, one test after the other in the order below: each leaves the
//! cluster as it found it, and the last ones take the stack away. Tutorial 000's LAN is everybody's.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "all of this is tests: what is not as expected is a panic"
)]

mod addresses;
mod faults;
mod quiet;
mod removal;
mod repair;
mod tutorial;

use e2e::{Bed, Suite};
use testbed::{KubeProxy, Options};

fn main() -> std::process::ExitCode {
    let nftables = Suite::new("nftables", || Bed::installed(Options::default()))
        .test("a_tutorial_applied_before_the_stack_ends_well", tutorial::applied_before_the_stack)
        .test("a_tutorial_applied_after_the_stack_ends_well", tutorial::applied_after_the_stack)
        .test("a_pod_sees_the_clients_own_address_with_policy_local", tutorial::policy_local)
        .test("a_dual_stack_service_is_reached_by_both_families", addresses::dual_stack)
        .test("a_deleted_services_address_is_silent_and_given_to_the_next", addresses::deleted)
        .test("an_exhausted_pool_says_so_and_serves_as_soon_as_it_can", addresses::exhausted)
        .test("a_service_that_turns_cluster_ip_gives_its_address_up", addresses::type_changed)
        .test("a_speaker_pod_may_die_while_the_client_is_served", faults::speaker_pod_deleted)
        .test("controller_and_operator_may_die_and_no_address_changes", faults::controllers_killed)
        .test("the_api_server_may_be_away_while_the_client_is_served", faults::api_server_away)
        .test("a_node_that_is_powered_off_is_replaced", faults::power_off)
        .test("sixty_quiet_seconds_see_no_write_but_lease_renewals", quiet::no_writes)
        .test("nothing_of_the_stack_may_vanish_or_change_for_long", repair::each_object_in_turn)
        .test("a_new_service_is_served_after_that_too", repair::still_works)
        .test("the_stack_is_gone_without_a_trace_and_nothing_else_is", removal::stack)
        .test("no_request_of_ours_was_refused", quiet::no_refusals);
    let iptables = Suite::new("iptables", || {
        Bed::installed(Options { kube_proxy: KubeProxy::Iptables, ..Options::default() })
    })
    .test("a_tutorial_applied_before_the_stack_ends_well", tutorial::applied_before_the_stack)
    .test("a_pod_sees_the_clients_own_address_with_policy_local", tutorial::policy_local);
    e2e::run(vec![nftables, iptables])
}
