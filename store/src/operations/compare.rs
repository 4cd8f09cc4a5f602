//! Comparison of two tables, row by row.

use ledger::{Month, UserId};
use serde_json::Value;
use sqlx::{Executor, PgConnection};

use crate::Error;
use crate::projection::partitions;

/// Two tables that should hold the same. Names and queries are this program's own, never input.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// Name of the comparison, for people.
    pub name: String,
    /// A table or a parenthesised query: how it should be.
    pub expected: String,
    /// A table or a parenthesised query: how it is.
    pub found: String,
    /// Columns that identify a row.
    pub keys: Vec<String>,
    /// Columns that have to be the same.
    pub columns: Vec<String>,
}

/// A row that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowDifference {
    /// Its key, as a JSON object.
    pub key: Value,
    /// Its columns as they should be; `None`: there should be no such row.
    pub expected: Option<Value>,
    /// Its columns as they are; `None`: there is no such row.
    pub found: Option<Value>,
}

/// The rows in which two tables differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Name of the comparison.
    pub name: String,
    /// The rows, as many as were asked for.
    pub rows: Vec<RowDifference>,
    /// Whether there are more.
    pub more: bool,
}

impl Comparison {
    /// The same by the months of `created_at`, of which all rows are in one.
    fn by_months(self, months: &[Month]) -> Vec<Self> {
        let from = |month: &Month| format!("created_at >= '{}'", month.start().to_rfc3339());
        let starts: Vec<String> = months.iter().skip(1).map(from).collect();
        // The first one has what is before it, too, and the last one what is behind it.
        let mut bounds = vec!["TRUE".to_owned()];
        bounds.extend(starts.iter().cloned());
        let ends = starts.iter().map(|start| start.replace(">=", "<")).chain(["TRUE".to_owned()]);
        let of =
            |table: &str, bound: &str, end: &str| format!("(SELECT * FROM {table} WHERE {bound} AND {end})");
        let parts = bounds.iter().zip(ends).map(|(bound, end)| Self {
            expected: of(&self.expected, bound, &end),
            found: of(&self.found, bound, &end),
            ..self.clone()
        });
        parts.collect()
    }

    /// At most `max_rows` rows that differ, the first ones by their keys; `None` when none does.
    pub async fn run(&self, conn: &mut PgConnection, max_rows: usize) -> Result<Option<Difference>, Error> {
        let list = |alias: &str, names: &[String]| {
            names.iter().map(|name| format!("{alias}.{name}")).collect::<Vec<_>>().join(", ")
        };
        let object = |alias: &str, names: &[String]| {
            let pairs = names.iter().map(|name| format!("'{name}', {alias}.{name}"));
            format!("jsonb_build_object({})", pairs.collect::<Vec<_>>().join(", "))
        };
        let (first, keys) = (&self.keys[0], &self.keys);
        let join = keys.iter().map(|key| format!("e.{key} = f.{key}")).collect::<Vec<_>>().join(" AND ");
        let query = format!(
            "SELECT CASE WHEN e.{first} IS NULL THEN {found_key} ELSE {expected_key} END,
                    CASE WHEN e.{first} IS NOT NULL THEN {expected_columns} END,
                    CASE WHEN f.{first} IS NOT NULL THEN {found_columns} END
             FROM {expected} e FULL JOIN {found} f ON {join}
             WHERE e.{first} IS NULL OR f.{first} IS NULL OR ({e_list}) IS DISTINCT FROM ({f_list})
             ORDER BY {order} LIMIT {limit}",
            order =
                keys.iter().map(|key| format!("COALESCE(e.{key}, f.{key})")).collect::<Vec<_>>().join(", "),
            found_key = object("f", keys),
            expected_key = object("e", keys),
            expected_columns = object("e", &self.columns),
            found_columns = object("f", &self.columns),
            expected = self.expected,
            found = self.found,
            e_list = list("e", &self.columns),
            f_list = list("f", &self.columns),
            limit = max_rows + 1,
        );
        let rows: Vec<(Value, Option<Value>, Option<Value>)> =
            sqlx::query_as(&query).persistent(false).fetch_all(conn).await?;
        if rows.is_empty() {
            return Ok(None);
        }
        let more = rows.len() > max_rows;
        let rows = rows.into_iter().take(max_rows);
        let rows = rows.map(|(key, expected, found)| RowDifference { key, expected, found }).collect();
        Ok(Some(Difference { name: self.name.clone(), rows, more }))
    }
}

