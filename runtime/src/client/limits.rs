//! Time limits and authentication of every call.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::header::AUTHORIZATION;
use axum::http::{Request, Response, StatusCode};
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

struct Limited {
    client: Client,
    token: Option<TokenFile>,
    answered: Mutex<Option<Instant>>,
}

/// `client` with limits: a watch begins within [`SHORT`], every other call ends within [`SHORT`] or [`LONG`].
pub(crate) fn limited(client: Client, token: Option<TokenFile>, namespace: String) -> Client {
    let limited = Arc::new(Limited { client, token, answered: Mutex::default() });
    let send = move |request: Request<Body>| {
        let limited = Arc::clone(&limited);
        async move { limited.send(request).await }
    };
    Client::new(tower::service_fn(send), namespace)
}

impl Limited {
    async fn send(&self, request: Request<Body>) -> Result<Response<Body>, BoxError> {
        let query = request.uri().query().unwrap_or_default();
        if query.split('&').any(|parameter| parameter == "watch=true") {
            return self.within(SHORT, self.authenticated(request)).await;
        }
        let limit = if self.answers() { LONG } else { SHORT };
        let whole = async {
            let (head, body) = self.authenticated(request).await?.into_parts();
            Ok(Response::from_parts(head, Body::from(body.collect_bytes().await?)))
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
        call: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, BoxError> {
        let result = tokio::time::timeout(limit, call).await.map_err(|_| Unanswered(limit))??;
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        Ok(result)
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
