//! One part that fails holds up no other, and hides nothing of what is known of the others.

use super::*;
use crate::fake::NAMESPACE;

#[tokio::test(start_paused = true)]
async fn requirement_5_a_status_is_current_although_pods_events_and_definitions_cannot_be_read() {
    let mut rig = Rig::new(json!({})).await;
    let (pods, events) = (format!("GET {NAMESPACE}/pods"), format!("GET {NAMESPACE}/events"));
    let definitions = "GET /apis/apiextensions.k8s.io/v1/customresourcedefinitions/ipaddresspools.metallb.io";
    for (number, call) in [pods, events, definitions.to_owned()].into_iter().enumerate() {
        rig.fake.refuse(call.clone(), 500, "etcdserver: leader changed");
        // Definitions are read again every five minutes.
        tokio::time::sleep(Duration::from_mins(6)).await;
        let ready = number + 1;
        rig.fake.edit(SPEAKER, &Value::Null, |speaker| {
            speaker["status"] = json!({"observedGeneration": 1, "desiredNumberScheduled": 7,
                "currentNumberScheduled": 6, "updatedNumberScheduled": 6, "numberReady": ready});
        });
        rig.settle().await;
        let stack = rig.fake.get(STACK).unwrap();
        assert_eq!(stack["status"]["speakers"], format!("{ready}/7"), "{call} fails");
        assert!(rig.condition("CRDsReady").starts_with("True"), "{call} fails");
    }
}

#[tokio::test(start_paused = true)]
async fn requirement_5_a_status_is_current_although_an_object_of_the_inventory_cannot_be_read() {
    let mut rig = Rig::new(inline(&json!([{"name": "lan", "addresses": ["10.0.0.0/24"]}]))).await;
    let at = path("ipaddresspools", "lan");
    // Without its label it is in no watch, so it is asked for.
    rig.fake.edit(&at, &Value::Null, |pool| {
        pool["metadata"]["labels"] = json!({});
        pool["metadata"]["ownerReferences"] = json!([]);
    });
    rig.fake.refuse(format!("GET {at}"), 500, "etcdserver: leader changed");
    respec(&mut rig, json!({"controller": {"replicas": 0}})).await;
    assert!(rig.condition("Degraded").starts_with("True InvalidSpec"), "{}", rig.condition("Degraded"));
    respec(&mut rig, json!({})).await;
    assert!(!rig.condition("Degraded").contains("InvalidSpec"), "{}", rig.condition("Degraded"));
    let inventory = rig.fake.get(STACK).unwrap()["status"]["inventory"].to_string();
    assert!(inventory.contains("\"lan\""), "what cannot be read may exist: {inventory}");
}

#[tokio::test(start_paused = true)]
async fn requirement_6_who_cannot_list_stacks_does_not_campaign_and_its_watch_is_reported_as_failing() {
    let fake = Fake::default();
    let stacks = "/apis/lbstack.dev/v1alpha1/loadbalancerstacks";
    let (client, shutdown) = (fake.client(), CancellationToken::new());
    let _stop = shutdown.clone().drop_guard();
    fake.refuse(format!("GET {stacks}"), 403, "forbidden");
    let mut tasks = Tasks::new();
    let caches = Caches::start(&mut tasks, &client, &shutdown, &Arc::new(Notify::new()));
    let mut able = Box::pin(caches.ready());
    assert!(tokio::time::timeout(Duration::from_hours(1), able.as_mut()).await.is_err());
    let watches = tasks.watches().subscribe();
    let failing: Vec<String> = watches
        .borrow()
        .iter()
        .filter(|watch| watch.failure.is_some())
        .map(|watch| watch.kind.clone())
        .collect();
    assert_eq!(failing, ["LoadBalancerStack"]);
    fake.allow_everything();
    able.await;
    assert!(watches.borrow().iter().all(|watch| watch.failure.is_none()));
}

#[tokio::test(start_paused = true)]
async fn requirement_6_a_configuration_state_that_cannot_be_decoded_is_reported_by_name() {
    let mut rig = Rig::new(json!({})).await;
    rig.fake.edit(&path("configurationstates", "speaker-a"), &Value::Null, |state| {
        state["status"] = json!({"conditions": "s3cret"});
    });
    rig.settle().await;
    let valid = rig.condition("ConfigurationValid");
    assert!(valid.starts_with("True Warnings: "), "{valid}");
    assert!(valid.contains("ConfigurationState speaker-a cannot be decoded: status.conditions"), "{valid}");
    assert!(!valid.contains("s3cret"), "{valid}");
}

#[tokio::test(start_paused = true)]
async fn requirement_5_why_an_object_that_is_no_longer_wanted_stays_is_reported() {
    let mut rig = Rig::new(inline(&json!([{"name": "old", "addresses": ["10.0.0.0/24"]}]))).await;
    rig.fake.refuse(format!("PATCH {}", path("ipaddresspools", "new")), 403, "a policy forbids it");
    respec(&mut rig, inline(&json!([{"name": "new", "addresses": ["10.0.0.0/24"]}]))).await;
    assert_eq!(rig.fake.names("ipaddresspools"), ["old"]);
    let progressing = rig.condition("Progressing");
    assert!(
        progressing.contains("IPAddressPool old stays until IPAddressPool new has taken its place"),
        "{progressing}"
    );
}

#[tokio::test(start_paused = true)]
async fn requirement_9_a_namespace_whose_mirror_is_not_filled_goes_with_the_stack() {
    let rig = Rig::new(json!({})).await;
    assert!(rig.fake.get(NAMESPACE).is_some());
    let fake = rig.fake.clone();
    drop(rig);
    fake.refuse("GET /api/v1/namespaces".to_owned(), 503, "not now");
    let mut rig = Rig::on(fake).await;
    rig.delete_stack().await;
    assert_eq!(rig.fake.get(NAMESPACE), None);
}
