//! `usage_hourly`: sums of calls by the hour, a cache behind the checkpoint. A user's hour is in it complete or not at
//! all; `compacted_days` says of days with many calls which of their hours are.
//!
//! An hour is made in three steps: [`claim`] a day, [`read`] its calls in a snapshot that keeps nobody waiting, [`put`]
//! the sums there. Whoever changes calls calls [`forget`] in the same transaction, holding the checkpoint's lock as
//! [`claim`] does. So a change is either committed before the day is claimed, and is read; or it finds the claim and
//! takes it back, and nothing is put; or it waits for what is being put, and takes that back.

use std::collections::HashSet;

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use ledger::{Category, Month, UserId};
use sqlx::PgConnection;
use uuid::Uuid;

use super::partitions;
use crate::Error;

/// Time of the log for which an hour that has ended is left alone. A call can be completed for an hour, and those of
/// now keep coming in for a while: what is compacted should stay so.
const GRACE: TimeDelta = TimeDelta::minutes(75);
/// Bits of the filter of users. 16 KiB are read where a batch holds calls of long ago; of 10,000 users with compacted
/// hours a thirteenth of all others share a bit, and are looked up in vain.
const FILTER_BITS: usize = 131_072;
const HOURS_A_DAY: i64 = 24;
/// All hours of a day.
const WHOLE_DAY: i32 = (1 << HOURS_A_DAY) - 1;

/// Hour of a user in which calls were added or changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Touched {
    /// User who made the calls.
    pub user: UserId,
    /// Start of the hour.
    pub hour: DateTime<Utc>,
    /// Number of calls that were added.
    pub calls: u32,
}

/// Day of a user, some of whose hours are to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimedDay {
    user: UserId,
    day: DateTime<Utc>,
    claim: Uuid,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
}

/// Days that were claimed, of those that were looked at.
#[derive(Debug, Default)]
pub struct Claimed {
    /// Those of which there are hours to read.
    pub days: Vec<ClaimedDay>,
    /// Number of days that were due; the others are due later, or no more.
    pub looked_at: usize,
}

/// Sums of a user's hour, of one category, of calls that count or of those that do not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HourSums {
    /// Start of the hour.
    pub hour: DateTime<Utc>,
    /// Category of the calls.
    pub category: Category,
    /// Whether they count.
    pub counted: bool,
    /// Units.
    pub units: i64,
    /// Calls.
    pub calls: i64,
    /// Sum of the known response times.
    pub total_response_time_ms: i64,
    /// Number of calls with a known response time.
    pub timed_calls: i64,
}

/// The start of the instant's hour.
pub fn start_of_hour(at: DateTime<Utc>) -> DateTime<Utc> {
    at.duration_trunc(TimeDelta::hours(1)).unwrap_or(at)
}

/// The start of the instant's day.
pub fn start_of_day(at: DateTime<Utc>) -> DateTime<Utc> {
    at.duration_trunc(TimeDelta::days(1)).unwrap_or(at)
}

