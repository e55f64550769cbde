use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::{Method, Request, Response};
use kube::client::Body;
use serde_json::json;

use super::*;

fn lease(holder: Option<&str>, version: &str) -> Lease {
    let settings = ElectionSettings::new("ns", "lease", holder.unwrap_or_default());
    let mut lease = acquired(&settings, None, 3, Timestamp::UNIX_EPOCH);
    lease.metadata.resource_version = Some(version.to_owned());
    if holder.is_none() {
        lease.spec.as_mut().unwrap().holder_identity = None;
    }
    lease
}

fn observed(lease: &Lease, at: Instant) -> Option<Observation> {
    Observation::update(None, Some(lease), at)
}

fn valid_for(length: Duration) -> Validity {
    Validity::new(length)
}

/// A candidate that is always able to lead.
fn able() -> Candidate {
    Candidate::new(std::future::ready(()), Heartbeat::new("worker", Duration::from_secs(1)))
}

#[test]
fn a_lease_that_does_not_exist_or_was_released_is_acquired_at_once() {
    let now = Instant::now();
    assert_eq!(decide(None, "me", now), Decision::Acquire { transitions: 0 });
    let released = observed(&lease(None, "1"), now);
    assert_eq!(decide(released.as_ref(), "me", now), Decision::Acquire { transitions: 4 });
}

#[test]
fn the_holder_renews_its_lease_also_after_it_expired() {
    let start = Instant::now();
    let ours = observed(&lease(Some("me"), "1"), start);
    for after in [0, 14, 15, 1000] {
        assert_eq!(decide(ours.as_ref(), "me", start + Duration::from_secs(after)), Decision::Renew);
    }
}

#[test]
fn the_lease_of_another_process_is_acquired_only_after_its_duration_without_a_change() {
    let start = Instant::now();
    let second = |s| start + Duration::from_secs(s);
    let theirs = observed(&lease(Some("other"), "1"), start);
    assert_eq!(decide(theirs.as_ref(), "me", second(14)), Decision::Wait);
    // It is renewed just before it would have expired: the wait restarts.
    let renewed = Observation::update(theirs, Some(&lease(Some("other"), "2")), second(14));
    assert_eq!(decide(renewed.as_ref(), "me", second(28)), Decision::Wait);
    assert_eq!(decide(renewed.as_ref(), "me", second(29)), Decision::Acquire { transitions: 4 });
    // Reading an unchanged Lease does not restart the wait.
    let same = Observation::update(renewed, Some(&lease(Some("other"), "2")), second(28));
    assert_eq!(decide(same.as_ref(), "me", second(29)), Decision::Acquire { transitions: 4 });
}

#[test]
fn a_leader_stops_early_enough_for_its_last_call_to_end_before_the_lease_expires() {
    let settings = ElectionSettings::new("ns", "lease", "me");
    assert!(settings.renew_deadline + crate::client::CALL_TIMEOUT <= settings.duration);
    assert!(settings.retry < settings.renew_deadline);
}

#[tokio::test(start_paused = true)]
async fn leadership_ends_at_the_deadline_without_a_notification() {
    let (sender, validity) = watch::channel(Some(valid_for(Duration::from_secs(10))));
    let mut leadership = Leadership { validity };
    assert!(leadership.is_leading());
    tokio::time::advance(Duration::from_secs(11)).await;
    assert!(!leadership.is_leading());
    leadership.wait_lost().await;
    sender.send_replace(Some(valid_for(Duration::from_secs(10))));
    leadership.wait_acquired().await;
    assert!(leadership.is_leading());
}

#[test]
fn the_written_duration_of_a_lease_is_rounded_up() {
    let written = |millis| {
        let duration = Duration::from_millis(millis);
        let settings = ElectionSettings { duration, ..ElectionSettings::new("ns", "lease", "me") };
        acquired(&settings, None, 0, Timestamp::UNIX_EPOCH).spec.unwrap().lease_duration_seconds
    };
    assert_eq!([500, 1_000, 1_999, 15_000].map(written), [Some(1), Some(1), Some(2), Some(15)]);
}

