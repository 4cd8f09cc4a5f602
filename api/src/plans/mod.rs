//! Plans: what is sold, and how a user comes from one to another.
//!
//! It may touch the log (changes of plan) and the limits, which hold to a change before the projections have it.

mod change;
mod error;
mod list;
mod on_sale;
mod parts;
mod put;
mod upgrade;

pub(crate) use change::PendingPlan;
pub use error::PlansError;
pub(crate) use on_sale::OnSale;
pub use parts::Plans;
pub(crate) use parts::{LastChange, Parts};

use axum::extract::FromRef;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::Auth;
use crate::http::idempotency::Idempotency;

/// Endpoints of users and hosts that change a plan.
pub(crate) fn router<S>() -> OpenApiRouter<S>
where
    S: Clone + Send + Sync + 'static,
    Auth: FromRef<S>,
    Idempotency: FromRef<S>,
    Plans: FromRef<S>,
{
    OpenApiRouter::new().routes(routes!(upgrade::upgrade)).routes(routes!(put::put_plan))
}

/// Endpoints that are open to all.
pub(crate) fn public_router<S>() -> OpenApiRouter<S>
where
    S: Clone + Send + Sync + 'static,
    Plans: FromRef<S>,
{
    OpenApiRouter::new().routes(routes!(list::plans))
}
