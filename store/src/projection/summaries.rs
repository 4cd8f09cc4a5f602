//! `monthly_usage_summary`: units per user and month since the month's last reset.

use chrono::{DateTime, Utc};
use ledger::limit::{BLOCKED_PERCENT, WARNING_PERCENT};
use ledger::{Month, UserId};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{Error, Position};

pub mod key_usage;

/// Amounts that a batch adds to a user's month.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delta {
    /// The last reset of the month within the batch; what was counted before it is dropped.
    pub reset: Option<Position>,
    /// Units of category analyze.
    pub analyze: i64,
    /// Units of category auth.
    pub auth: i64,
    /// Units of category other.
    pub other: i64,
    /// Sum of the known response times.
    pub total_response_time_ms: i64,
    /// Number of calls with a known response time.
    pub timed_calls: i64,
    /// The latest time of the events that made it.
    pub last_updated: DateTime<Utc>,
}

impl Delta {
    /// Units of all categories.
    pub fn total(&self) -> i64 {
        self.analyze + self.auth + self.other
    }

    /// Units by category: analyze, auth, other.
    pub fn units(&self) -> [i64; 3] {
        [self.analyze, self.auth, self.other]
    }
}

/// A month of a user that has just reached 80 or 100 % of a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crossed {
    /// User of the month.
    pub user: UserId,
    /// The month.
    pub month: Month,
}

/// Adds the deltas, which are sorted by key and each belong to positions after the month's stored reset. Returns
/// the months that reach a threshold by it.
pub async fn add(
    conn: &mut PgConnection,
    deltas: &[((UserId, Month), Delta)],
) -> Result<Vec<Crossed>, Error> {
    let mut crossed = Vec::new();
    let mut is_there = vec![false; deltas.len()];
    for (at, sums) in add_to_present(conn, deltas).await? {
        let Some((key, delta)) = deltas.get(at) else { continue };
        is_there[at] = true;
        if sums.reach(delta) {
            crossed.push(Crossed { user: key.0, month: key.1 });
        }
    }
    let mut is_there = is_there.into_iter();
    let new: Vec<_> = deltas.iter().filter(|_| is_there.next() == Some(false)).cloned().collect();
    if !new.is_empty() {
        crossed.extend(insert(conn, &new).await?);
    }
    Ok(crossed)
}

/// A month's units and limits, a batch's included.
struct Reached {
    total: i64,
    analyze: i64,
    total_limit: Option<i64>,
    analyze_limit: Option<i64>,
}

impl Reached {
    /// Whether a threshold was reached by the delta, the last one that was added.
    fn reach(&self, delta: &Delta) -> bool {
        reaches(self.total, delta.total(), self.total_limit, delta.reset)
            || reaches(self.analyze, delta.analyze, self.analyze_limit, delta.reset)
    }
}