#[tokio::test(start_paused = true)]
async fn work_is_dropped_when_leadership_is_lost() {
    let (sender, receiver) = watch::channel(Some(valid_for(Duration::from_secs(1))));
    let leadership = Leadership { validity: receiver };
    assert_eq!(leadership.while_leading(async { 7 }).await, Some(7));
    let stopped = leadership.while_leading(async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        7
    });
    assert_eq!(stopped.await, None);
    drop(sender);
}

/// An API with a Lease of `holder`, whose first `conflicts` writes fail with a conflict.
fn contested(holder: &'static str, conflicts: u32) -> Api<Lease> {
    let left = Arc::new(AtomicU32::new(conflicts));
    let answer = move |request: Request<Body>| {
        let left = Arc::clone(&left);
        async move {
            let write = request.method() != Method::GET;
            let decrement = |left: u32| left.checked_sub(1);
            let (code, body) =
                if write && left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, decrement).is_ok() {
                    (409, json!({"kind": "Status", "status": "Failure", "reason": "Conflict", "code": 409}))
                } else {
                    (200, json!(lease(Some(holder), "1")))
                };
            Response::builder().status(code).body(Body::from(body.to_string().into_bytes()))
        }
    };
    Api::namespaced(Client::new(tower::service_fn(answer), "ns"), "ns")
}

#[tokio::test(start_paused = true)]
async fn a_conflict_does_not_end_leadership_while_no_other_process_holds_the_lease() {
    let settings = ElectionSettings::new("ns", "lease", "me");
    let renew = |holder, conflicts| {
        let settings = &settings;
        async move { acquire_or_renew(&contested(holder, conflicts), settings, &mut None).await }
    };
    let until = Instant::now() + settings.renew_deadline;
    let renewed = renew("me", 1).await.unwrap().map(|validity| validity.until);
    assert_eq!(renewed, Some(until), "it is read again and renewed");
    assert!(
        renew("me", 2).await.unwrap_err().is_conflict(),
        "two conflicts are an error, which is tolerated until the deadline"
    );
    assert_eq!(renew("other", 0).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_writes_all_conflict_leads_until_its_deadline() {
    let settings = ElectionSettings::new("ns", "lease", "me");
    let (sender, validity) = watch::channel(Some(valid_for(settings.renew_deadline)));
    let (leadership, shutdown) = (Leadership { validity }, CancellationToken::new());
    let api = contested("me", u32::MAX);
    let election = tokio::spawn({
        let (settings, shutdown) = (settings.clone(), shutdown.clone());
        async move { run(&api, &settings, able(), &sender, shutdown).await }
    });
    tokio::time::sleep(settings.renew_deadline - settings.retry).await;
    assert!(leadership.is_leading());
    tokio::time::sleep(settings.retry).await;
    assert!(!leadership.is_leading());
    shutdown.cancel();
    election.await.unwrap();
}

#[test]
fn a_process_whose_monotonic_clock_stood_still_does_not_lead_on_an_old_renewal() {
    let length = Duration::from_secs(10);
    let validity = Validity::new(length);
    let (now, wall) = (Instant::now(), validity.renewed);
    assert!(validity.is_valid(now, wall + Duration::from_secs(9)));
    assert!(!validity.is_valid(now, wall + Duration::from_secs(10)), "the machine was suspended");
    assert!(
        validity.is_valid(now, wall - Duration::from_secs(3_600)),
        "a wall clock that was set back is ignored"
    );
    assert!(!validity.is_valid(now + length, wall));
}

#[test]
fn two_processes_of_one_pod_have_different_identities() {
    let identities = [unique_identity("controller-0"), unique_identity("controller-0")];
    assert_ne!(identities[0], identities[1]);
    assert!(identities.iter().all(|identity| identity.starts_with("controller-0_")));
}

/// An API with one Lease, which has no holder at first.
#[derive(Clone, Default)]
struct Shared {
    lease: Arc<Mutex<Option<Lease>>>,
    calls: Arc<AtomicU32>,
}

impl Shared {
    fn api(&self) -> Api<Lease> {
        let shared = self.clone();
        let answer = move |request: Request<Body>| {
            let shared = shared.clone();
            async move {
                let call = shared.calls.fetch_add(1, Ordering::Relaxed);
                let write = request.method() != Method::GET;
                let body = request.into_body().collect_bytes().await.unwrap();
                let mut lease = shared.lease.lock().unwrap();
                if write {
                    let mut written: Lease = serde_json::from_slice(&body).unwrap();
                    written.metadata.resource_version = Some(call.to_string());
                    *lease = Some(written);
                }
                let absent =
                    json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404});
                let (code, body) = lease.as_ref().map_or((404, absent), |lease| (200, json!(lease)));
                Response::builder().status(code).body(Body::from(body.to_string().into_bytes()))
            }
        };
        Api::namespaced(Client::new(tower::service_fn(answer), "ns"), "ns")
    }

    fn holder(&self) -> Option<String> {
        self.lease.lock().unwrap().as_ref()?.spec.as_ref()?.holder_identity.clone()
    }

    fn campaign(&self, me: &str, candidate: Candidate, shutdown: &CancellationToken) -> Leadership {
        let (sender, validity) = watch::channel(None);
        let (api, settings, shutdown) =
            (self.api(), ElectionSettings::new("ns", "lease", me), shutdown.clone());
        tokio::spawn(async move { run(&api, &settings, candidate, &sender, shutdown).await });
        Leadership { validity }
    }
}

