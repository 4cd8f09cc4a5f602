//! The projections as one answer sees them.

use sqlx::{Postgres, Transaction};

use crate::facts::position::AsOf;
use crate::http::problem::Problem;
use crate::state::AppState;

/// A snapshot in which all of an answer's figures are read, and the position that it reflects.
pub(crate) async fn snapshot(state: &AppState) -> Result<(Transaction<'static, Postgres>, AsOf), Problem> {
    let mut transaction = store::read::snapshot(state.pool()).await?;
    let checkpoint = store::checkpoint::read(&mut transaction, store::checkpoint::PARTITION).await?;
    let as_of = AsOf::of(state, checkpoint.seq, checkpoint.frame_time);
    Ok((transaction, as_of))
}