/// Adds those of the deltas whose months have a summary, and answers which they are. Nearly all of a busy batch's have
/// one, and an upsert would check a row of each that it does not insert: this takes half of its time.
async fn add_to_present(
    conn: &mut PgConnection,
    deltas: &[((UserId, Month), Delta)],
) -> Result<Vec<(usize, Reached)>, Error> {
    let columns = Columns::of(deltas);
    let rows = sqlx::query!(
        r#"UPDATE monthly_usage_summary s SET
               total_calls = d.analyze_calls + d.auth_calls + d.other_calls
                   + CASE WHEN d.reset_seq > 0 THEN 0 ELSE s.total_calls END,
               analyze_calls = d.analyze_calls + CASE WHEN d.reset_seq > 0 THEN 0 ELSE s.analyze_calls END,
               auth_calls = d.auth_calls + CASE WHEN d.reset_seq > 0 THEN 0 ELSE s.auth_calls END,
               other_calls = d.other_calls + CASE WHEN d.reset_seq > 0 THEN 0 ELSE s.other_calls END,
               total_response_time_ms = d.total_response_time_ms
                   + CASE WHEN d.reset_seq > 0 THEN 0 ELSE s.total_response_time_ms END,
               timed_calls = d.timed_calls + CASE WHEN d.reset_seq > 0 THEN 0 ELSE s.timed_calls END,
               last_updated = GREATEST(s.last_updated, d.last_updated),
               reset_seq = CASE WHEN d.reset_seq > 0 THEN d.reset_seq ELSE s.reset_seq END,
               reset_idx = CASE WHEN d.reset_seq > 0 THEN d.reset_idx ELSE s.reset_idx END
           FROM UNNEST($1::uuid[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
                       $8::timestamptz[], $9::bigint[], $10::int[])
                WITH ORDINALITY AS d (user_id, month_year, analyze_calls, auth_calls, other_calls,
                                      total_response_time_ms, timed_calls, last_updated, reset_seq, reset_idx, place)
           WHERE s.user_id = d.user_id AND s.month_year = d.month_year
           RETURNING d.place AS "place!", s.total_calls AS "total!", s.analyze_calls AS "analyze!",
                     s.monthly_api_limit AS "total_limit?", s.analyze_limit AS "analyze_limit?""#,
        &columns.user_id,
        &columns.month_year,
        &columns.analyze,
        &columns.auth,
        &columns.other,
        &columns.total_response_time_ms,
        &columns.timed_calls,
        &columns.last_updated,
        &columns.reset_seq,
        &columns.reset_idx,
    )
    .fetch_all(conn)
    .await?;
    let rows = rows.into_iter().filter_map(|row| {
        // Places are counted from 1.
        let at = usize::try_from(row.place).ok()?.checked_sub(1)?;
        let (total_limit, analyze_limit) = (row.total_limit, row.analyze_limit);
        Some((at, Reached { total: row.total, analyze: row.analyze, total_limit, analyze_limit }))
    });
    Ok(rows.collect())
}

/// Adds the deltas of months that may have no summary yet: its limits are those of the plan in force.
async fn insert(conn: &mut PgConnection, deltas: &[((UserId, Month), Delta)]) -> Result<Vec<Crossed>, Error> {
    let columns = Columns::of(deltas);
    let rows = sqlx::query!(
        r#"WITH added AS (
               INSERT INTO monthly_usage_summary AS s
                   (user_id, month_year, total_calls, analyze_calls, auth_calls, other_calls, total_response_time_ms,
                    timed_calls, last_updated, reset_seq, reset_idx, monthly_api_limit, analyze_limit)
               SELECT d.user_id, d.month_year, d.analyze_calls + d.auth_calls + d.other_calls, d.analyze_calls,
                      d.auth_calls, d.other_calls, d.total_response_time_ms, d.timed_calls, d.last_updated,
                      d.reset_seq, d.reset_idx, p.monthly_api_limit, p.analyze_limit
               FROM UNNEST($1::uuid[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],
                           $7::bigint[], $8::timestamptz[], $9::bigint[], $10::int[], $11::timestamptz[])
                    AS d (user_id, month_year, analyze_calls, auth_calls, other_calls, total_response_time_ms,
                          timed_calls, last_updated, reset_seq, reset_idx, last_instant)
               LEFT JOIN LATERAL plan_at(d.user_id, d.last_instant) p ON TRUE
               ON CONFLICT (user_id, month_year) DO UPDATE SET
                   total_calls = excluded.total_calls
                       + CASE WHEN excluded.reset_seq > 0 THEN 0 ELSE s.total_calls END,
                   analyze_calls = excluded.analyze_calls
                       + CASE WHEN excluded.reset_seq > 0 THEN 0 ELSE s.analyze_calls END,
                   auth_calls = excluded.auth_calls
                       + CASE WHEN excluded.reset_seq > 0 THEN 0 ELSE s.auth_calls END,
                   other_calls = excluded.other_calls
                       + CASE WHEN excluded.reset_seq > 0 THEN 0 ELSE s.other_calls END,
                   total_response_time_ms = excluded.total_response_time_ms
                       + CASE WHEN excluded.reset_seq > 0 THEN 0 ELSE s.total_response_time_ms END,
                   timed_calls = excluded.timed_calls
                       + CASE WHEN excluded.reset_seq > 0 THEN 0 ELSE s.timed_calls END,
                   last_updated = GREATEST(s.last_updated, excluded.last_updated),
                   reset_seq = CASE WHEN excluded.reset_seq > 0 THEN excluded.reset_seq ELSE s.reset_seq END,
                   reset_idx = CASE WHEN excluded.reset_seq > 0 THEN excluded.reset_idx ELSE s.reset_idx END
               RETURNING s.user_id, s.month_year, s.total_calls, s.analyze_calls, s.monthly_api_limit,
                         s.analyze_limit)
           SELECT user_id, month_year, total_calls, analyze_calls, monthly_api_limit, analyze_limit FROM added
           -- In numeric: a limit may be as large as a column holds.
           WHERE 100 * total_calls::numeric >= 80 * monthly_api_limit::numeric
              OR 100 * analyze_calls::numeric >= 80 * analyze_limit::numeric"#,
        &columns.user_id,
        &columns.month_year,
        &columns.analyze,
        &columns.auth,
        &columns.other,
        &columns.total_response_time_ms,
        &columns.timed_calls,
        &columns.last_updated,
        &columns.reset_seq,
        &columns.reset_idx,
        &columns.last_instant,
    )
    .fetch_all(conn)
    .await?;
    let mut crossed = Vec::new();
    for row in rows {
        let key = (UserId::new(row.user_id), month(row.month_year)?);
        let Ok(at) = deltas.binary_search_by_key(&key, |(key, _)| *key) else { continue };
        let (total_limit, analyze_limit) = (row.monthly_api_limit, row.analyze_limit);
        let sums = Reached { total: row.total_calls, analyze: row.analyze_calls, total_limit, analyze_limit };
        if sums.reach(&deltas[at].1) {
            crossed.push(Crossed { user: key.0, month: key.1 });
        }
    }
    Ok(crossed)
}

