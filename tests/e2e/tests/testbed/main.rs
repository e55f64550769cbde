//! The testbed itself: that it is what it says, fails on command, and leaves nothing behind.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "all of this is tests: what is not as expected is a panic"
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

/// What happens by itself happens within this time.
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
        ("everybody_who_answers_for_an_address_is_seen", lan::everybody_who_answers_is_seen),
        ("frames_are_blocked_one_way_or_both", lan::frames_are_blocked),
        ("a_pulled_cable_is_silence_of_that_length", lan::a_pulled_cable_is_silence),
        ("a_client_that_forgets_asks_before_each_request", lan::a_cold_client_asks_each_time),
        ("two_with_one_id_are_refused", lan::two_with_one_id_are_refused),
        ("a_port_in_use_is_named", life::a_port_in_use_is_named),
        ("a_cluster_goes_with_the_process_that_is_killed", life::a_cluster_goes_with_its_process),
        (
            "a_kept_cluster_is_found_again_and_taken_away_by_another_process",
            life::a_kept_cluster_is_found_again,
        ),
        ("pods_are_reached_through_node_ports_in_both_families", cluster::pods_are_reached),
        ("nginx_is_pulled_by_the_name_that_manifests_use", cluster::nginx_is_pulled),
        ("each_kubelet_has_a_device_plugin_socket_of_its_own", cluster::kubelets_have_their_own_sockets),
        ("identities_have_the_rights_of_rbac_and_no_more", cluster::identities_are_real),
        ("requests_are_in_the_audit_log", cluster::requests_are_audited),
        ("a_stopped_pod_hangs_and_a_killed_one_is_started_again", cluster::pods_take_signals),
        ("the_api_server_and_etcd_stop_and_start", cluster::servers_stop_and_start),
        ("a_node_without_power_is_lost_and_comes_back", cluster::a_node_loses_power),
        ("a_diagnosis_has_everything", cluster::a_diagnosis_has_everything),
        ("nothing_is_left_of_a_cluster", cluster::nothing_is_left),
    ];
    let trials = tests.into_iter().map(|(name, test)| Trial::test(name, test)).collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    // A static is not dropped.
    drop(cluster::shared().take());
    conclusion.exit_code()
}

fn check(holds: bool, what: impl Into<String>) -> Outcome {
    if holds { Ok(()) } else { Err(what.into().into()) }
}

/// Whether packets go there and back: the kernel there refuses a connection to a port that nobody listens at.
fn reaches(from: &Host, to: IpAddr) -> bool {
    let attempt =
        from.enter(|| TcpStream::connect_timeout(&SocketAddr::from((to, 9)), Duration::from_millis(800)));
    attempt.is_ok_and(|outcome| outcome.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused))
}
