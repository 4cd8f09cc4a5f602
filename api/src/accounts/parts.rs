//! Parts that API keys work with.

use std::sync::Arc;

use sqlx::PgPool;
use sqlx::Postgres;
use sqlx::pool::PoolConnection;

use super::registry::Registry;
use crate::facts::Writer;
use crate::http::throttle::Throttle;

/// API keys of users and services. Cheap to clone.
#[derive(Clone)]
pub struct ApiKeys(pub(super) Arc<Parts>);

/// Parts of [`ApiKeys`].
pub(crate) struct Parts {
    /// The keys.
    pub(crate) pool: PgPool,
    /// Makes, changes and revokes them.
    pub(crate) registry: Registry,
    /// Positions of what happened to them.
    pub(crate) writer: Writer,
    /// Ten keys made or changed a minute per user.
    pub(crate) changes: Throttle,
}

impl ApiKeys {
    /// Works with these.
    pub(crate) fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// Makes, changes and revokes keys.
    pub fn registry(&self) -> &Registry {
        &self.0.registry
    }

    pub(super) async fn connection(&self) -> Result<PoolConnection<Postgres>, store::Error> {
        Ok(self.0.pool.acquire().await?)
    }
}
