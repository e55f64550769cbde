//! Time limits and authentication of every call.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body as Answer, BodyDataStream};
use axum::http::header::AUTHORIZATION;
use axum::http::{Request, Response, StatusCode, Uri};
use futures::StreamExt as _;
use kube::Client;
use kube::client::Body;
use tokio::time::Instant;
use tower::BoxError;

use super::token::TokenFile;

/// For how long a call is waited for that was sent to a server of which nothing is known, or a watch to begin. It
/// may have been lost with a connection whose other end is gone (a balancer keeps it open), so this is for how long
/// nobody notices that the server is back.
const SHORT: Duration = Duration::from_secs(8);
/// For how long a call is waited for that was sent to a server that has just answered another: it may take its time for
/// a long list.
const LONG: Duration = Duration::from_secs(60);
/// How long an answer shows that the server is there.
const RECENT: Duration = Duration::from_secs(15);

/// A call was not answered in time.
#[derive(Debug, thiserror::Error)]
#[error("the API server did not answer within {} s", .0.as_secs())]
struct Unanswered(Duration);

/// A watch was silent for longer than it should have lasted.
#[derive(Debug, thiserror::Error)]
#[error("the watch was silent for {} s", .0.as_secs())]
struct Silent(Duration);

/// For how long a watch through a proxy lasts, and for how long it may be silent. Only the proxy's end of the connection can
/// be probed: one that keeps it open while the way behind it is gone looks like a watch at rest. So such a watch is
/// short, and one that the API server has not ended by then is dead.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ShortWatches {
    pub(crate) last: Duration,
    pub(crate) silent: Duration,
}

/// Each watch costs a request every five seconds, and none of them lists anything.
pub(crate) const THROUGH_PROXY: ShortWatches =
    ShortWatches { last: Duration::from_secs(5), silent: Duration::from_secs(8) };

struct Limited {
    client: Client,
    token: Option<TokenFile>,
    watches: Option<ShortWatches>,
    answered: Mutex<Option<Instant>>,
}

/// `client` with limits: a watch begins within [`SHORT`], every other call ends within [`SHORT`] or [`LONG`].
/// `watches`: and a watch ends when it is silent.
pub(crate) fn limited(
    client: Client,
    token: Option<TokenFile>,
    namespace: String,
    watches: Option<ShortWatches>,
) -> Client {
    let limited = Arc::new(Limited { client, token, watches, answered: Mutex::default() });
    let send = move |request: Request<Body>| {
        let limited = Arc::clone(&limited);
        async move { limited.send(request).await }
    };
    Client::new(tower::service_fn(send), namespace)
}

impl Limited {
    async fn send(&self, request: Request<Body>) -> Result<Response<Answer>, BoxError> {
        let query = request.uri().query().unwrap_or_default();
        if query.split('&').any(|parameter| parameter == "watch=true") {
            let Some(ShortWatches { last, silent }) = self.watches else {
                return Ok(self.within(SHORT, self.authenticated(request)).await?.map(Answer::new));
            };
            let watch = self.authenticated(lasting(request, last)?);
            return Ok(self.within(SHORT, watch).await?.map(|body| ends_when_silent(body, silent)));
        }
        let limit = if self.answers() { LONG } else { SHORT };
        let whole = async {
            let (head, body) = self.authenticated(request).await?.into_parts();
            Ok(Response::from_parts(head, Answer::from(body.collect_bytes().await?)))
        };
        self.within(limit, whole).await
    }

    /// Whether the server has answered lately.
    fn answers(&self) -> bool {
        let answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        answered.is_some_and(|at| at.elapsed() < RECENT)
    }

    async fn within<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<Response<T>, kube::Error>>,
    ) -> Result<Response<T>, BoxError> {
        let response = tokio::time::timeout(limit, call).await.map_err(|_| Unanswered(limit))??;
        // What is in front of the server answers that it is away, too.
        if !response.status().is_server_error() && response.status() != StatusCode::TOO_MANY_REQUESTS {
            *self.answered.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
        Ok(response)
    }

    /// Sends with the token, and once more if it is refused and there is a newer one.
    async fn authenticated(&self, request: Request<Body>) -> Result<Response<Body>, kube::Error> {
        let Some(token) = &self.token else { return self.client.send(request).await };
        let (mut head, body) = request.into_parts();
        let again = body.try_clone();
        let header = token.header();
        head.headers.insert(AUTHORIZATION, header.clone());
        let response = self.client.send(Request::from_parts(head.clone(), body)).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        match (token.after(&header), again) {
            (Some(newer), Some(body)) => {
                head.headers.insert(AUTHORIZATION, newer);
                self.client.send(Request::from_parts(head, body)).await
            }
            _ => Ok(response),
        }
    }
}

/// The same request for a watch that lasts for so long.
fn lasting(request: Request<Body>, last: Duration) -> Result<Request<Body>, BoxError> {
    let (mut head, body) = request.into_parts();
    let query = head.uri.query().unwrap_or_default().split('&');
    let others: Vec<&str> = query.filter(|parameter| !parameter.starts_with("timeoutSeconds=")).collect();
    let target = format!("{}?{}&timeoutSeconds={}", head.uri.path(), others.join("&"), last.as_secs());
    let mut uri = head.uri.clone().into_parts();
    uri.path_and_query = Some(target.parse()?);
    head.uri = Uri::from_parts(uri)?;
    Ok(Request::from_parts(head, body))
}

/// `body`, which ends with an error if nothing comes for `limit`.
fn ends_when_silent(body: Body, limit: Duration) -> Answer {
    let data = Answer::new(body).into_data_stream();
    let next = move |data: Option<BodyDataStream>| async move {
        let mut data = data?;
        match tokio::time::timeout(limit, data.next()).await {
            Ok(Some(Ok(bytes))) => Some((Ok(bytes), Some(data))),
            Ok(Some(Err(error))) => Some((Err(error.into()), None)),
            Ok(None) => None,
            Err(_) => Some((Err(BoxError::from(Silent(limit))), None)),
        }
    };
    Answer::from_stream(futures::stream::unfold(Some(data), next))
}
