//! The events that users see, and when; and that no configuration waits for ever.

use super::fake_api::Server;
use super::guarantees::{context_with_server, with_a_foreign_entry};
use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn versioned(object: &IPAddressPool) -> Value {
    let mut object = json!(object);
    object["metadata"]["resourceVersion"] = json!("6");
    object
}

/// Creates a pool in the API and, as by a watch, in the store.
fn create_pool(server: &Server, context: &Context, writers: &mut Writers) {
    let lan = versioned(&pool("10.0.0.1-10.0.0.3"));
    server.set_list("ipaddresspools", vec![lan.clone()]);
    server.set_list("namespaces", vec![json!(namespace("shop"))]);
    writers.pools.apply_watcher_event(&Event::Apply(serde_json::from_value(lan).unwrap()));
    context.watches.work_queue.add_configuration();
}

fn web_with_annotations(annotations: &Value) -> Service {
    let mut web = json!(service("shop", "web", None, &[]));
    web["metadata"]["annotations"] = annotations.clone();
    serde_json::from_value(web).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_is_created_together_with_a_service_is_not_reported_as_missing() {
    for asks in [
        json!({}),
        json!({"metallb.io/address-pool": "lan"}),
        json!({"metallb.io/loadBalancerIPs": "10.0.0.1"}),
    ] {
        for comes in [true, false] {
            let web = web_with_annotations(&asks);
            let (server, changes) = Server::new(std::slice::from_ref(&web));
            let (context, mut writers) = context_with_server(&server, changes);
            let mut term = Term::new(&context, &InFlight::default());
            term.configure();
            term.restore(ServiceList::of(vec![web], 1, ""));
            let _ = tokio::time::timeout(SECOND, term.run()).await;
            assert_eq!(server.service("web")["status"]["conditions"][0]["status"], "False", "at once");
            if comes {
                create_pool(&server, &context, &mut writers);
            }
            let _ = tokio::time::timeout(60 * SECOND, term.run()).await;
            let failed = server.events().iter().filter(|(reason, _)| reason == "AllocationFailed").count();
            assert_eq!(failed, usize::from(!comes), "{asks}: {:?}", server.events());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_reports_that_an_entry_of_another_load_balancer_stays() {
    let server = with_a_foreign_entry(60 * SECOND).await;
    let events = server.events();
    let of_entry = |(reason, text): &&(String, String)| {
        reason == "AllocationFailed" && text.contains("172.30.0.150") && text.contains("loadBalancerClass")
    };
    assert_eq!(events.iter().filter(of_entry).count(), 1, "{events:?}");
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_can_no_longer_be_listed_does_not_block_edits_of_pools_for_ever() {
    let web = service("shop", "web", None, &[]);
    let (server, changes) = Server::new(std::slice::from_ref(&web));
    let (context, mut writers) = context_with_server(&server, changes);
    let mut term = Term::new(&context, &InFlight::default());
    term.configure();
    term.restore(ServiceList::of(vec![web], 1, ""));
    server.refuse_list("poolpolicies");
    create_pool(&server, &context, &mut writers);
    let _ = tokio::time::timeout(30 * SECOND, term.run()).await;
    assert_eq!(assigned(&term, "shop", "web"), Some(vec![]), "a policy may not be known yet");
    let _ = tokio::time::timeout(60 * SECOND, term.run()).await;
    assert_eq!(assigned(&term, "shop", "web"), Some(vec!["10.0.0.1".into()]));
}
