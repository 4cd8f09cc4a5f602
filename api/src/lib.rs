//! HTTP service: authenticates, decides limits, publishes events, reads projections. It never writes a projection.
//!
//! A handler's parameters say what it needs, first of all who may call it:
//!
//! ```ignore
//! async fn stats(
//!     caller: User<needs::Read>,
//!     State(auth): State<Auth>,
//!     Query(query): Query<StatsQuery>,
//! ) -> Result<Json<Stats>, Problem> {
//!     let owner = auth.resolve(&caller, query.user_id.as_deref()).await?;
//!     // …
//! }
//! ```

pub mod accounts;
pub mod app;
pub mod auth;
pub mod config;
mod error;
pub mod facts;
pub mod http;
pub mod ingest;
pub mod limits;
pub mod metering;
pub mod operations;
pub mod plans;
mod problems;
pub mod router;
pub mod state;
pub mod tokens;
pub mod usage;
pub mod users;
mod web;

pub use app::{AppHandle, build, run};
pub use config::{ApiConfig, ConfigError, LogSettings};
pub use error::ApiError;
pub use http::serve::{Bounds, serve};
pub use state::AppState;
