//! Writing one event of ours, for a request that waits for it.

use std::time::Duration;

use events::{Actor, ActorKind, Event};
use nats::PublishError;

use crate::auth::{Principal, Role};
use crate::http::problem::Problem;
use crate::state::AppState;

/// How long an answer waits for the projections before it says 202.
pub(crate) const PROJECTED_WITHIN: Duration = Duration::from_secs(2);

/// How long a decision waits for those before it that must come one after another.
pub(crate) const TURN_WITHIN: Duration = Duration::from_secs(10);

/// Puts an event on disk in the log and answers the sequence of its frame.
pub(crate) async fn record(state: &AppState, event: &Event<'_>) -> Result<u64, Problem> {
    Ok(publish(state, event).await?)
}

/// [`record`], for who has to know whether the event may be in the log all the same.
pub(crate) async fn publish(state: &AppState, event: &Event<'_>) -> Result<u64, PublishError> {
    let mut json = Vec::with_capacity(512);
    events::encode(event, &mut json);
    Ok(state.publisher().publish(json.into()).await?.seq)
}

/// The caller, as an event names who acted.
pub(crate) fn actor(principal: &Principal) -> Actor<'static> {
    let kind = match principal.role {
        Role::User => ActorKind::User,
        Role::Service => ActorKind::Service,
        Role::Admin => ActorKind::Admin,
    };
    Actor::new(kind, principal.user_id.to_string())
}
