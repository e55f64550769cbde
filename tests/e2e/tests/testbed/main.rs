//! Tests of the testbed itself: connectivity, faults, and complete removal.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "this file contains only tests, in which a failure is a panic"
)]

mod cluster;
mod lan;
mod life;
mod traces;

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};
use testbed::Host;

type Outcome = Result<(), Failed>;
type Test = (&'static str, fn() -> Outcome);

/// Timeout of what should happen without further action.
const SOON: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    if let Ok(id) = std::env::var(life::VICTIM) {
        return life::victim(id);
    }
    let mut arguments = Arguments::from_args();
    // They share a cluster.
    arguments.test_threads = Some(1);
    let tests: Vec<Test> = vec![
        ("machines_on_a_lan_reach_each_other_in_both_families", lan::machines_reach_each_other),
        ("every_host_that_answers_for_an_address_is_found", lan::every_answering_host_is_found),
        ("frames_are_blocked_one_way_or_both", lan::frames_are_blocked),
        ("an_unplugged_cable_is_an_outage_of_that_length", lan::an_unplugged_cable_is_an_outage),
        ("a_cold_client_resolves_the_address_before_each_request", lan::a_cold_client_resolves_each_time),
        ("two_testbeds_with_one_id_are_rejected", lan::two_with_one_id_are_rejected),
        ("a_port_in_use_is_reported", life::a_port_in_use_is_reported),
        ("a_cluster_is_removed_when_its_process_is_killed", life::a_cluster_is_removed_with_its_process),
        ("a_kept_cluster_is_attached_and_removed_by_another_process", life::a_kept_cluster_is_attached),
        ("pods_are_reached_through_node_ports_in_both_families", cluster::pods_are_reached),
        ("nginx_is_pulled_by_the_name_that_manifests_use", cluster::nginx_is_pulled),
        ("each_kubelet_has_a_device_plugin_socket_of_its_own", cluster::kubelets_have_their_own_sockets),
        ("identities_have_exactly_the_permissions_of_their_roles", cluster::identities_are_real),
        ("requests_are_in_the_audit_log", cluster::requests_are_audited),
        ("a_stopped_pod_hangs_and_a_killed_one_is_restarted", cluster::pods_take_signals),
        ("the_api_server_and_etcd_stop_and_start", cluster::servers_stop_and_start),
        ("a_node_without_power_is_lost_and_comes_back", cluster::a_node_loses_power),
        ("a_diagnosis_is_complete", cluster::a_diagnosis_is_complete),
        ("nothing_of_a_cluster_remains", cluster::nothing_remains),
    ];
    let trials = tests.into_iter().map(|(name, test)| Trial::test(name, test)).collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    // Statics are not dropped.
    drop(cluster::shared().take());
    conclusion.exit_code()
}

fn check(condition: bool, what: impl Into<String>) -> Outcome {
    if condition { Ok(()) } else { Err(what.into().into()) }
}

/// Whether packets pass in both directions: the other kernel refuses a connection to an unused port.
fn reaches(from: &Host, to: IpAddr) -> bool {
    let attempt =
        from.enter(|| TcpStream::connect_timeout(&SocketAddr::from((to, 9)), Duration::from_millis(800)));
    attempt.is_ok_and(|outcome| outcome.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused))
}