/// Whether a meter reached a threshold with its last `added` units; after a reset all of it counts as added.
fn reaches(used: i64, added: i64, limit: Option<i64>, reset: Option<Position>) -> bool {
    let Some(limit) = limit else { return false };
    let before = if reset.is_some() { 0 } else { used - added };
    let is_at = |used: i64, percent: u8| i128::from(used) * 100 >= i128::from(limit) * i128::from(percent);
    [WARNING_PERCENT, BLOCKED_PERCENT].iter().any(|&percent| is_at(used, percent) && !is_at(before, percent))
}

/// Adds the delta of one call that is applied late, out of the log's order: it is dropped if the month was reset
/// after `position`. Answers the units by category that it added.
pub async fn add_late(
    conn: &mut PgConnection,
    key: (UserId, Month),
    position: Position,
    delta: &Delta,
) -> Result<[i64; 3], Error> {
    let (user, month) = key;
    add(conn, &[(key, Delta { last_updated: delta.last_updated, ..Delta::default() })]).await?;
    let (log_seq, log_idx) = position.columns();
    let added = sqlx::query!(
        "UPDATE monthly_usage_summary
         SET total_calls = total_calls + $5 + $6 + $7, analyze_calls = analyze_calls + $5,
             auth_calls = auth_calls + $6, other_calls = other_calls + $7,
             total_response_time_ms = total_response_time_ms + $8, timed_calls = timed_calls + $9
         WHERE user_id = $1 AND month_year = $2 AND (reset_seq, reset_idx) < ($3, $4)",
        user.get(),
        month.to_string(),
        log_seq,
        log_idx,
        delta.analyze,
        delta.auth,
        delta.other,
        delta.total_response_time_ms,
        delta.timed_calls
    )
    .execute(conn)
    .await?;
    Ok(if added.rows_affected() == 0 { [0; 3] } else { delta.units() })
}

