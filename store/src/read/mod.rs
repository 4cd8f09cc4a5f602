//! Reads of the projections for the api. An answer is made in one [`snapshot`], together with the checkpoint
//! ([`crate::projection::checkpoint::read`]) that says which position of the log it reflects. Writes nothing, and uses
//! no other folder of this crate.

pub mod call_outcomes;
pub mod calls;
pub mod export;
pub mod filter;
pub mod health;
pub mod history;
pub mod limit_inputs;
pub mod plans;
pub mod requests;
pub mod security_log;
pub mod statements;
pub mod stats;
pub mod stored_tokens;
pub mod token_audit;

use sqlx::{PgPool, Postgres, Transaction};

use crate::Error;

/// Starts a read-only transaction in which every statement sees the same instant of the database, so that the
/// figures of one answer agree with each other and with its checkpoint. Dropping it ends it.
///
/// A statement of it ends with [`Error::Unavailable`] after 25 s, before the request does that waits for it. Each is
/// planned for its own values: most filters are absent, and a plan for all of them reads what only some need.
pub async fn snapshot(pool: &PgPool) -> Result<Transaction<'static, Postgres>, Error> {
    const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
                         SET LOCAL statement_timeout = '25s';
                         SET LOCAL plan_cache_mode = force_custom_plan";
    Ok(pool.begin_with(BEGIN).await?)
}
