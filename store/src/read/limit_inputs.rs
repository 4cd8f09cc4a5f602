//! Inputs of the limit decision: counts and plans of many users, consistent with the checkpoint.

use chrono::{DateTime, Utc};
use ledger::limit::{Limits, Used};
use ledger::{KeyId, Month, PlanName, UserId};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::Error;
use crate::position::seq_from_column;

/// Months that one reading holds of each user.
pub const MONTHS: usize = 3;

/// Inputs of many users at one instant of the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Sequence up to which the log is contained in it.
    pub watermark: u64,
    /// The users, in no particular order; every one that was asked for is there.
    pub users: Vec<UserReading>,
}

/// Inputs of one user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserReading {
    /// The user.
    pub user: UserId,
    /// Counted units since the month's last reset, of the first month that was asked for and those after it.
    pub counted: [Used; MONTHS],
    /// The plan in force.
    pub current: Terms,
    /// Time from which it is; none for the free plan of a user who never changed.
    pub current_from: Option<DateTime<Utc>>,
    /// The latest decision of all, while it lies ahead.
    pub pending: Option<PendingTerms>,
    /// Counted units of the user's API keys in the same months, if they were asked for. A key without any is left out.
    pub keys: Vec<(KeyId, [u64; MONTHS])>,
}

/// Terms of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// The plan's name.
    pub plan: PlanName,
    /// Its limits.
    pub limits: Limits,
}

/// Terms that wait for their time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingTerms {
    /// Sequence of the decision in the log.
    pub seq: u64,
    /// Time from which they hold.
    pub effective_at: DateTime<Utc>,
    /// The terms that hold then.
    pub terms: Terms,
}

/// Reads counts of `first_month` and the [`MONTHS`]` - 1` after it, of the users and, where asked for, of their API
/// keys, plans as of `at`, and the checkpoint, in one statement and thus one snapshot.
pub async fn read(
    conn: &mut PgConnection,
    users: &[(UserId, bool)],
    first_month: Month,
    at: DateTime<Utc>,
) -> Result<Reading, Error> {
    let (ids, with_keys): (Vec<Uuid>, Vec<bool>) =
        users.iter().map(|(user, with_keys)| (user.get(), *with_keys)).unzip();
    let months = [first_month, first_month.next(), first_month.next().next()].map(|month| month.to_string());
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT u.user_id AS "user_id!", c.seq AS "watermark!",
                  COALESCE(m0.total_calls, 0) AS "total_0!", COALESCE(m0.analyze_calls, 0) AS "analyze_0!",
                  COALESCE(m1.total_calls, 0) AS "total_1!", COALESCE(m1.analyze_calls, 0) AS "analyze_1!",
                  COALESCE(m2.total_calls, 0) AS "total_2!", COALESCE(m2.analyze_calls, 0) AS "analyze_2!",
                  COALESCE(now.plan_name, free.plan_name) AS "plan!", now.effective_at AS "current_from?",
                  CASE WHEN now.plan_name IS NULL THEN free.monthly_api_limit ELSE now.monthly_api_limit END AS total,
                  CASE WHEN now.plan_name IS NULL THEN free.analyze_limit ELSE now.analyze_limit END AS analyze,
                  last.log_seq AS "pending_seq?", last.effective_at AS "pending_at?",
                  last.plan_name AS "pending_plan?",
                  last.monthly_api_limit AS pending_total, last.analyze_limit AS pending_analyze,
                  k.keys AS "keys?", k.months AS "key_months?", k.units AS "key_units?"
           FROM UNNEST($1::uuid[], $6::boolean[]) AS u (user_id, with_keys)
           CROSS JOIN (SELECT seq FROM projection_checkpoint WHERE partition = 0) c
           CROSS JOIN (SELECT plan_name, monthly_api_limit, analyze_limit
                       FROM subscription_limits WHERE plan_name = 'free') free
           LEFT JOIN LATERAL (SELECT total_calls, analyze_calls FROM monthly_usage_summary
                              WHERE user_id = u.user_id AND month_year = $2 LIMIT 1) m0 ON TRUE
           LEFT JOIN LATERAL (SELECT total_calls, analyze_calls FROM monthly_usage_summary
                              WHERE user_id = u.user_id AND month_year = $3 LIMIT 1) m1 ON TRUE
           LEFT JOIN LATERAL (SELECT total_calls, analyze_calls FROM monthly_usage_summary
                              WHERE user_id = u.user_id AND month_year = $4 LIMIT 1) m2 ON TRUE
           LEFT JOIN LATERAL (SELECT plan_name, monthly_api_limit, analyze_limit, effective_at FROM subscriptions
                              WHERE user_id = u.user_id AND effective_at <= $5
                              ORDER BY log_seq DESC, log_idx DESC LIMIT 1) now ON TRUE
           LEFT JOIN LATERAL (SELECT log_seq, effective_at, plan_name, monthly_api_limit, analyze_limit
                              FROM subscriptions WHERE user_id = u.user_id
                              ORDER BY log_seq DESC, log_idx DESC LIMIT 1) last ON last.effective_at > $5
           LEFT JOIN LATERAL (SELECT array_agg(key_id) AS keys, array_agg(month_year) AS months,
                                     array_agg(units) AS units
                              FROM monthly_key_usage WHERE user_id = u.user_id AND month_year IN ($2, $3, $4)
                                AND u.with_keys) k ON u.with_keys"#,
        &ids,
        months[0],
        months[1],
        months[2],
        at,
        &with_keys
    )
    .fetch_all(conn)
    .await?;
    let watermark = rows.first().map_or(0, |row| seq_from_column(row.watermark));
    let users = rows.into_iter().map(|row| row.into_reading(&months)).collect::<Result<_, _>>()?;
    Ok(Reading { watermark, users })
}

