//! Claiming the ids of some items, each once while it is remembered.

use std::collections::HashSet;

use sqlx::PgConnection;
use store::projection::claims::{self, Claim, Generations};
use store::projection::savepoint::{self, Savepoint};
use store::{Constraint, Position};
use uuid::Uuid;

use super::parse::Parsed;

/// Claims all ids in the log's order; answers those that were claimed before.
pub(super) async fn claim(
    conn: &mut PgConnection,
    generations: &mut Generations,
    parsed: &Parsed,
    all: &[Claim],
) -> Result<HashSet<Uuid>, store::Error> {
    let mut taken: HashSet<Uuid> = claims::find_previous(conn, generations, all).await?.into_iter().collect();
    let free: Vec<Claim>;
    let mut left = all;
    if !taken.is_empty() {
        free = all.iter().filter(|(id, _)| !taken.contains(id)).copied().collect();
        left = &free;
    }
    let mut new = left.iter().map(|(_, seq)| *seq).min();
    if left.is_empty() {
        return Ok(taken);
    }
    savepoint::open(conn, Savepoint::Step).await?;
    match claims::copy(conn, generations, left).await {
        Ok(()) => savepoint::release(conn, Savepoint::Step).await?,
        Err(error) if error.conflict() == Some(&Constraint::ClaimId) => {
            savepoint::undo(conn, Savepoint::Step).await?;
            let inserted: HashSet<Uuid> =
                claims::insert_new(conn, generations, left).await?.into_iter().collect();
            new = left.iter().filter(|(id, _)| inserted.contains(id)).map(|(_, seq)| *seq).min();
            taken.extend(left.iter().map(|(id, _)| *id).filter(|id| !inserted.contains(id)));
        }
        Err(error) => return Err(error),
    }
    if let (None, Some(seq)) = (generations.since, new) {
        generations.since = Some(parsed.stored_at(Position { seq, idx: 0 }));
    }
    Ok(taken)
}

/// Claims the ids of an event that is applied late, each where it would stand if it had been applied in its place.
pub(super) async fn claim_late(
    conn: &mut PgConnection,
    generations: &Generations,
    all: &[Claim],
) -> Result<HashSet<Uuid>, store::Error> {
    let mut taken = HashSet::new();
    for claim in all {
        if !claims::insert_late(conn, generations, *claim).await? {
            taken.insert(claim.0);
        }
    }
    Ok(taken)
}