/// A comparison of late units by the statements that list them, or by none yet: how they are divided between one
/// listing and the next is nobody's concern. `closed` are the closings that belong to each side.
pub(crate) fn late_units(expected: &str, found: &str, closed: [&str; 2]) -> Comparison {
    let listed = |units: &str, closed: &str| {
        format!(
            "(SELECT user_id, listed_in, of_month, sum(analyze_units)::bigint AS analyze_units,
                     sum(auth_units)::bigint AS auth_units, sum(other_units)::bigint AS other_units
              FROM (SELECT l.*, COALESCE((SELECT p.month_year FROM {closed} p
                                          WHERE p.number > l.closings AND p.month_year > l.of_month
                                          ORDER BY p.number LIMIT 1), '') AS listed_in
                    FROM {units} l) parts
              GROUP BY user_id, listed_in, of_month
              HAVING (sum(analyze_units), sum(auth_units), sum(other_units)) <> (0, 0, 0))"
        )
    };
    let names = |list: [&str; 3]| list.map(str::to_owned).to_vec();
    Comparison {
        name: "statement_adjustments".to_owned(),
        expected: listed(expected, closed[0]),
        found: listed(found, closed[1]),
        keys: names(["user_id", "listed_in", "of_month"]),
        columns: names(["analyze_units", "auth_units", "other_units"]),
    }
}

/// The calls of a month that are in compacted hours against these hours; of one user or of all.
pub fn hours(month: Month, user: Option<UserId>) -> Comparison {
    let owner = user.map_or_else(|| "TRUE".to_owned(), |user| format!("user_id = '{user}'"));
    let within = |column: &str| {
        let (start, end) = (month.start().to_rfc3339(), month.end().to_rfc3339());
        format!("{column} >= '{start}' AND {column} < '{end}'")
    };
    // By the day as well as by the range: a hash of days serves as well as the index does.
    let expected = format!(
        "(SELECT u.user_id, date_trunc('hour', u.created_at, 'UTC') AS bucket, u.category, u.counted,
                 sum(u.units)::bigint AS units, count(*) AS calls,
                 COALESCE(sum(u.response_time_ms), 0)::bigint AS total_response_time_ms,
                 count(u.response_time_ms) AS timed_calls
          FROM (SELECT * FROM compacted_days WHERE hours <> 0 AND {owner} AND {}) d
          JOIN api_usage u ON u.user_id = d.user_id AND date_trunc('day', u.created_at, 'UTC') = d.day
           AND u.created_at >= d.day AND u.created_at < d.day + interval '24 hours' AND {}
          WHERE d.hours >> extract(hour FROM u.created_at AT TIME ZONE 'UTC')::int & 1 = 1
          GROUP BY 1, 2, 3, 4)",
        within("day"),
        within("u.created_at")
    );
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Comparison {
        name: "usage_hourly".to_owned(),
        expected,
        found: format!("(SELECT * FROM usage_hourly WHERE {owner} AND {})", within("bucket")),
        keys: names(&["user_id", "bucket", "category", "counted"]),
        columns: names(&["units", "calls", "total_response_time_ms", "timed_calls"]),
    }
}