/// The terms in force at `at` of the plan of `owner`: the latest in the log that is effective
/// by then, else the free plan's.
pub async fn terms_at(conn: &mut PgConnection, owner: UserId, at: DateTime<Utc>) -> Result<Terms, Error> {
    let row = sqlx::query!(
        r#"SELECT plan_name AS "plan!", monthly_api_limit AS total, analyze_limit AS analyze
           FROM (SELECT plan_name, monthly_api_limit, analyze_limit, log_seq, log_idx FROM subscriptions
                 WHERE user_id = $1 AND effective_at <= $2
                 UNION ALL
                 SELECT plan_name, monthly_api_limit, analyze_limit, -1, 0 FROM subscription_limits
                 WHERE plan_name = 'free') decided
           ORDER BY log_seq DESC, log_idx DESC LIMIT 1"#,
        owner.get(),
        at
    )
    .fetch_one(conn)
    .await?;
    terms(row.plan, row.total, row.analyze)
}

struct Row {
    user_id: Uuid,
    watermark: i64,
    total_0: i64,
    analyze_0: i64,
    total_1: i64,
    analyze_1: i64,
    total_2: i64,
    analyze_2: i64,
    plan: String,
    current_from: Option<DateTime<Utc>>,
    total: Option<i64>,
    analyze: Option<i64>,
    pending_seq: Option<i64>,
    pending_at: Option<DateTime<Utc>>,
    pending_plan: Option<String>,
    pending_total: Option<i64>,
    pending_analyze: Option<i64>,
    keys: Option<Vec<Uuid>>,
    key_months: Option<Vec<String>>,
    key_units: Option<Vec<i64>>,
}

impl Row {
    /// The reading, whose months have these names.
    fn into_reading(self, months: &[String; MONTHS]) -> Result<UserReading, Error> {
        let row = self;
        let used = |total: i64, analyze: i64| Used { total: units(total), analyze: units(analyze) };
        let pending = match (row.pending_seq, row.pending_at, row.pending_plan) {
            (Some(seq), Some(effective_at), Some(plan)) => Some(PendingTerms {
                seq: seq_from_column(seq),
                effective_at,
                terms: terms(plan, row.pending_total, row.pending_analyze)?,
            }),
            _ => None,
        };
        let mut keys: Vec<(KeyId, [u64; MONTHS])> = Vec::new();
        let of_keys = row.keys.into_iter().flatten().zip(row.key_months.into_iter().flatten());
        for ((key, month), counted) in of_keys.zip(row.key_units.into_iter().flatten()) {
            let Some(index) = months.iter().position(|name| *name == month) else { continue };
            let key = KeyId::new(key);
            let at = keys.iter().position(|(known, _)| *known == key).unwrap_or_else(|| {
                keys.push((key, [0; MONTHS]));
                keys.len() - 1
            });
            keys[at].1[index] = units(counted);
        }
        Ok(UserReading {
            user: UserId::new(row.user_id),
            keys,
            counted: [
                used(row.total_0, row.analyze_0),
                used(row.total_1, row.analyze_1),
                used(row.total_2, row.analyze_2),
            ],
            current: terms(row.plan, row.total, row.analyze)?,
            current_from: row.current_from,
            pending,
        })
    }
}

fn terms(plan: String, total: Option<i64>, analyze: Option<i64>) -> Result<Terms, Error> {
    let name = PlanName::new(plan.as_str());
    let plan =
        name.map_err(|_| Error::Inconsistent { table: "subscriptions", column: "plan_name", value: plan })?;
    Ok(Terms { plan, limits: Limits { total: total.map(units), analyze: analyze.map(units) } })
}

/// The tables keep counts and limits from falling below 0.
fn units(column: i64) -> u64 {
    u64::try_from(column).unwrap_or(0)
}
