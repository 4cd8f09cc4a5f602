//! The continuity of the log, as the database has it.

use std::collections::HashMap;

use nats::{AcceptedGap, Continuity, Log, ProducerState};
use sqlx::PgConnection;
use store::projection::producers;
use uuid::Uuid;

/// The continuity of a log up to `last_seq`, as the database has it.
pub(crate) async fn continuity(
    conn: &mut PgConnection,
    log: &Log,
    last_seq: u64,
) -> Result<Continuity, store::Error> {
    let known = producers::all(conn).await?;
    let states: HashMap<Uuid, ProducerState> = known
        .into_iter()
        .map(|p| (p.id, ProducerState { n: p.last_n, crc32c: p.last_crc, seq: p.last_seq }))
        .collect();
    let accepted = accepted_gaps(conn, log).await?;
    Ok(Continuity::new(log.stream().clone(), last_seq, states, accepted))
}

/// The gaps of a log that operators accepted.
pub(crate) async fn accepted_gaps(
    conn: &mut PgConnection,
    log: &Log,
) -> Result<Vec<AcceptedGap>, store::Error> {
    let gaps = store::operations::gaps::all(conn, log.stream().as_str()).await?;
    Ok(gaps.into_iter().map(|gap| AcceptedGap { seqs: gap.seq_from..=gap.seq_to, kind: gap.kind }).collect())
}
