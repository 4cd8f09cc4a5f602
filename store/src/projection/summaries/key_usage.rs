//! `monthly_key_usage`: counted units of each API key's calls since its user's last reset of the month. There is no row
//! where nothing is counted.

use ledger::{KeyId, Month, UserId};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{Error, Position};

/// A user's month of a key.
pub type KeyMonth = (UserId, Month, KeyId);

/// Forgets what was counted of these months: they were reset, and what comes now is counted after that.
pub async fn reset(conn: &mut PgConnection, months: &[(UserId, Month)]) -> Result<(), Error> {
    let (users, months): (Vec<Uuid>, Vec<String>) =
        months.iter().map(|(user, month)| (user.get(), month.to_string())).unzip();
    sqlx::query!(
        "DELETE FROM monthly_key_usage k USING UNNEST($1::uuid[], $2::text[]) AS r (user_id, month_year)
         WHERE k.user_id = r.user_id AND k.month_year = r.month_year",
        &users,
        &months
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Adds units, sorted by key, each of calls after the month's last reset.
pub async fn add(conn: &mut PgConnection, added: &[(KeyMonth, i64)]) -> Result<(), Error> {
    let columns = Columns::of(added);
    sqlx::query!(
        "INSERT INTO monthly_key_usage AS k (user_id, month_year, key_id, units)
         SELECT * FROM UNNEST($1::uuid[], $2::text[], $3::uuid[], $4::bigint[])
         ON CONFLICT (user_id, month_year, key_id) DO UPDATE SET units = k.units + excluded.units",
        &columns.users,
        &columns.months,
        &columns.keys,
        &columns.units,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Adds the units of calls that are applied late, out of the log's order, at `position`: those of months that were
/// reset after it are dropped.
pub async fn add_late(
    conn: &mut PgConnection,
    added: &[(KeyMonth, i64)],
    position: Position,
) -> Result<(), Error> {
    let columns = Columns::of(added);
    let (log_seq, log_idx) = position.columns();
    sqlx::query!(
        "INSERT INTO monthly_key_usage AS k (user_id, month_year, key_id, units)
         SELECT a.user_id, a.month_year, a.key_id, a.units
         FROM UNNEST($1::uuid[], $2::text[], $3::uuid[], $4::bigint[]) AS a (user_id, month_year, key_id, units)
         WHERE NOT EXISTS (SELECT FROM monthly_usage_summary s
                           WHERE s.user_id = a.user_id AND s.month_year = a.month_year
                             AND (s.reset_seq, s.reset_idx) > ($5, $6))
         ON CONFLICT (user_id, month_year, key_id) DO UPDATE SET units = k.units + excluded.units",
        &columns.users,
        &columns.months,
        &columns.keys,
        &columns.units,
        log_seq,
        log_idx,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Counts the month anew from its rows, as of the reset that its summary has: a reset was applied out of the log's
/// order.
pub async fn recount(conn: &mut PgConnection, user: UserId, month: Month) -> Result<(), Error> {
    reset(conn, &[(user, month)]).await?;
    sqlx::query!(
        "INSERT INTO monthly_key_usage (user_id, month_year, key_id, units)
         SELECT s.user_id, s.month_year, u.key_id, sum(u.units)
         FROM monthly_usage_summary s JOIN api_usage u ON u.user_id = s.user_id
         WHERE s.user_id = $1 AND s.month_year = $2 AND u.created_at >= $3 AND u.created_at < $4
           AND u.counted AND u.key_id IS NOT NULL AND (u.log_seq, u.log_idx) > (s.reset_seq, s.reset_idx)
         GROUP BY s.user_id, s.month_year, u.key_id",
        user.get(),
        month.to_string(),
        month.start(),
        month.end(),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Change of a key's units by the completion of a call that was counted when it began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyCorrection {
    /// The key and its month.
    pub of: KeyMonth,
    /// The call's position: a reset after it has dropped the call already.
    pub position: Position,
    /// Units that are added; negative to take back.
    pub units: i64,
}

/// Applies the corrections of calls that are counted in their month, which are those after its last reset.
pub async fn correct(conn: &mut PgConnection, corrections: &[KeyCorrection]) -> Result<(), Error> {
    let added: Vec<_> = corrections.iter().map(|correction| (correction.of, correction.units)).collect();
    let columns = Columns::of(&added);
    let (log_seq, log_idx): (Vec<i64>, Vec<i32>) = corrections.iter().map(|c| c.position.columns()).unzip();
    sqlx::query!(
        "UPDATE monthly_key_usage k SET units = k.units + n.units
         FROM (SELECT c.user_id, c.month_year, c.key_id, sum(c.units)::bigint AS units
               FROM UNNEST($1::uuid[], $2::text[], $3::uuid[], $4::bigint[], $5::bigint[], $6::int[])
                    AS c (user_id, month_year, key_id, units, log_seq, log_idx)
               JOIN monthly_usage_summary s ON s.user_id = c.user_id AND s.month_year = c.month_year
                AND (s.reset_seq, s.reset_idx) < (c.log_seq, c.log_idx)
               GROUP BY c.user_id, c.month_year, c.key_id) n
         WHERE k.user_id = n.user_id AND k.month_year = n.month_year AND k.key_id = n.key_id",
        &columns.users,
        &columns.months,
        &columns.keys,
        &columns.units,
        &log_seq,
        &log_idx,
    )
    .execute(&mut *conn)
    .await?;
    drop_empty(conn, &columns).await
}

/// Adds what sums differ by that were counted anew, and drops those of which nothing is left, within the caller's
/// transaction, which holds the checkpoint's lock. Months that were reset after `seq`, up to which it was counted, are
/// right by that already.
pub async fn mend(conn: &mut PgConnection, missing: &[(KeyMonth, i64)], seq: u64) -> Result<(), Error> {
    let columns = Columns::of(missing);
    sqlx::query!(
        "INSERT INTO monthly_key_usage AS k (user_id, month_year, key_id, units)
         SELECT a.user_id, a.month_year, a.key_id, a.units
         FROM UNNEST($1::uuid[], $2::text[], $3::uuid[], $4::bigint[]) AS a (user_id, month_year, key_id, units)
         WHERE a.units > 0 AND NOT EXISTS (SELECT FROM monthly_usage_summary s
             WHERE s.user_id = a.user_id AND s.month_year = a.month_year AND s.reset_seq > $5)
         ON CONFLICT (user_id, month_year, key_id) DO UPDATE SET units = k.units + excluded.units",
        &columns.users,
        &columns.months,
        &columns.keys,
        &columns.units,
        crate::position::seq_to_column(seq),
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!(
        "UPDATE monthly_key_usage k SET units = k.units + a.units
         FROM UNNEST($1::uuid[], $2::text[], $3::uuid[], $4::bigint[]) AS a (user_id, month_year, key_id, units)
         WHERE a.units < 0 AND k.user_id = a.user_id AND k.month_year = a.month_year AND k.key_id = a.key_id
           AND NOT EXISTS (SELECT FROM monthly_usage_summary s
                           WHERE s.user_id = a.user_id AND s.month_year = a.month_year AND s.reset_seq > $5)",
        &columns.users,
        &columns.months,
        &columns.keys,
        &columns.units,
        crate::position::seq_to_column(seq),
    )
    .execute(&mut *conn)
    .await?;
    drop_empty(conn, &columns).await
}

async fn drop_empty(conn: &mut PgConnection, columns: &Columns) -> Result<(), Error> {
    sqlx::query!(
        "DELETE FROM monthly_key_usage k USING UNNEST($1::uuid[], $2::text[], $3::uuid[])
             AS c (user_id, month_year, key_id)
         WHERE k.user_id = c.user_id AND k.month_year = c.month_year AND k.key_id = c.key_id AND k.units = 0",
        &columns.users,
        &columns.months,
        &columns.keys,
    )
    .execute(conn)
    .await?;
    Ok(())
}

struct Columns {
    users: Vec<Uuid>,
    months: Vec<String>,
    keys: Vec<Uuid>,
    units: Vec<i64>,
}

impl Columns {
    fn of(added: &[(KeyMonth, i64)]) -> Self {
        Self {
            users: added.iter().map(|((user, ..), _)| user.get()).collect(),
            months: added.iter().map(|((_, month, _), _)| month.to_string()).collect(),
            keys: added.iter().map(|((.., key), _)| key.get()).collect(),
            units: added.iter().map(|(_, units)| *units).collect(),
        }
    }
}
