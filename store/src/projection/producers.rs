//! The last frame seen of every producer.

use sqlx::PgConnection;
use uuid::Uuid;

use crate::Error;
use crate::position::{seq_from_column, seq_to_column};

/// The last frame of a producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Producer {
    /// The producer.
    pub id: Uuid,
    /// Its counter, from 1.
    pub last_n: u64,
    /// The checksum of that frame's body.
    pub last_crc: u32,
    /// The frame's sequence in the stream.
    pub last_seq: u64,
}

/// All producers.
pub async fn all(conn: &mut PgConnection) -> Result<Vec<Producer>, Error> {
    let rows =
        sqlx::query!("SELECT producer, last_n, last_crc, last_seq FROM producers").fetch_all(conn).await?;
    rows.into_iter()
        .map(|row| {
            Ok(Producer {
                id: row.producer,
                last_n: seq_from_column(row.last_n),
                last_crc: u32::try_from(row.last_crc).map_err(|_| Error::Inconsistent {
                    table: "producers",
                    column: "last_crc",
                    value: row.last_crc.to_string(),
                })?,
                last_seq: seq_from_column(row.last_seq),
            })
        })
        .collect()
}

/// Stores the last frames of these producers.
pub async fn set(conn: &mut PgConnection, producers: &[Producer]) -> Result<(), Error> {
    let ids: Vec<Uuid> = producers.iter().map(|p| p.id).collect();
    let counters: Vec<i64> = producers.iter().map(|p| seq_to_column(p.last_n)).collect();
    let checksums: Vec<i64> = producers.iter().map(|p| i64::from(p.last_crc)).collect();
    let seqs: Vec<i64> = producers.iter().map(|p| seq_to_column(p.last_seq)).collect();
    sqlx::query!(
        "INSERT INTO producers (producer, last_n, last_crc, last_seq)
         SELECT * FROM UNNEST($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[])
         ON CONFLICT (producer) DO UPDATE SET
             last_n = excluded.last_n, last_crc = excluded.last_crc, last_seq = excluded.last_seq",
        &ids,
        &counters,
        &checksums,
        &seqs,
    )
    .execute(conn)
    .await?;
    Ok(())
}
