//! Calls of our own routes, recorded uncounted.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::Response;
use events::{ApiCalled, Body, Event, Personal};
use http_body::Body as _;
use ledger::{Clock, Endpoint, IdSource, Method, Rules, StatusCode};
use nats::{EncodedEvent, Publisher};
use tokio_util::task::TaskTracker;
use vault::DataKey;

use super::sealer::{self, Sealer};
use crate::auth::{Principal, Seen};

/// The most records that wait for their user's data key at a time.
const MAX_WAITING: usize = 1_000;

/// Records calls of our own routes. Cheap to clone.
#[derive(Clone)]
pub(crate) struct OwnCalls(Arc<Parts>);

struct Parts {
    rules: Rules,
    clock: Clock,
    ids: IdSource,
    sealer: Sealer,
    publisher: Publisher,
    /// Records that wait for a data key; a shutdown waits for them.
    tasks: TaskTracker,
}

impl OwnCalls {
    /// Classifies by `rules`, and offers the events to `publisher`.
    pub(crate) fn new(
        rules: Rules,
        clock: Clock,
        ids: IdSource,
        sealer: Sealer,
        publisher: Publisher,
        tasks: TaskTracker,
    ) -> Self {
        Self(Arc::new(Parts { rules, clock, ids, sealer, publisher, tasks }))
    }
}

/// Records calls of our own routes, uncounted, without waiting for the log: when it is away or busy the record is
/// dropped, not the call. Only authenticated ones are recorded. The endpoint is the route's template: the path itself
/// may hold an external id, which has no place in the log.
pub(crate) async fn track(State(own_calls): State<OwnCalls>, mut request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let seen = Seen::default();
    request.extensions_mut().insert(seen.clone());
    let method = request.method().clone();
    let template = request.extensions().get::<MatchedPath>().cloned();
    let user_agent = request.headers().get(header::USER_AGENT).cloned();
    let request_size = content_length(request.headers());
    let response = next.run(request).await;
    if let (Some(principal), Some(template)) = (seen.0.get(), template) {
        let called = Called {
            principal,
            method: method.as_str(),
            template: template.as_str(),
            user_agent: user_agent.as_ref().map(|agent| String::from_utf8_lossy(agent.as_bytes())),
            request_size,
            response_size: response.body().size_hint().exact(),
            status: response.status().as_u16(),
            response_time_ms: millis(begun.elapsed()),
        };
        own_calls.offer(&called);
    }
    response
}

struct Called<'a> {
    principal: &'a Principal,
    method: &'a str,
    template: &'a str,
    user_agent: Option<Cow<'a, str>>,
    request_size: Option<u64>,
    response_size: Option<u64>,
    status: u16,
    response_time_ms: u32,
}

impl OwnCalls {
    fn offer(&self, called: &Called<'_>) {
        let Parts { rules, clock, ids, sealer, tasks, .. } = &*self.0;
        // A template is a valid endpoint, and what the router let through has a valid method.
        let Ok(endpoint) = Endpoint::named(called.template) else { return };
        let method = Method::new(called.method).ok();
        let status = StatusCode::new(u64::from(called.status)).ok();
        let classified = rules.classify(&endpoint, method.as_ref(), status);
        let mut call = ApiCalled::new(classified.endpoint.as_str(), classified.category);
        call.method = method.as_ref().map(|method| Cow::Borrowed(method.as_str()));
        call.status_code = Some(called.status);
        call.response_time_ms = Some(called.response_time_ms);
        call.request_size = called.request_size;
        call.response_size = called.response_size;
        call.counted = false;
        let user = called.principal.user_id;
        let mut event = Event::by_api(ids.event_id(), user, clock.now(), Body::ApiCalled(call));
        let agent = called.user_agent.as_deref().map(ledger::text::clean_user_agent);
        let personal = Personal::of_client(Some(called.principal.address), agent);
        if let Some(key) = sealer.cached(user) {
            self.publish(&key, &mut event, &personal);
            return;
        }
        // The user's first call here. The answer does not wait for the database either; a shutdown does.
        if tasks.len() >= MAX_WAITING {
            return untracked();
        }
        let (own_calls, mut event) = (self.clone(), event.into_owned());
        let personal: Personal<'static> = personal.into_owned();
        tasks.spawn(async move {
            match own_calls.0.sealer.data_key(user).await {
                Ok(key) => own_calls.publish(&key, &mut event, &personal),
                Err(_) => untracked(),
            }
        });
    }

    fn publish(&self, key: &DataKey, event: &mut Event<'_>, personal: &Personal<'_>) {
        if let Body::ApiCalled(call) = &mut event.body {
            let Ok(sealed) = sealer::seal(key, &event.id, personal) else { return untracked() };
            call.personal = sealed;
        }
        if !self.0.publisher.offer(&EncodedEvent::of(event)) {
            untracked();
        }
    }
}

fn untracked() {
    metrics::counter!("ledger_untracked_calls_total").increment(1);
}

/// The size that the client claims, if a ledger can hold it: a call without a body may claim any number.
fn content_length(headers: &HeaderMap) -> Option<u64> {
    let size = headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()?;
    (size <= i64::MAX.unsigned_abs()).then_some(size)
}

/// Milliseconds, at most as many as a ledger holds.
fn millis(elapsed: Duration) -> u32 {
    i32::try_from(elapsed.as_millis()).unwrap_or(i32::MAX).unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_fits_into_a_ledger() {
        let claimed = |text: &'static str| {
            content_length(&HeaderMap::from_iter([(header::CONTENT_LENGTH, text.parse().unwrap())]))
        };
        assert_eq!(claimed("9223372036854775807"), Some(i64::MAX.unsigned_abs()));
        assert_eq!(claimed("9223372036854775808"), None);
        assert_eq!(claimed("-1"), None);
        assert_eq!(millis(Duration::from_millis(7)), 7);
        assert_eq!(millis(Duration::MAX), i32::MAX.unsigned_abs());
    }
}
