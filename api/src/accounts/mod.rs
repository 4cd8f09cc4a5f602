//! Accounts: what their users sign in with, beside tokens of hosts, and what the log is told of them.
//!
//! It may touch API keys (schema `public`), users' data keys, the log (what happened to them), and what `auth`
//! remembers.

mod body;
mod by;
mod change;
mod create;
mod error;
mod list;
mod log;
mod parts;
mod people;
mod registry;
mod request;
mod revoke;
mod rotate;
pub mod sign_in;
mod transaction;

pub use by::By;
pub use error::ApiKeysError;
pub use log::{AccountLog, AccountLogError};
pub use parts::ApiKeys;
pub(crate) use parts::Parts;
pub use people::{Link, People, PeopleError};
pub use registry::{Made, Registry, Spec};
pub use sign_in::{SignIn, SignInError};

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
    ApiKeys: FromRef<S>,
{
    OpenApiRouter::new()
        .routes(routes!(create::create))
        .routes(routes!(list::list))
        .routes(routes!(list::get))
        .routes(routes!(change::change))
        .routes(routes!(revoke::revoke))
        .routes(routes!(rotate::rotate))
}
