//! `/healthz`, `/readyz` and `/metrics` over plain HTTP.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::heartbeat::Heartbeat;

/// What a process waits for before it is ready, a set of named gates; and whose heartbeats show that it is alive.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    closed: Arc<Mutex<Vec<&'static str>>>,
    heartbeats: Arc<Mutex<Vec<Heartbeat>>>,
}

/// One thing that a process waits for.
#[derive(Clone, Debug)]
pub struct Gate {
    name: &'static str,
    closed: Arc<Mutex<Vec<&'static str>>>,
}

impl Readiness {
    /// Ready: there is no gate yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a gate, closed. `name` completes "waiting for …".
    pub fn gate(&self, name: &'static str) -> Gate {
        let gate = Gate { name, closed: Arc::clone(&self.closed) };
        gate.set(false);
        gate
    }

    /// From now on `/healthz` fails while `heartbeat` is not alive, so that the kubelet restarts the container.
    pub fn supervise(&self, heartbeat: Heartbeat) {
        self.heartbeats.lock().unwrap_or_else(PoisonError::into_inner).push(heartbeat);
    }

    /// The supervised workers that make no progress; none means alive.
    pub fn stuck(&self, now: Instant) -> Vec<&'static str> {
        let heartbeats = self.heartbeats.lock().unwrap_or_else(PoisonError::into_inner);
        heartbeats.iter().filter(|heartbeat| !heartbeat.is_alive(now)).map(Heartbeat::name).collect()
    }

    /// The gates that are closed; none means ready.
    pub fn waiting_for(&self) -> Vec<&'static str> {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Gate {
    /// Opens the gate.
    pub fn open(&self) {
        self.set(true);
    }

    /// Opens or closes the gate.
    pub fn set(&self, open: bool) {
        let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        closed.retain(|name| *name != self.name);
        if !open {
            closed.push(self.name);
        }
    }
}

/// The endpoint cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve health and metrics on {address} (--admin-address): {source}")]
pub struct Error {
    address: SocketAddr,
    source: std::io::Error,
}

/// Serves until `shutdown` is cancelled.
///
/// # Errors
///
/// The address cannot be listened on.
pub async fn serve(
    address: SocketAddr,
    registry: Registry,
    readiness: Readiness,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let listener = TcpListener::bind(address).await.map_err(|source| Error { address, source })?;
    axum::serve(listener, router(registry, readiness))
        .with_graceful_shutdown(shutdown.cancelled_owned())
        .await
        .map_err(|source| Error { address, source })
}

fn router(registry: Registry, readiness: Readiness) -> Router {
    let registry = Arc::new(registry);
    let liveness = readiness.clone();
    Router::new()
        .route("/healthz", get(move || std::future::ready(alive(&liveness))))
        .route("/readyz", get(move || std::future::ready(ready(&readiness))))
        .route("/metrics", get(move || std::future::ready(metrics(&registry))))
}

fn alive(readiness: &Readiness) -> Response {
    unless("no progress: ", &readiness.stuck(Instant::now()))
}

fn ready(readiness: &Readiness) -> Response {
    unless("waiting for ", &readiness.waiting_for())
}

/// 200 if there are no `reasons` against it, else 503 with them.
fn unless(what: &str, reasons: &[&str]) -> Response {
    match reasons {
        [] => "ok\n".into_response(),
        reasons => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("{what}{}\n", reasons.join(", "))).into_response()
        }
    }
}

fn metrics(registry: &Registry) -> Response {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, registry) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_process_is_ready_when_its_last_gate_opens_and_says_what_it_waits_for() {
        let readiness = Readiness::new();
        assert_eq!(ready(&readiness).status(), StatusCode::OK);
        let (stores, adoption) = (readiness.gate("the first lists"), readiness.gate("adoption"));
        stores.open();
        assert_eq!(readiness.waiting_for(), ["adoption"]);
        assert_eq!(ready(&readiness).status(), StatusCode::SERVICE_UNAVAILABLE);
        adoption.open();
        assert_eq!(ready(&readiness).status(), StatusCode::OK);
        adoption.set(false);
        assert_eq!(ready(&readiness).status(), StatusCode::SERVICE_UNAVAILABLE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_is_not_healthy_while_a_supervised_worker_makes_no_progress() {
        let readiness = Readiness::new();
        let worker = Heartbeat::new("driver", Duration::from_secs(10));
        readiness.supervise(worker.clone());
        assert_eq!(alive(&readiness).status(), StatusCode::OK);
        worker.beat();
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(alive(&readiness).status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(readiness.stuck(Instant::now()), ["driver"]);
        worker.beat();
        assert_eq!(alive(&readiness).status(), StatusCode::OK);
    }
}
