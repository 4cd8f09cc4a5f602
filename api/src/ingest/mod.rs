//! Ingest: calls that happened, on their way into the log: the one path for `POST /api/usage/events`,
//! `POST /api/v1/events` and `import`.
//!
//! [`parse()`] reads what came, each item by itself; [`Intake::take`] validates, finds users, applies the rules, drops
//! what is known already, and writes the rest to the log. One bad item never sinks the others, and an item is called a
//! duplicate only when the event that it repeats is on disk.
//!
//! It may touch accounts, users' data keys, the log, and the limits, against which reported calls count; of the
//! projections it reads which calls are known.

mod binding;
mod call;
mod draft;
mod error;
mod intake;
mod openmeter;
mod parse;
mod parts;
mod receipt;
mod recent;
mod route;
mod schema;
mod unpack;

pub use binding::Form;
pub use call::{Reporter, TimeWindow};
pub use draft::{CallDraft, Draft, EndpointDraft};
pub use error::IngestError;
pub use intake::{Intake, check, erased_user};
pub use parse::{Item, MAX_ITEMS, ParseError, Profile, binary, parse};
pub use parts::Ingest;
pub use receipt::{ItemStatus, Receipt, ReceiptItem};

use axum::extract::FromRef;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::Auth;
use crate::http::idempotency::Idempotency;

/// The endpoints of this capability.
pub(crate) fn router<S>() -> OpenApiRouter<S>
where
    S: Clone + Send + Sync + 'static,
    Auth: FromRef<S>,
    Idempotency: FromRef<S>,
    Ingest: FromRef<S>,
{
    OpenApiRouter::new().routes(routes!(route::events)).routes(routes!(openmeter::openmeter_events))
}
