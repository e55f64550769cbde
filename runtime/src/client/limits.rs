//! Timeouts and authentication of every call.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body as ResponseBody, BodyDataStream};
use axum::http::header::AUTHORIZATION;
use axum::http::{Request, Response, StatusCode, Uri};
use futures::StreamExt as _;
use kube::Client;
use kube::client::Body;
use tokio::time::Instant;
use tower::BoxError;

use super::token::TokenFile;

/// Timeout of a call to a server that has not responded recently, and of the start of a watch. Such a call
/// may have been lost with a connection whose far end is gone (a load balancer keeps it open), so this is how
/// long it may take to notice that the server is back.
const SHORT_TIMEOUT: Duration = Duration::from_secs(8);
/// Timeout of a call to a server that has responded recently: a long list may take time.
const LONG_TIMEOUT: Duration = Duration::from_secs(60);
/// For how long after a response the server counts as reachable.
const RECENT_RESPONSE: Duration = Duration::from_secs(15);

/// There was no response in time.
#[derive(Debug, thiserror::Error)]
#[error("the API server did not answer within {} s", .0.as_secs())]
struct NoResponse(Duration);

/// A watch sent nothing for longer than it should have lasted.
#[derive(Debug, thiserror::Error)]
#[error("the watch sent nothing for {} s", .0.as_secs())]
struct IdleWatch(Duration);

/// Limits of watches through a proxy. TCP keepalive probes only the proxy: if the connection behind it is
/// gone and the proxy keeps its own open, that looks like an idle watch. So the API server is asked to end
/// such a watch soon, and one that it has not ended by then is dead.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WatchLimits {
    /// After this time the API server ends the watch.
    pub(crate) duration: Duration,
    /// After this time without data the watch has failed.
    pub(crate) idle_timeout: Duration,
}

/// Each watch costs a request every five seconds; none of them lists anything.
pub(crate) const THROUGH_PROXY: WatchLimits =
    WatchLimits { duration: Duration::from_secs(5), idle_timeout: Duration::from_secs(8) };

struct LimitedClient {
    client: Client,
    token: Option<TokenFile>,
    watch_limits: Option<WatchLimits>,
    last_response: Mutex<Option<Instant>>,
}

/// `client` with timeouts: a watch starts within [`SHORT_TIMEOUT`], every other call ends within
/// [`SHORT_TIMEOUT`] or [`LONG_TIMEOUT`]. With `watch_limits`, a watch that sends nothing ends too.
pub(crate) fn with_limits(
    client: Client,
    token: Option<TokenFile>,
    namespace: String,
    watch_limits: Option<WatchLimits>,
) -> Client {
    let limited = Arc::new(LimitedClient { client, token, watch_limits, last_response: Mutex::default() });
    let send = move |request: Request<Body>| {
        let limited = Arc::clone(&limited);
        async move { limited.send(request).await }
    };
    Client::new(tower::service_fn(send), namespace)
}

impl LimitedClient {
    async fn send(&self, request: Request<Body>) -> Result<Response<ResponseBody>, BoxError> {
        let query = request.uri().query().unwrap_or_default();
        if query.split('&').any(|parameter| parameter == "watch=true") {
            let Some(WatchLimits { duration, idle_timeout }) = self.watch_limits else {
                return Ok(self
                    .within(SHORT_TIMEOUT, self.authenticated(request))
                    .await?
                    .map(ResponseBody::new));
            };
            let watch = self.authenticated(with_watch_timeout(request, duration)?);
            return Ok(self
                .within(SHORT_TIMEOUT, watch)
                .await?
                .map(|body| with_idle_timeout(body, idle_timeout)));
        }
        let limit = if self.responded_recently() { LONG_TIMEOUT } else { SHORT_TIMEOUT };
        let complete = async {
            let (head, body) = self.authenticated(request).await?.into_parts();
            Ok(Response::from_parts(head, ResponseBody::from(body.collect_bytes().await?)))
        };
        self.within(limit, complete).await
    }

    /// Whether the server has responded recently.
    fn responded_recently(&self) -> bool {
        let last_response = self.last_response.lock().unwrap_or_else(PoisonError::into_inner);
        last_response.is_some_and(|at| at.elapsed() < RECENT_RESPONSE)
    }

    async fn within<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<Response<T>, kube::Error>>,
    ) -> Result<Response<T>, BoxError> {
        let response = tokio::time::timeout(limit, call).await.map_err(|_| NoResponse(limit))??;
        // These may come from a proxy or load balancer in front of a server that is down.
        if !response.status().is_server_error() && response.status() != StatusCode::TOO_MANY_REQUESTS {
            *self.last_response.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
        Ok(response)
    }

    /// Sends the request with the token, and once more if the token is rejected and there is a newer one.
    async fn authenticated(&self, request: Request<Body>) -> Result<Response<Body>, kube::Error> {
        let Some(token) = &self.token else { return self.client.send(request).await };
        let (mut head, body) = request.into_parts();
        let copy = body.try_clone();
        let header = token.header();
        head.headers.insert(AUTHORIZATION, header.clone());
        let response = self.client.send(Request::from_parts(head.clone(), body)).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        match (token.newer_than(&header), copy) {
            (Some(newer), Some(body)) => {
                head.headers.insert(AUTHORIZATION, newer);
                self.client.send(Request::from_parts(head, body)).await
            }
            _ => Ok(response),
        }
    }
}

/// The same request with `timeoutSeconds` set to `duration`.
fn with_watch_timeout(request: Request<Body>, duration: Duration) -> Result<Request<Body>, BoxError> {
    let (mut head, body) = request.into_parts();
    let query = head.uri.query().unwrap_or_default().split('&');
    let others: Vec<&str> = query.filter(|parameter| !parameter.starts_with("timeoutSeconds=")).collect();
    let target = format!("{}?{}&timeoutSeconds={}", head.uri.path(), others.join("&"), duration.as_secs());
    let mut uri = head.uri.clone().into_parts();
    uri.path_and_query = Some(target.parse()?);
    head.uri = Uri::from_parts(uri)?;
    Ok(Request::from_parts(head, body))
}

/// `body`, which fails if it yields nothing for `limit`.
fn with_idle_timeout(body: Body, limit: Duration) -> ResponseBody {
    let data = ResponseBody::new(body).into_data_stream();
    let next = move |data: Option<BodyDataStream>| async move {
        let mut data = data?;
        match tokio::time::timeout(limit, data.next()).await {
            Ok(Some(Ok(bytes))) => Some((Ok(bytes), Some(data))),
            Ok(Some(Err(error))) => Some((Err(error.into()), None)),
            Ok(None) => None,
            Err(_) => Some((Err(BoxError::from(IdleWatch(limit))), None)),
        }
    };
    ResponseBody::from_stream(futures::stream::unfold(Some(data), next))
}