/// Resets the month as of `position`, out of the log's order: what was counted after it is counted anew from the rows;
/// a later reset stays. Answers the units by category that it added, which are none or less.
pub async fn reset_late(
    conn: &mut PgConnection,
    key: (UserId, Month),
    position: Position,
    at: DateTime<Utc>,
) -> Result<[i64; 3], Error> {
    let (user, month) = key;
    add(conn, &[(key, Delta { last_updated: at, ..Delta::default() })]).await?;
    let (log_seq, log_idx) = position.columns();
    let reset = sqlx::query!(
        r#"UPDATE monthly_usage_summary s
           SET total_calls = n.analyze + n.auth + n.other, analyze_calls = n.analyze, auth_calls = n.auth,
               other_calls = n.other, total_response_time_ms = n.time_ms, timed_calls = n.timed,
               reset_seq = $3, reset_idx = $4
           FROM (SELECT COALESCE(sum(units) FILTER (WHERE category = 'analyze'), 0)::bigint AS "analyze",
                        COALESCE(sum(units) FILTER (WHERE category = 'auth'), 0)::bigint AS auth,
                        COALESCE(sum(units) FILTER (WHERE category = 'other'), 0)::bigint AS other,
                        COALESCE(sum(response_time_ms), 0)::bigint AS time_ms,
                        count(response_time_ms) AS timed
                 FROM api_usage
                 WHERE user_id = $1 AND created_at >= $5 AND created_at < $6 AND counted
                   AND (log_seq, log_idx) > ($3, $4)) n,
                -- Row and count are of the statement's one snapshot: this is the month as it was.
                monthly_usage_summary o
           WHERE s.user_id = $1 AND s.month_year = $2 AND (s.reset_seq, s.reset_idx) < ($3, $4)
             AND o.user_id = s.user_id AND o.month_year = s.month_year
           RETURNING n.analyze - o.analyze_calls AS "analyze!", n.auth - o.auth_calls AS "auth!",
                     n.other - o.other_calls AS "other!""#,
        user.get(),
        month.to_string(),
        log_seq,
        log_idx,
        month.start(),
        month.end(),
    )
    .fetch_optional(conn)
    .await?;
    Ok(reset.map_or([0; 3], |added| [added.analyze, added.auth, added.other]))
}

/// Change by a completion of a call that was counted when it began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Correction {
    /// User who made the call.
    pub user: UserId,
    /// The call's month.
    pub month: Month,
    /// The call's position: a reset after it has dropped the call already.
    pub position: Position,
    /// The amounts that are added (negative to take back); `reset` is not used.
    pub delta: Delta,
}

/// Units by category that were added to a user's month.
pub type Added = ((UserId, Month), [i64; 3]);

/// Applies the corrections of calls that are counted in their month, which are those after its last reset. Answers what
/// it added to the months `told`, sorted by key.
pub async fn correct(
    conn: &mut PgConnection,
    corrections: &[Correction],
    told: &[Month],
) -> Result<Vec<Added>, Error> {
    let keyed: Vec<_> = corrections.iter().map(|c| ((c.user, c.month), c.delta.clone())).collect();
    let columns = Columns::of(&keyed);
    let (log_seq, log_idx): (Vec<i64>, Vec<i32>) = corrections.iter().map(|c| c.position.columns()).unzip();
    let told: Vec<String> = told.iter().map(Month::to_string).collect();
    let rows = sqlx::query!(
        r#"WITH corrected AS (
           UPDATE monthly_usage_summary s
           SET total_calls = s.total_calls + n.analyze + n.auth + n.other,
               analyze_calls = s.analyze_calls + n.analyze, auth_calls = s.auth_calls + n.auth,
               other_calls = s.other_calls + n.other,
               total_response_time_ms = s.total_response_time_ms + n.time_ms,
               timed_calls = s.timed_calls + n.timed,
               last_updated = GREATEST(s.last_updated, n.last_updated)
           FROM (SELECT t.user_id, t.month_year, sum(c.analyze_units)::bigint AS "analyze",
                        sum(c.auth_units)::bigint AS auth, sum(c.other_units)::bigint AS other,
                        sum(c.time_ms)::bigint AS time_ms, sum(c.timed)::bigint AS timed,
                        max(c.last_updated) AS last_updated
                 FROM UNNEST($1::uuid[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],
                             $7::bigint[], $8::timestamptz[], $9::bigint[], $10::int[])
                      AS c (user_id, month_year, analyze_units, auth_units, other_units, time_ms, timed,
                            last_updated, log_seq, log_idx)
                 JOIN monthly_usage_summary t ON t.user_id = c.user_id AND t.month_year = c.month_year
                  AND (t.reset_seq, t.reset_idx) < (c.log_seq, c.log_idx)
                 GROUP BY t.user_id, t.month_year) n
           WHERE s.user_id = n.user_id AND s.month_year = n.month_year
           RETURNING s.user_id, s.month_year, n.analyze, n.auth, n.other)
           SELECT user_id, month_year, "analyze" AS "analyze!", auth AS "auth!", other AS "other!" FROM corrected
           WHERE month_year = ANY ($11) ORDER BY user_id, month_year"#,
        &columns.user_id,
        &columns.month_year,
        &columns.analyze,
        &columns.auth,
        &columns.other,
        &columns.total_response_time_ms,
        &columns.timed_calls,
        &columns.last_updated,
        &log_seq,
        &log_idx,
        &told,
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(((UserId::new(row.user_id), month(row.month_year)?), [row.analyze, row.auth, row.other]))
        })
        .collect()
}

