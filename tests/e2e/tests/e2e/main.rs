//! The main job, end to end: real binaries in real pods under the rendered roles, real traffic.
//!
//! One cluster for all tests of a kube-proxy mode, run one after the other in the order below: each leaves
//! the cluster as it found it, and the last ones remove the stack. The LAN is that of tutorial 000.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "this file contains only tests, in which a failure is a panic"
)]

mod addresses;
mod faults;
mod quiet;
mod removal;
mod repair;
mod states;
mod tutorial;

use e2e::{Env, Suite};
use testbed::{KubeProxy, Options};

fn main() -> std::process::ExitCode {
    let nftables = Suite::new("nftables", || Env::installed(Options::default()))
        .test("a_tutorial_applied_before_the_stack_works", tutorial::applied_before_the_stack)
        .test("a_tutorial_applied_after_the_stack_works", tutorial::applied_after_the_stack)
        .test("a_pod_sees_the_clients_own_address_with_policy_local", tutorial::policy_local)
        .test("a_dual_stack_service_is_reached_by_both_families", addresses::dual_stack)
        .test("the_address_of_a_deleted_service_is_withdrawn_and_assigned_to_the_next", addresses::deleted)
        .test("an_exhausted_pool_is_reported_and_assigns_a_freed_address", addresses::exhausted)
        .test("a_service_that_becomes_cluster_ip_loses_its_address", addresses::type_changed)
        .test("speakers_report_their_nodes_in_speaker_states", states::of_speakers)
        .test("the_client_is_served_after_a_speaker_pod_is_deleted", faults::speaker_pod_deleted)
        .test("no_address_changes_after_controller_and_operator_are_killed", faults::controllers_killed)
        .test("the_client_is_served_during_an_outage_of_the_api_server", faults::api_server_outage)
        .test("a_node_that_is_powered_off_is_replaced", faults::power_off)
        .test("at_rest_only_leases_are_written_for_sixty_seconds", quiet::no_writes)
        .test("every_changed_or_deleted_object_of_the_stack_is_restored", repair::each_object_in_turn)
        .test("a_new_service_is_served_after_that", repair::still_works)
        .test("deleting_the_stack_removes_all_of_its_objects_and_no_others", removal::stack)
        .test("no_request_of_the_stack_was_rejected", quiet::no_rejections);
    let iptables = Suite::new("iptables", || {
        Env::installed(Options { kube_proxy: KubeProxy::Iptables, ..Options::default() })
    })
    .test("a_tutorial_applied_before_the_stack_works", tutorial::applied_before_the_stack)
    .test("a_pod_sees_the_clients_own_address_with_policy_local", tutorial::policy_local);
    e2e::run(vec![nftables, iptables])
}
