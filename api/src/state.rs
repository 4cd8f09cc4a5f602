//! The router's state: the capabilities, of which a handler takes its own.

use std::ops::Deref;
use std::sync::Arc;

use axum::extract::FromRef;

use crate::accounts::{ApiKeys, SignIn};
use crate::auth::Auth;
use crate::facts::Projections;
use crate::http::idempotency::Idempotency;
use crate::ingest::Ingest;
use crate::metering::Metering;
use crate::operations::Health;
use crate::plans::Plans;
use crate::tokens::Tokens;
use crate::usage::Usage;
use crate::users::Users;

/// The router's state: one pointer, so that a request costs one reference count. Only the router names it: a handler
/// takes a capability, such as `State(plans): State<Plans>`, and nothing below a handler takes all of them.
#[derive(Clone)]
pub struct AppState(Arc<Capabilities>);

impl AppState {
    /// Shares these capabilities.
    pub fn new(capabilities: Capabilities) -> Self {
        Self(Arc::new(capabilities))
    }
}

impl Deref for AppState {
    type Target = Capabilities;

    fn deref(&self) -> &Capabilities {
        &self.0
    }
}

/// Declares the capabilities once: as fields, and as what a handler may take of the state.
macro_rules! capabilities {
    ($($(#[$doc:meta])* $name:ident: $capability:ty),+ $(,)?) => {
        /// The capabilities of this process, each cheap to clone.
        pub struct Capabilities {
            $($(#[$doc])* pub $name: $capability,)+
        }

        $(impl FromRef<AppState> for $capability {
            fn from_ref(state: &AppState) -> Self {
                state.$name.clone()
            }
        })+
    };
}

capabilities! {
    /// Callers.
    auth: Auth,
    /// API keys.
    api_keys: ApiKeys,
    /// People who sign in.
    sign_in: SignIn,
    /// Requests that count once.
    idempotency: Idempotency,
    /// The projections, at a known position.
    projections: Projections,
    /// Users, from their making to their end.
    users: Users,
    /// Plans that are sold, and who has them.
    plans: Plans,
    /// Usage of users.
    usage: Usage,
    /// Calls that ask to be admitted.
    metering: Metering,
    /// Calls that happened.
    ingest: Ingest,
    /// Users' tokens of third parties.
    tokens: Tokens,
    /// State of the dependencies.
    health: Health,
}