/// The security log against the audit chains, from which all of its rows follow but those of plans and resets; of one
/// user or of all. What is older than its first row of a chain came before the table, and has none until a rebuild.
pub fn security_log(user: Option<UserId>) -> Comparison {
    let owner = user.map_or_else(|| "TRUE".to_owned(), |user| format!("user_id = '{user}'"));
    let of_chains = "action NOT IN ('plan_changed', 'usage_reset')";
    let expected = format!(
        "(SELECT user_id, log_seq, log_idx, created_at AS at,
                 CASE WHEN action IN ('stored', 'deleted') THEN 'token_' || action
                      WHEN action = 'erased' THEN 'user_erased'
                      WHEN token_type = 'api_key' THEN 'api_' || action ELSE action END AS action,
                 NULLIF(token_type, 'api_key') AS method, token_id AS object_id, actor_kind, actor_id
          FROM token_audit
          WHERE action <> 'used' AND {owner}
            AND (log_seq, log_idx) >= (SELECT log_seq, log_idx FROM security_log WHERE {of_chains}
                                       ORDER BY log_seq, log_idx LIMIT 1))"
    );
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Comparison {
        name: "security_log".to_owned(),
        expected,
        found: format!("(SELECT * FROM security_log WHERE {of_chains} AND {owner})"),
        keys: names(&["user_id", "log_seq", "log_idx"]),
        columns: names(&["at", "action", "method", "object_id", "actor_kind", "actor_id"]),
    }
}

/// From here on, until the connection's transaction ends, no table of claims is emptied, which its snapshot would not
/// outlive. To be called while the projector waits.
pub async fn keep_claims(conn: &mut PgConnection) -> Result<(), Error> {
    conn.execute("SELECT FROM ledger.event_claims LIMIT 0").await?;
    Ok(())
}

/// A comparison of every projected table of `ledger_next`, as it should be, with the live one; of calls, one a month.
/// The checkpoint and the plans as sold today do not come from the log's events, claims of requests are forgotten at
/// leisure, hours are a cache, and what is to be done about thresholds and erasures is done beside the log.
pub async fn next_with_live(conn: &mut PgConnection) -> Result<Vec<Comparison>, Error> {
    let tables: Vec<(String, Vec<String>, Vec<String>)> = sqlx::query_as(
        r"SELECT c.relname::text,
                 (SELECT array_agg(quote_ident(a.attname) ORDER BY a.attnum) FROM pg_attribute a
                  JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary AND a.attnum = ANY (i.indkey)
                  WHERE a.attrelid = c.oid),
                 (SELECT array_agg(quote_ident(a.attname)
                                       || CASE a.atttypid WHEN 'json'::regtype THEN '::text' ELSE '' END
                                   ORDER BY a.attnum)
                  FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)
          FROM pg_class c
          WHERE c.relnamespace = 'ledger'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
            AND c.relname !~ '^api_usage_\d{4}_\d{2}$'
            AND c.relname NOT IN ('projection_checkpoint', 'request_claims', 'subscription_limits', 'late_units',
                                  'pending_thresholds', 'open_erasures', 'usage_hourly', 'compacted_days',
                                  'hour_compaction')
            AND c.relname !~ '^event_claims_\d$'
          ORDER BY c.relname",
    )
    .fetch_all(&mut *conn)
    .await?;
    let months = partitions::attached(conn).await?;
    // Their tables take turns; the view has what holds.
    let names = |names: &[&str]| -> Vec<String> { names.iter().map(|name| (*name).to_owned()).collect() };
    let claims = ("event_claims".to_owned(), names(&["id"]), names(&["log_seq", "is_current"]));
    let mut comparisons: Vec<Comparison> = tables
        .into_iter()
        .chain([claims])
        .map(|(name, keys, columns)| Comparison {
            expected: format!("ledger_next.{name}"),
            found: format!("ledger.{name}"),
            name,
            keys,
            columns,
        })
        .flat_map(|comparison| match comparison.name.as_str() {
            "api_usage" => comparison.by_months(&months),
            _ => vec![comparison],
        })
        .collect();
    let closed = ["ledger_next.closed_periods", "ledger.closed_periods"];
    comparisons.push(late_units("ledger_next.late_units", "ledger.late_units", closed));
    Ok(comparisons)
}
