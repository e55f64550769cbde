//! Which events users see, and when; and that no configuration waits for ever.

use super::api::Server;
use super::promises::{over, with_an_entry_of_another};
use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn versioned(object: &IPAddressPool) -> Value {
    let mut object = json!(object);
    object["metadata"]["resourceVersion"] = json!("6");
    object
}

/// A pool comes into being: in the API and, by the watch, in the store.
fn create_pool(server: &Server, owner: &Owner, writers: &mut Writers) {
    let lan = versioned(&pool("10.0.0.1-10.0.0.3"));
    server.set_list("ipaddresspools", vec![lan.clone()]);
    server.set_list("namespaces", vec![json!(namespace("shop"))]);
    writers.pools.apply_watcher_event(&Event::Apply(serde_json::from_value(lan).unwrap()));
    owner.watches.dirty.configuration();
}

fn asking(annotations: &Value) -> Service {
    let mut web = json!(service("shop", "web", None, &[]));
    web["metadata"]["annotations"] = annotations.clone();
    serde_json::from_value(web).unwrap()
}

#[tokio::test(start_paused = true)]
async fn requirement_5_a_pool_that_is_created_together_with_a_service_is_not_reported_as_missing() {
    for asks in [
        json!({}),
        json!({"metallb.io/address-pool": "lan"}),
        json!({"metallb.io/loadBalancerIPs": "10.0.0.1"}),
    ] {
        for comes in [true, false] {
            let web = asking(&asks);
            let (server, changes) = Server::new(std::slice::from_ref(&web));
            let (owner, mut writers) = over(&server, changes);
            let mut term = Term::new(&owner, &Unsettled::default());
            term.configure();
            term.adopt(Listed::of(vec![web], 1, ""));
            let _ = tokio::time::timeout(SECOND, term.run()).await;
            assert_eq!(server.service("web")["status"]["conditions"][0]["status"], "False", "at once");
            if comes {
                create_pool(&server, &owner, &mut writers);
            }
            let _ = tokio::time::timeout(60 * SECOND, term.run()).await;
            let failed = server.events().iter().filter(|(reason, _)| reason == "AllocationFailed").count();
            assert_eq!(failed, usize::from(!comes), "{asks}: {:?}", server.events());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn requirement_5_an_event_says_that_an_entry_of_another_load_balancer_stays() {
    let server = with_an_entry_of_another(60 * SECOND).await;
    let events = server.events();
    let of_entry = |(reason, text): &&(String, String)| {
        reason == "AllocationFailed" && text.contains("172.30.0.150") && text.contains("loadBalancerClass")
    };
    assert_eq!(events.iter().filter(of_entry).count(), 1, "{events:?}");
}

#[tokio::test(start_paused = true)]
async fn requirement_6_a_kind_that_may_not_be_listed_any_more_keeps_no_pool_from_being_put_in_force() {
    let web = service("shop", "web", None, &[]);
    let (server, changes) = Server::new(std::slice::from_ref(&web));
    let (owner, mut writers) = over(&server, changes);
    let mut term = Term::new(&owner, &Unsettled::default());
    term.configure();
    term.adopt(Listed::of(vec![web], 1, ""));
    server.refuse_list("poolpolicies");
    create_pool(&server, &owner, &mut writers);
    let _ = tokio::time::timeout(30 * SECOND, term.run()).await;
    assert_eq!(has(&term, "shop", "web"), Some(vec![]), "a policy may not be known yet");
    let _ = tokio::time::timeout(60 * SECOND, term.run()).await;
    assert_eq!(has(&term, "shop", "web"), Some(vec!["10.0.0.1".into()]));
}