/// Takes out of the cache those of these hours that are in it, and what is about to be put there of their days. The
/// caller holds the checkpoint's lock. Calls of now cost one look at one row, and those of users without compacted
/// hours one at the filter.
pub async fn forget(conn: &mut PgConnection, partition: i16, touched: &[Touched]) -> Result<(), Error> {
    let Some(first) = touched.iter().map(|touched| touched.hour).min() else { return Ok(()) };
    let state = sqlx::query!(
        "SELECT frontier, users FROM hour_compaction WHERE partition = $1 AND frontier > $2",
        partition,
        first
    )
    .fetch_optional(&mut *conn)
    .await?;
    let Some(state) = state else { return Ok(()) };
    let known = touched.iter().filter(|t| t.hour < state.frontier && is_in(&state.users, t.user));
    let keys: Vec<(Uuid, DateTime<Utc>)> = known.map(|touched| (touched.user.get(), touched.hour)).collect();
    if keys.is_empty() {
        return Ok(());
    }
    let users: Vec<Uuid> = keys.iter().map(|(user, _)| *user).collect();
    let days: Vec<DateTime<Utc>> = keys.iter().map(|(_, hour)| start_of_day(*hour)).collect();
    let bits: Vec<i32> = keys.iter().map(|(_, hour)| bits(*hour, *hour + TimeDelta::hours(1))).collect();
    // The day before its hours: whoever is putting some there has locked the day, is waited for, and then seen.
    let changed = sqlx::query!(
        "UPDATE compacted_days d
         SET hours = d.hours & ~k.hours, claim = NULL, due_at = now() + interval '10 minutes'
         FROM (SELECT user_id, day, bit_or(hours) AS hours
               FROM UNNEST($1::uuid[], $2::timestamptz[], $3::int[]) AS touched (user_id, day, hours)
               GROUP BY user_id, day) k
         WHERE d.user_id = k.user_id AND d.day = k.day AND (d.claim IS NOT NULL OR d.hours & k.hours <> 0)
         RETURNING d.user_id, d.day",
        &users,
        &days,
        &bits
    )
    .fetch_all(&mut *conn)
    .await?;
    if changed.is_empty() {
        return Ok(());
    }
    let changed: HashSet<(Uuid, DateTime<Utc>)> =
        changed.into_iter().map(|row| (row.user_id, row.day)).collect();
    let gone = keys.into_iter().filter(|(user, hour)| changed.contains(&(*user, start_of_day(*hour))));
    let (users, hours): (Vec<Uuid>, Vec<DateTime<Utc>>) = gone.unzip();
    sqlx::query!(
        "DELETE FROM usage_hourly h USING UNNEST($1::uuid[], $2::timestamptz[]) AS gone (user_id, bucket)
         WHERE h.user_id = gone.user_id AND h.bucket = gone.bucket",
        &users,
        &hours
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Notes users' days that have many calls: they are compacted once their hours are past. A day that is noted already
/// stays as it is.
pub async fn note(conn: &mut PgConnection, days: &[(UserId, DateTime<Utc>)]) -> Result<(), Error> {
    let (users, days): (Vec<Uuid>, Vec<DateTime<Utc>>) =
        days.iter().map(|(user, day)| (user.get(), *day)).unzip();
    sqlx::query!(
        "INSERT INTO compacted_days (user_id, day, due_at)
         SELECT user_id, day, now() + interval '10 minutes'
         FROM UNNEST($1::uuid[], $2::timestamptz[]) AS noted (user_id, day)
         ON CONFLICT (user_id, day) DO NOTHING",
        &users,
        &days
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Whether a day is due. Locks nothing.
pub async fn is_due(conn: &mut PgConnection) -> Result<bool, Error> {
    let due =
        sqlx::query_scalar!(r#"SELECT EXISTS (SELECT FROM compacted_days WHERE due_at <= now()) AS "due!""#)
            .fetch_one(conn)
            .await?;
    Ok(due)
}

/// Claims days that are due, of which hours lie far enough behind `log_time`, the log's time at the checkpoint. At most
/// `limit` are looked at. The caller has locked the checkpoint, and commits before it reads.
///
/// A claim that comes to nothing, for who made it died, is made anew ten minutes later. A day of a detached month has
/// no calls here to be summed, and is due no more.
pub async fn claim(
    conn: &mut PgConnection,
    partition: i16,
    log_time: DateTime<Utc>,
    limit: i64,
) -> Result<Claimed, Error> {
    let state = sqlx::query!(
        "SELECT frontier, users FROM hour_compaction WHERE partition = $1 FOR UPDATE",
        partition
    )
    .fetch_optional(&mut *conn)
    .await?;
    let (before, mut users) =
        state.map_or_else(|| (None, vec![0; FILTER_BITS / 8]), |state| (Some(state.frontier), state.users));
    let frontier = start_of_hour(log_time - GRACE);
    // The log's time can go back, by a server's clock.
    let frontier = before.map_or(frontier, |before| before.max(frontier));
    let due = sqlx::query!(
        "SELECT user_id, day, hours FROM compacted_days WHERE due_at <= now() ORDER BY due_at LIMIT $1
         FOR UPDATE SKIP LOCKED",
        limit
    )
    .fetch_all(&mut *conn)
    .await?;
    let looked_at = due.len();
    let attached = partitions::attached(conn).await?;
    let (mut ranges, mut later) = (Vec::new(), Vec::new());
    let mut is_new = before != Some(frontier);
    for row in due {
        let user = UserId::new(row.user_id);
        let is_there = attached.contains(&Month::of(row.day));
        match missing(row.day, row.hours, frontier).filter(|_| is_there) {
            Some((from, to)) => {
                ranges.push((user, row.day, from, to));
                is_new |= put_in(&mut users, user);
            }
            None => later.push((user.get(), row.day, is_there && row.hours != WHOLE_DAY)),
        }
    }
    postpone(conn, later).await?;
    if ranges.is_empty() {
        return Ok(Claimed { days: Vec::new(), looked_at });
    }
    if is_new {
        sqlx::query!(
            "INSERT INTO hour_compaction (partition, frontier, users) VALUES ($1, $2, $3)
             ON CONFLICT (partition) DO UPDATE SET frontier = excluded.frontier, users = excluded.users",
            partition,
            frontier,
            users
        )
        .execute(&mut *conn)
        .await?;
    }
    let mut days = Vec::new();
    for (user, day, from, to) in ranges {
        let claim = sqlx::query_scalar!(
            r#"UPDATE compacted_days SET claim = gen_random_uuid(), due_at = now() + interval '10 minutes'
               WHERE user_id = $1 AND day = $2 RETURNING claim AS "claim!""#,
            user.get(),
            day
        )
        .fetch_one(&mut *conn)
        .await?;
        days.push(ClaimedDay { user, day, claim, from, to });
    }
    Ok(Claimed { days, looked_at })
}

/// Users' days of which there is nothing to do for now (`true`), or until one of their calls changes.
async fn postpone(conn: &mut PgConnection, days: Vec<(Uuid, DateTime<Utc>, bool)>) -> Result<(), Error> {
    if days.is_empty() {
        return Ok(());
    }
    let (users, days, are_due): (Vec<Uuid>, Vec<DateTime<Utc>>, Vec<bool>) = days.into_iter().collect();
    sqlx::query!(
        "UPDATE compacted_days d SET due_at = CASE WHEN later.is_due THEN now() + interval '10 minutes' END
         FROM UNNEST($1::uuid[], $2::timestamptz[], $3::boolean[]) AS later (user_id, day, is_due)
         WHERE d.user_id = later.user_id AND d.day = later.day",
        &users,
        &days,
        &are_due
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The sums of a claimed day's hours, by its calls. One statement: a snapshot that no lock is held for.
pub async fn read(conn: &mut PgConnection, day: &ClaimedDay) -> Result<Vec<HourSums>, Error> {
    let rows = sqlx::query!(
        r#"SELECT date_trunc('hour', created_at, 'UTC') AS "hour!", category, counted, SUM(units)::bigint AS "units!",
                  COUNT(*) AS "calls!", COALESCE(SUM(response_time_ms), 0)::bigint AS "total_response_time_ms!",
                  COUNT(response_time_ms) AS "timed_calls!"
           FROM api_usage WHERE user_id = $1 AND created_at >= $2 AND created_at < $3
           GROUP BY 1, 2, 3"#,
        day.user.get(),
        day.from,
        day.to
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(HourSums {
                hour: row.hour,
                category: row.category.parse().map_err(|_| Error::Inconsistent {
                    table: "api_usage",
                    column: "category",
                    value: row.category,
                })?,
                counted: row.counted,
                units: row.units,
                calls: row.calls,
                total_response_time_ms: row.total_response_time_ms,
                timed_calls: row.timed_calls,
            })
        })
        .collect()
}

/// Puts what was read of a claimed day into the cache, within the caller's transaction. `false`, and nothing is put,
/// when one of its calls changed since it was claimed, or its month was detached.
pub async fn put(conn: &mut PgConnection, day: &ClaimedDay, hours: &[HourSums]) -> Result<bool, Error> {
    let is_claimed = sqlx::query_scalar!(
        r#"SELECT 1 AS "one!" FROM compacted_days WHERE user_id = $1 AND day = $2 AND claim = $3 FOR UPDATE"#,
        day.user.get(),
        day.day,
        day.claim
    )
    .fetch_optional(&mut *conn)
    .await?;
    if is_claimed.is_none() || !partitions::attached(conn).await?.contains(&Month::of(day.day)) {
        return Ok(false);
    }
    // Hours in between that were complete were read as well.
    sqlx::query!(
        "DELETE FROM usage_hourly WHERE user_id = $1 AND bucket >= $2 AND bucket < $3",
        day.user.get(),
        day.from,
        day.to
    )
    .execute(&mut *conn)
    .await?;
    insert(conn, day.user, hours).await?;
    sqlx::query!(
        "UPDATE compacted_days
         SET hours = hours | $3, claim = NULL,
             due_at = CASE WHEN hours | $3 <> $4 THEN now() + interval '1 hour' END
         WHERE user_id = $1 AND day = $2",
        day.user.get(),
        day.day,
        bits(day.from, day.to),
        WHOLE_DAY
    )
    .execute(conn)
    .await?;
    Ok(true)
}

async fn insert(conn: &mut PgConnection, user: UserId, hours: &[HourSums]) -> Result<(), Error> {
    let buckets: Vec<DateTime<Utc>> = hours.iter().map(|sums| sums.hour).collect();
    let categories: Vec<&str> = hours.iter().map(|sums| sums.category.as_str()).collect();
    let counted: Vec<bool> = hours.iter().map(|sums| sums.counted).collect();
    let units: Vec<i64> = hours.iter().map(|sums| sums.units).collect();
    let calls: Vec<i64> = hours.iter().map(|sums| sums.calls).collect();
    let total_ms: Vec<i64> = hours.iter().map(|sums| sums.total_response_time_ms).collect();
    let timed: Vec<i64> = hours.iter().map(|sums| sums.timed_calls).collect();
    sqlx::query!(
        "INSERT INTO usage_hourly
             (user_id, bucket, category, counted, units, calls, total_response_time_ms, timed_calls)
         SELECT $1::uuid, * FROM UNNEST($2::timestamptz[], $3::text[], $4::bool[], $5::bigint[], $6::bigint[],
                                        $7::bigint[], $8::bigint[])",
        user.get(),
        &buckets,
        &categories as &[&str],
        &counted,
        &units,
        &calls,
        &total_ms,
        &timed
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The range from the first hour of the day that is not complete to the frontier, if there is one.
fn missing(
    day: DateTime<Utc>,
    hours: i32,
    frontier: DateTime<Utc>,
) -> Option<(DateTime<Utc>, DateTime<Utc>)> {
    let from = day + TimeDelta::hours(i64::from((!hours).trailing_zeros()));
    let to = frontier.min(day + TimeDelta::hours(HOURS_A_DAY));
    (from < to).then_some((from, to))
}

/// The bits of the hours of one day from one full hour to another, which is midnight at the latest.
fn bits(from: DateTime<Utc>, to: DateTime<Utc>) -> i32 {
    let day = start_of_day(from);
    let below = |at: DateTime<Utc>| (1_i32 << (at - day).num_hours().clamp(0, HOURS_A_DAY)) - 1;
    below(to) & !below(from)
}

/// The user's byte in the filter, and its bit there.
fn place(user: UserId) -> (usize, u8) {
    let (high, low) = user.get().as_u64_pair();
    // Ids are random, begin with a time, or are whatever a host has numbered: every bit has to depend on all of them
    // (the finalizer of SplitMix64, Steele, Lea and Flood 2014).
    let mut hash = high ^ low.rotate_left(32);
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^= hash >> 31;
    let bit = usize::try_from(hash % FILTER_BITS as u64).unwrap_or_default();
    (bit / 8, 1 << (bit % 8))
}

/// Whether the user may have compacted hours.
fn is_in(filter: &[u8], user: UserId) -> bool {
    let (byte, bit) = place(user);
    filter.get(byte).is_none_or(|bits| bits & bit != 0)
}

/// Puts the user into the filter; `false` when it was there.
fn put_in(filter: &mut [u8], user: UserId) -> bool {
    let (byte, bit) = place(user);
    filter.get_mut(byte).is_some_and(|bits| {
        let is_new = *bits & bit == 0;
        *bits |= bit;
        is_new
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn hours_of_a_day_are_bits() {
        let midnight = at("2026-11-30T00:00:00Z");
        let hour = |n| midnight + TimeDelta::hours(n);
        assert_eq!(bits(midnight, hour(24)), WHOLE_DAY);
        assert_eq!(bits(midnight, hour(1)), 1);
        assert_eq!(bits(hour(23), hour(24)), 1 << 23);
        assert_eq!(bits(hour(2), hour(5)), 0b11100);
        assert_eq!(missing(midnight, 0, midnight), None, "no hour of it is past");
        assert_eq!(missing(midnight, 0, hour(3)), Some((midnight, hour(3))));
        assert_eq!(missing(midnight, 0b111, hour(3)), None);
        assert_eq!(missing(midnight, 0b101, hour(3)), Some((hour(1), hour(3))));
        assert_eq!(missing(midnight, WHOLE_DAY, hour(99)), None);
        assert_eq!(missing(midnight, WHOLE_DAY >> 1, hour(99)), Some((hour(23), hour(24))));
    }

    #[test]
    fn the_filter_knows_whom_it_was_told() {
        let mut filter = vec![0; FILTER_BITS / 8];
        let user = |n: u128| UserId::new(Uuid::from_u128(n << 64 | n));
        for n in 0..10_000 {
            put_in(&mut filter, user(n));
        }
        assert!((0..10_000).all(|n| is_in(&filter, user(n))));
        let others = (10_000..20_000).filter(|n| is_in(&filter, user(*n))).count();
        assert!((300..1_500).contains(&others), "{others} of 10,000 others share a bit");
    }
}
