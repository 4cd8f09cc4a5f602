//! What handlers share, split by concern.

use std::sync::Arc;

use axum::extract::FromRef;
use keys::Keys;
use ledger::{Clock, IdSource};
use nats::{Log, Publisher};
use sqlx::PgPool;
use tokio_util::task::TaskTracker;

use crate::auth::Auth;
use crate::auth::accounts::Users;
use crate::config::ApiConfig;
use crate::facts::position::Positions;
use crate::facts::watermark::Watermark;
use crate::http::client::TrustedProxies;
use crate::http::idempotency::Idempotency;
use crate::http::throttle::Throttle;
use crate::ingest::Ingest;
use crate::limits::Limits;
use crate::metering::complete::Outcomes;
use crate::metering::sealer::Sealer;
use crate::operations::health::Health;
use crate::plans::change::PlanTurns;
use crate::providers::Providers;
use crate::users::export_turns::Exports;

/// The router's state: one pointer, so that a request costs one reference count. A handler takes the part it needs,
/// such as `State(users): State<Users>`.
#[derive(Clone)]
pub struct AppState(Arc<Parts>);

/// The parts of [`AppState`], each cheap to clone.
pub struct Parts {
    /// The configuration, for what needs no part of its own.
    pub config: ApiConfig,
    /// Connections to PostgreSQL.
    pub pool: PgPool,
    /// Bearer tokens.
    pub auth: Auth,
    /// Accounts.
    pub users: Users,
    /// The log: its state.
    pub log: Log,
    /// Writes events to the log.
    pub publisher: Publisher,
    /// One decision about a user's plan at a time.
    pub plan_turns: PlanTurns,
    /// Positions, as clients see them.
    pub positions: Positions,
    /// How far the projections are.
    pub watermark: Watermark,
    /// Requests that count once.
    pub idempotency: Idempotency,
    /// Decides about calls.
    pub limits: Limits,
    /// Users' data keys.
    pub keys: Keys,
    /// Seals what is known of the person behind a call.
    pub sealer: Sealer,
    /// Takes in calls that happened.
    pub ingest: Ingest,
    /// Calls completed lately.
    pub outcomes: Outcomes,
    /// Whether dependencies are there.
    pub health: Health,
    /// Ten requests a second per principal.
    pub throttle: Throttle,
    /// Ten questions a minute per user whether a token works.
    pub token_tests: Throttle,
    /// Ten tokens stored or deleted a minute per principal.
    pub token_changes: Throttle,
    /// Asks third parties whether a token works.
    pub providers: Providers,
    /// Exports that are under way.
    pub exports: Exports,
    /// The ledger's clock.
    pub clock: Clock,
    /// Ids of events.
    pub ids: IdSource,
    /// Work that goes on after its answer; a shutdown waits for it.
    pub tasks: TaskTracker,
}

impl AppState {
    /// Shares these parts.
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// The configuration.
    pub fn config(&self) -> &ApiConfig {
        &self.0.config
    }

    /// Work that goes on after its answer.
    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.0.tasks
    }

    /// Seals what is known of the person behind a call.
    pub fn sealer(&self) -> &Sealer {
        &self.0.sealer
    }

    /// Connections to PostgreSQL.
    pub fn pool(&self) -> &PgPool {
        &self.0.pool
    }

    /// Bearer tokens.
    pub fn auth(&self) -> &Auth {
        &self.0.auth
    }

    /// Accounts.
    pub fn users(&self) -> &Users {
        &self.0.users
    }

    /// The log: its state.
    pub fn log(&self) -> &Log {
        &self.0.log
    }

    /// Writes events to the log.
    pub fn publisher(&self) -> &Publisher {
        &self.0.publisher
    }

    /// One decision about a user's plan at a time.
    pub fn plan_turns(&self) -> &PlanTurns {
        &self.0.plan_turns
    }

    /// Positions, as clients see them.
    pub fn positions(&self) -> Positions {
        self.0.positions
    }

    /// Whether dependencies are there.
    pub fn health(&self) -> &Health {
        &self.0.health
    }

    /// How far the projections are.
    pub fn watermark(&self) -> &Watermark {
        &self.0.watermark
    }

    /// Proxies that are believed.
    pub fn proxies(&self) -> &TrustedProxies {
        &self.0.config.trusted_proxies
    }

    /// Requests that count once.
    pub fn idempotency(&self) -> &Idempotency {
        &self.0.idempotency
    }

    /// Decides about calls.
    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// Takes in calls that happened.
    pub fn ingest(&self) -> &Ingest {
        &self.0.ingest
    }

    /// Calls completed lately.
    pub fn outcomes(&self) -> &Outcomes {
        &self.0.outcomes
    }

    /// Ten requests a second per principal.
    pub fn throttle(&self) -> &Throttle {
        &self.0.throttle
    }

    /// Ten questions a minute per user whether a token works.
    pub fn token_tests(&self) -> &Throttle {
        &self.0.token_tests
    }

    /// Ten tokens stored or deleted a minute per principal.
    pub fn token_changes(&self) -> &Throttle {
        &self.0.token_changes
    }

    /// Asks third parties whether a token works.
    pub fn providers(&self) -> &Providers {
        &self.0.providers
    }

    /// Exports that are under way.
    pub fn exports(&self) -> &Exports {
        &self.0.exports
    }

    /// Users' data keys.
    pub fn keys(&self) -> &Keys {
        &self.0.keys
    }

    /// Ids of events.
    pub fn ids(&self) -> &IdSource {
        &self.0.ids
    }

    /// The ledger's clock.
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }
}

macro_rules! parts {
    ($($name:ident: $part:ty),+ $(,)?) => {$(
        impl FromRef<AppState> for $part {
            fn from_ref(state: &AppState) -> Self {
                state.0.$name.clone()
            }
        }
    )+};
}
parts! {
    pool: PgPool,
    keys: Keys,
    auth: Auth,
    users: Users,
    publisher: Publisher,
    positions: Positions,
    watermark: Watermark,
    idempotency: Idempotency,
    limits: Limits,
    ingest: Ingest,
    health: Health,
    clock: Clock,
    ids: IdSource,
}
