//! Tutorials 001 to 003, which are older than the custom resources: a ConfigMap, commands, and networks of
//! their own.
//!
//! Their commands are run unchanged, except for changes in kubectl since (`kubectl run` creates a pod now)
//! and for images, which are replaced by those of the testbed (so the port inside the pod is specified).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "this file contains only tests, in which a failure is a panic"
)]

mod foo_and_bar;
mod nginx;
mod two_services;

use e2e::{Env, Suite};
use testbed::{LanOptions, Options};

fn main() -> std::process::ExitCode {
    let on = |lan: LanOptions| Env::installed(Options { lan, ..Options::default() });
    let first = Suite::new("tutorial_001", move || {
        on(LanOptions { v4: "192.168.0.0/23".parse().unwrap(), first_node: 26, ..LanOptions::default() })
    })
    .test(
        "the_reason_of_a_pending_service_is_reported_and_it_is_served_after_the_config_map_is_created",
        nginx::exposed,
    )
    .test("the_service_is_served_after_each_node_was_rebooted", nginx::rebooted);
    let second = Suite::new("tutorial_002", move || {
        on(LanOptions {
            v4: "192.168.1.0/24".parse().unwrap(),
            first_node: 101,
            client: 200,
            ..LanOptions::default()
        })
    })
    .test("two_deployments_get_the_first_two_addresses_of_the_range", two_services::exposed)
    .test("pods_are_added_while_a_client_is_served", two_services::scaled)
    .test("the_next_service_gets_an_address_that_was_freed", two_services::deleted_and_created_again);
    let third = Suite::new("tutorial_003", move || {
        on(LanOptions {
            v4: "172.19.0.0/16".parse().unwrap(),
            v6: Some("fc00:f853:ccd:e793::/64".parse().unwrap()),
            ..LanOptions::default()
        })
    })
    .test("the_users_own_namespace_and_memberlist_secret_are_honoured", foo_and_bar::namespace_first)
    .test("both_pods_answer_at_the_address_of_the_service", foo_and_bar::answered);
    e2e::run(vec![first, second, third])
}