/// Sets the limits of the user's months that end after `since` to those of the plans in force. Returns those months,
/// closed ones apart, that are at a threshold under them: another limit may be reached without another call.
pub async fn refresh_limits(
    conn: &mut PgConnection,
    changes: &[(UserId, DateTime<Utc>)],
) -> Result<Vec<Crossed>, Error> {
    let (user_id, since): (Vec<Uuid>, Vec<DateTime<Utc>>) =
        changes.iter().map(|(user, since)| (user.get(), *since)).unzip();
    let rows = sqlx::query!(
        r#"WITH refreshed AS (
               UPDATE monthly_usage_summary s
               SET monthly_api_limit = n.monthly_api_limit, analyze_limit = n.analyze_limit
               FROM (SELECT DISTINCT t.user_id, t.month_year, p.monthly_api_limit, p.analyze_limit
                     FROM UNNEST($1::uuid[], $2::timestamptz[]) AS c (user_id, since)
                     JOIN monthly_usage_summary t ON t.user_id = c.user_id AND month_end(t.month_year) > c.since
                     CROSS JOIN LATERAL plan_at(t.user_id, month_end(t.month_year) - interval '1 microsecond') p) n
               WHERE s.user_id = n.user_id AND s.month_year = n.month_year
               RETURNING s.user_id, s.month_year, s.total_calls, s.analyze_calls, s.monthly_api_limit,
                         s.analyze_limit)
           SELECT user_id, month_year FROM refreshed r
           WHERE (100 * total_calls::numeric >= 80 * monthly_api_limit::numeric
                  OR 100 * analyze_calls::numeric >= 80 * analyze_limit::numeric)
             AND NOT EXISTS (SELECT FROM closed_periods p WHERE p.month_year = r.month_year)"#,
        &user_id,
        &since,
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| Ok(Crossed { user: UserId::new(row.user_id), month: month(row.month_year)? }))
        .collect()
}

fn month(text: String) -> Result<Month, Error> {
    text.parse().map_err(|_| Error::Inconsistent {
        table: "monthly_usage_summary",
        column: "month_year",
        value: text,
    })
}

#[derive(Default)]
struct Columns {
    user_id: Vec<Uuid>,
    month_year: Vec<String>,
    analyze: Vec<i64>,
    auth: Vec<i64>,
    other: Vec<i64>,
    total_response_time_ms: Vec<i64>,
    timed_calls: Vec<i64>,
    last_updated: Vec<DateTime<Utc>>,
    reset_seq: Vec<i64>,
    reset_idx: Vec<i32>,
    last_instant: Vec<DateTime<Utc>>,
}

impl Columns {
    fn of(deltas: &[((UserId, Month), Delta)]) -> Self {
        let mut columns = Self::default();
        for ((user, month), delta) in deltas {
            let (reset_seq, reset_idx) = delta.reset.unwrap_or_default().columns();
            columns.user_id.push(user.get());
            columns.month_year.push(month.to_string());
            columns.analyze.push(delta.analyze);
            columns.auth.push(delta.auth);
            columns.other.push(delta.other);
            columns.total_response_time_ms.push(delta.total_response_time_ms);
            columns.timed_calls.push(delta.timed_calls);
            columns.last_updated.push(delta.last_updated);
            columns.reset_seq.push(reset_seq);
            columns.reset_idx.push(reset_idx);
            columns.last_instant.push(month.end() - chrono::TimeDelta::microseconds(1));
        }
        columns
    }
}
