//! HTTP service: authenticates, decides limits, publishes events, reads projections. It never writes a projection.
//!
//! A handler's parameters say what it needs, first of all who may call it:
//!
//! ```ignore
//! async fn stats(caller: User, State(users): State<Users>, Query(query): Query<StatsQuery>) -> Result<Json<Stats>, Problem> {
//!     let owner = users.resolve(&caller, query.user_id.as_deref()).await?;
//!     …
//! }
//! ```

pub mod app;
pub mod auth;
pub mod client;
pub mod config;
pub mod exports;
pub mod extract;
pub mod health;
pub mod idempotency;
pub mod ingest;
pub mod limits;
mod list;
mod metered;
pub mod metrics_server;
pub mod middleware;
pub mod openapi;
pub mod personal;
pub mod plan_change;
pub mod position;
pub mod problem;
pub mod providers;
mod record;
pub mod router;
mod routes;
mod snapshot;
pub mod state;
pub mod throttle;
mod time_range;
pub mod users;
pub mod watermark;

pub use app::{ApiError, AppHandle, build, run, serve};
pub use config::{ApiConfig, ConfigError, LogSettings};
pub use state::AppState;
