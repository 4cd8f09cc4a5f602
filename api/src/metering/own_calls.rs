//! Calls of our own routes, which no plan limits, gathered: one event for each user and ten seconds.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;
use chrono::{DateTime, Utc};
use events::{Body, OwnCallCount, OwnCalls as Event, StatusClass};
use ledger::{Clock, IdSource, UserId};
use nats::Publisher;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::Seen;
use crate::facts::{Gather, Gathered};

/// Counts calls of our own routes. Cheap to clone.
#[derive(Clone)]
pub(crate) struct OwnCalls {
    clock: Clock,
    gathered: Arc<Gathered<Caller>>,
}

/// A user who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Caller(UserId);

/// Numbers of calls, by route and class of status.
type Counts = BTreeMap<(Arc<str>, StatusClass), u64>;

impl OwnCalls {
    /// Hands the counts over to `publisher` until `shutdown`, at the times of `clock`.
    pub(crate) fn start(
        publisher: Publisher,
        clock: Clock,
        ids: IdSource,
        tasks: &TaskTracker,
        shutdown: CancellationToken,
    ) -> Self {
        let gathered = Arc::<Gathered<Caller>>::default();
        tasks.spawn(Arc::clone(&gathered).run(publisher, clock.clone(), ids, shutdown));
        Self { clock, gathered }
    }
}

/// Counts calls of our own routes, without waiting for the log. Only authenticated ones are counted, those that failed
/// too. They are told apart by the route's template: the path itself may hold an external id, which has no place in the
/// log, and is of the caller's own choice.
pub(crate) async fn track(State(own_calls): State<OwnCalls>, mut request: Request, next: Next) -> Response {
    let seen = Seen::default();
    request.extensions_mut().insert(seen.clone());
    let method = request.method().clone();
    let template = request.extensions().get::<MatchedPath>().cloned();
    // Whoever hangs up before the answer has called, too: a client's error, like the 499 of nginx.
    let mut call = Call { own_calls, seen, method, template, class: StatusClass::ClientError };
    let response = next.run(request).await;
    call.class = StatusClass::of(response.status().as_u16());
    response
}

/// A call that is counted when it is over, however it ends.
struct Call {
    own_calls: OwnCalls,
    seen: Seen,
    method: Method,
    template: Option<MatchedPath>,
    class: StatusClass,
}

impl Drop for Call {
    fn drop(&mut self) {
        let Self { own_calls, seen, method, template, class } = self;
        let (Some(principal), Some(template)) = (seen.0.get(), template) else { return };
        let (caller, now) = (Caller(principal.user_id), own_calls.clock.now());
        if !own_calls.gathered.add(caller, now, |counts| count(counts, method, template.as_str(), *class)) {
            metrics::counter!("ledger_untracked_calls_total").increment(1);
        }
    }
}

/// Counts one call: beyond the routes that are told apart, as another one.
fn count(counts: &mut Counts, method: &Method, template: &str, class: StatusClass) {
    let route: Arc<str> = format!("{method} {template}").into();
    add(counts, (route, class), 1);
}

fn add(counts: &mut Counts, key: (Arc<str>, StatusClass), calls: u64) {
    if let Some(count) = counts.get_mut(&key) {
        *count += calls;
        return;
    }
    let named = counts.keys().filter(|(route, _)| **route != *Event::OTHER).count();
    let is_room = named < Event::MAX_NAMED || *key.0 == *Event::OTHER;
    let key = if is_room { key } else { (Event::OTHER.into(), key.1) };
    *counts.entry(key).or_default() += calls;
}

impl Gather for Caller {
    type Counts = Counts;

    fn user(&self) -> UserId {
        self.0
    }

    fn merge(counts: &mut Counts, more: Counts) {
        for (key, calls) in more {
            add(counts, key, calls);
        }
    }

    fn body(&self, window_start: DateTime<Utc>, counts: &Counts) -> Body<'static> {
        let counts = counts.iter().map(|((route, status), calls)| OwnCallCount {
            route: route.to_string().into(),
            status: *status,
            calls: *calls,
        });
        Body::OwnCalls(Event { window_start, counts: counts.collect() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever is called, however it is put together: no call is lost, and an event stays small.
        #[test]
        fn counts_are_whole_and_bounded(
            calls in prop::collection::vec((0..60_u8, 100..600_u16), 1..400),
            split in any::<prop::sample::Index>(),
        ) {
            let (mut counts, mut more) = (Counts::new(), Counts::new());
            let (first, second) = calls.split_at(split.index(calls.len()));
            for (part, counts) in [(first, &mut counts), (second, &mut more)] {
                for (route, status) in part {
                    count(counts, &Method::GET, &format!("/api/{route}"), StatusClass::of(*status));
                }
            }
            Caller::merge(&mut counts, more);
            prop_assert_eq!(counts.values().sum::<u64>(), calls.len() as u64);
            prop_assert!(counts.len() <= Event::MAX_COUNTS);
            let named = counts.keys().filter(|(route, _)| **route != *Event::OTHER).count();
            prop_assert!(named <= Event::MAX_NAMED);
        }
    }
}
