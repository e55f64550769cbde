//! A part that fails neither delays the others nor hides their state.

use super::*;
use crate::fake_api::NAMESPACE;

#[tokio::test(start_paused = true)]
async fn the_status_is_current_although_pods_events_and_definitions_cannot_be_read() {
    let mut env = TestEnv::new(json!({})).await;
    let (pods, events) = (format!("GET {NAMESPACE}/pods"), format!("GET {NAMESPACE}/events"));
    let definitions = "GET /apis/apiextensions.k8s.io/v1/customresourcedefinitions/ipaddresspools.metallb.io";
    for (number, call) in [pods, events, definitions.to_owned()].into_iter().enumerate() {
        env.fake.fail(call.clone(), 500, "etcdserver: leader changed");
        // CrdCheck are read again every five minutes.
        tokio::time::sleep(Duration::from_mins(6)).await;
        let ready = number + 1;
        env.fake.edit(SPEAKER, &Value::Null, |speaker| {
            speaker["status"] = json!({"observedGeneration": 1, "desiredNumberScheduled": 7,
                "currentNumberScheduled": 6, "updatedNumberScheduled": 6, "numberReady": ready});
        });
        env.settle().await;
        let stack = env.fake.get(STACK).unwrap();
        assert_eq!(stack["status"]["speakers"], format!("{ready}/7"), "{call} fails");
        assert!(env.condition("CRDsReady").starts_with("True"), "{call} fails");
    }
}

#[tokio::test(start_paused = true)]
async fn the_status_is_current_although_an_object_of_the_inventory_cannot_be_read() {
    let mut env = TestEnv::new(inline_pools(&json!([{"name": "lan", "addresses": ["10.0.0.0/24"]}]))).await;
    let at = path("ipaddresspools", "lan");
    // Without its label no watch selects it, so it is read from the API server.
    env.fake.edit(&at, &Value::Null, |pool| {
        pool["metadata"]["labels"] = json!({});
        pool["metadata"]["ownerReferences"] = json!([]);
    });
    env.fake.fail(format!("GET {at}"), 500, "etcdserver: leader changed");
    set_spec(&mut env, json!({"controller": {"replicas": 0}})).await;
    assert!(env.condition("Degraded").starts_with("True InvalidSpec"), "{}", env.condition("Degraded"));
    set_spec(&mut env, json!({})).await;
    assert!(!env.condition("Degraded").contains("InvalidSpec"), "{}", env.condition("Degraded"));
    let inventory = env.fake.get(STACK).unwrap()["status"]["inventory"].to_string();
    assert!(inventory.contains("\"lan\""), "an object that cannot be read may exist: {inventory}");
}

#[tokio::test(start_paused = true)]
async fn a_process_that_cannot_list_stacks_does_not_campaign_and_reports_the_failing_watch() {
    let fake = FakeApiServer::default();
    let stacks = "/apis/lbstack.dev/v1alpha1/loadbalancerstacks";
    let (client, shutdown) = (fake.client(), CancellationToken::new());
    let _stop = shutdown.clone().drop_guard();
    fake.fail(format!("GET {stacks}"), 403, "forbidden");
    let mut tasks = Tasks::new();
    let caches = Caches::start(&mut tasks, &client, &shutdown, &Arc::new(Notify::new()));
    let mut synced = Box::pin(caches.wait_synced());
    assert!(tokio::time::timeout(Duration::from_hours(1), synced.as_mut()).await.is_err());
    let watches = tasks.watches().subscribe();
    let failing: Vec<String> = watches
        .borrow()
        .iter()
        .filter(|watch| watch.failure.is_some())
        .map(|watch| watch.kind.clone())
        .collect();
    assert_eq!(failing, ["LoadBalancerStack"]);
    fake.clear_failures();
    synced.await;
    assert!(watches.borrow().iter().all(|watch| watch.failure.is_none()));
}

#[tokio::test(start_paused = true)]
async fn a_configuration_state_that_cannot_be_decoded_is_reported_by_name() {
    let mut env = TestEnv::new(json!({})).await;
    env.fake.edit(&path("configurationstates", "speaker-a"), &Value::Null, |state| {
        state["status"] = json!({"conditions": "s3cret"});
    });
    env.settle().await;
    let valid = env.condition("ConfigurationValid");
    assert!(valid.starts_with("True Warnings: "), "{valid}");
    assert!(valid.contains("ConfigurationState speaker-a cannot be decoded: status.conditions"), "{valid}");
    assert!(!valid.contains("s3cret"), "{valid}");
}

#[tokio::test(start_paused = true)]
async fn the_reason_for_keeping_an_object_that_is_no_longer_rendered_is_reported() {
    let mut env = TestEnv::new(inline_pools(&json!([{"name": "old", "addresses": ["10.0.0.0/24"]}]))).await;
    env.fake.fail(format!("PATCH {}", path("ipaddresspools", "new")), 403, "a policy forbids it");
    set_spec(&mut env, inline_pools(&json!([{"name": "new", "addresses": ["10.0.0.0/24"]}]))).await;
    assert_eq!(env.fake.names("ipaddresspools"), ["old"]);
    let progressing = env.condition("Progressing");
    assert!(
        progressing.contains("IPAddressPool old is kept until IPAddressPool new is in place"),
        "{progressing}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_namespace_whose_watch_is_not_synced_is_deleted_with_the_stack() {
    let env = TestEnv::new(json!({})).await;
    assert!(env.fake.get(NAMESPACE).is_some());
    let fake = env.fake.clone();
    drop(env);
    fake.fail("GET /api/v1/namespaces".to_owned(), 503, "not now");
    let mut env = TestEnv::start(fake).await;
    env.delete_stack().await;
    assert_eq!(env.fake.get(NAMESPACE), None);
}
