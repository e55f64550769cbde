//! A problem with one object or kind does not affect others.

use crds::annotations::IP_ALLOCATED_FROM_POOL;
use kube::ResourceExt as _;

use super::fake_api::{Answer, Server};
use super::guarantees::{context_with_server, fill_stores};
use super::*;
use crate::watches::Watches;

/// Runs a context with watches of `server`, which has a pool and a namespace, for a minute of virtual time.
async fn run_a_minute(server: &Server) -> Readiness {
    let mut lan = json!(pool("10.0.0.1-10.0.0.3"));
    lan["metadata"]["resourceVersion"] = json!("6");
    run_a_minute_with(server, vec![lan]).await
}

/// The same with these pools.
async fn run_a_minute_with(server: &Server, pools: Vec<Value>) -> Readiness {
    server.set_list("ipaddresspools", pools);
    server.set_list("namespaces", vec![json!(namespace("shop"))]);
    let (client, shutdown, mut tasks) = (server.client(), CancellationToken::new(), Tasks::new());
    let watches = Watches::start(&mut tasks, &client, "metallb-system", &shutdown);
    let readiness = Readiness::new();
    let context = Context { client, watches, ready: readiness.gate("restore"), ..new_context().0 };
    let _ = tokio::time::timeout(Duration::from_secs(60), AllocatorTask::new(context).run(shutdown)).await;
    readiness
}

#[tokio::test(start_paused = true)]
async fn addresses_are_assigned_if_a_kind_cannot_be_listed_that_assignment_does_not_depend_on() {
    for plural in [
        "bgppeers",
        "bgpadvertisements",
        "l2advertisements",
        "bfdprofiles",
        "communities",
        "configurationstates",
        "nodes",
    ] {
        let (server, _changes) = Server::new(&[service("shop", "web", None, &[])]);
        server.refuse_list(plural);
        let readiness = run_a_minute(&server).await;
        assert!(readiness.waiting_for().is_empty(), "{plural}");
        let stored = server.service("web");
        assert_eq!(stored["status"]["loadBalancer"]["ingress"], json!([{"ip": "10.0.0.1"}]), "{plural}");
        assert!(!server.patches("ipaddresspools").is_empty(), "statuses are written without {plural}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_decoded_is_reported_by_name_in_the_configuration_state() {
    let (server, _changes) = Server::new(&[]);
    let odd = json!({"apiVersion": "metallb.io/v1beta1", "kind": "L2Advertisement",
        "metadata": {"name": "odd", "namespace": "metallb-system"}, "spec": {"interfaces": "eth0"}});
    server.set_list("l2advertisements", vec![odd]);
    run_a_minute(&server).await;
    let state = server.patches("configurationstates").pop().unwrap();
    assert_eq!(state["status"]["result"], "Invalid");
    let summary = state["status"]["errorSummary"].as_str().unwrap();
    assert!(
        summary.starts_with("L2Advertisement metallb-system/odd: spec.interfaces: invalid type"),
        "{summary}"
    );
}

#[tokio::test(start_paused = true)]
async fn objects_that_cannot_be_decoded_are_skipped_and_their_addresses_not_assigned() {
    let web = service("shop", "web", None, &[]);
    let (server, changes) = Server::new(std::slice::from_ref(&web));
    let (context, mut writers) = context_with_server(&server, changes);
    fill_stores(&server, &mut writers, &web);
    let metadata = json!({"name": "odd", "namespace": "metallb-system", "resourceVersion": "9"});
    let odd = json!({"metadata": metadata, "spec": 7});
    server.set_list("poolpolicies", vec![odd]);
    server.add_service(json!({"metadata": {"name": "odd", "namespace": "shop", "resourceVersion": "9"},
        "spec": "none", "status": {"loadBalancer": {"ingress": [{"ip": "10.0.0.1"}]}}}));
    context.watches.catch_up(&context.client).await.unwrap();
    let listed = ServiceList::from_api(&context).await.unwrap();
    let mut term = Term::new(&context, &InFlight::default());
    term.configure();
    term.restore(listed);
    assert_eq!(assigned(&term, "shop", "web"), Some(vec!["10.0.0.2".into()]));
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_a_new_controller_cannot_decode_withdraws_no_address() {
    let mut web = service("shop", "web", None, &["10.7.0.1"]);
    web.annotations_mut().insert(IP_ALLOCATED_FROM_POOL.to_owned(), "odd".to_owned());
    let (server, _changes) = Server::new(&[web]);
    let odd = json!({"metadata": {"name": "odd", "namespace": "metallb-system", "resourceVersion": "9"},
        "spec": {"addresses": "10.7.0.1/32"}});
    let mut lan = json!(pool("10.0.0.1-10.0.0.3"));
    lan["metadata"]["resourceVersion"] = json!("6");
    run_a_minute_with(&server, vec![lan, odd]).await;
    let stored = server.service("web");
    assert_eq!(stored["status"]["loadBalancer"]["ingress"], json!([{"ip": "10.7.0.1"}]), "{stored}");
    assert_eq!(server.writes(), 0, "{:?}", server.events());
}

/// More failing Services than are written concurrently.
#[tokio::test(start_paused = true)]
async fn failing_status_writes_do_not_delay_other_services() {
    let bad: Vec<Service> = (0..40).map(|n| service("shop", &format!("bad{n}"), None, &[])).collect();
    let all = [bad, vec![service("shop", "good", None, &[])]].concat();
    let (server, changes) = Server::new(&all);
    server.on_write(|object| {
        if object["metadata"]["name"] == "good" {
            return Answer::Done(object.clone());
        }
        object["status"] = json!({});
        Answer::Error(500)
    });
    let (context, mut writers) = context_with_server(&server, changes);
    writers.pools.apply_watcher_event(&Event::Apply(pool("10.0.0.0/24")));
    let mut term = Term::new(&context, &InFlight::default());
    term.configure();
    term.restore(ServiceList::of(all, 1, ""));
    let _ = tokio::time::timeout(Duration::from_secs(60), term.run()).await;
    assert_eq!(server.service("good")["status"]["loadBalancer"]["ingress"], json!([{"ip": "10.0.0.40"}]));
    assert!(server.begun() < 40 * 15, "{} writes in a minute: they are backed off", server.begun());
}