#[tokio::test(start_paused = true)]
async fn requirement_6_a_process_that_is_not_ready_does_not_campaign() {
    let (shared, shutdown) = (Shared::default(), CancellationToken::new());
    let (open, gate) = tokio::sync::oneshot::channel::<()>();
    let ready = async {
        let _ = gate.await;
    };
    let candidate = Candidate::new(ready, Heartbeat::new("worker", Duration::from_secs(1)));
    let mut leadership = shared.campaign("me", candidate, &shutdown);
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    assert_eq!(shared.calls.load(Ordering::Relaxed), 0);
    open.send(()).unwrap();
    leadership.wait_acquired().await;
    assert_eq!(shared.holder().as_deref(), Some("me"));
}

#[tokio::test(start_paused = true)]
async fn requirement_6_a_leader_whose_worker_makes_no_progress_releases_the_lease() {
    let (shared, shutdown) = (Shared::default(), CancellationToken::new());
    let heartbeat = Heartbeat::new("worker", Duration::from_secs(15));
    let mut stuck =
        shared.campaign("stuck", Candidate::new(std::future::ready(()), heartbeat.clone()), &shutdown);
    stuck.wait_acquired().await;
    heartbeat.beat();
    let mut healthy = shared.campaign("healthy", able(), &shutdown);
    tokio::time::timeout(Duration::from_secs(21), healthy.wait_acquired()).await.unwrap();
    assert!(!stuck.is_leading());
    assert_eq!(shared.holder().as_deref(), Some("healthy"));
    heartbeat.rest();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(healthy.is_leading(), "a recovered process does not take the Lease back");
}

#[tokio::test(start_paused = true)]
async fn a_recovered_process_leads_again_if_no_other_does() {
    let (shared, shutdown) = (Shared::default(), CancellationToken::new());
    let heartbeat = Heartbeat::new("worker", Duration::from_secs(15));
    let mut alone =
        shared.campaign("alone", Candidate::new(std::future::ready(()), heartbeat.clone()), &shutdown);
    alone.wait_acquired().await;
    heartbeat.beat();
    alone.wait_lost().await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(shared.holder(), None);
    heartbeat.rest();
    alone.wait_acquired().await;
    assert_eq!(shared.holder().as_deref(), Some("alone"));
}

#[tokio::test(start_paused = true)]
async fn the_lease_is_released_when_the_process_stops() {
    let (shared, shutdown) = (Shared::default(), CancellationToken::new());
    let mut leadership = shared.campaign("me", able(), &shutdown);
    leadership.wait_acquired().await;
    shutdown.cancel();
    leadership.wait_lost().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(shared.holder(), None);
}
