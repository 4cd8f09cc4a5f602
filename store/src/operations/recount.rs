//! Sums that were counted anew from the log, beside those that are stored: compared, and put in their place.

use std::fmt::{Display, Formatter, Write as _};

use chrono::{DateTime, Utc};
use ledger::{Category, Month, UserId};
use sqlx::{Executor, PgConnection};
use uuid::Uuid;

use crate::operations::compare::{Comparison, late_units};
use crate::projection::audit_chain::{Hash, Link};
use crate::projection::periods::LateUnits;
use crate::{Error, Position};

/// A user's month as the log has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// User of the month.
    pub user: UserId,
    /// The month.
    pub month: Month,
    /// Units by category (analyze, auth, other) since the last reset.
    pub units: [i64; 3],
    /// Sum of the known response times.
    pub total_response_time_ms: i64,
    /// Calls with a known response time.
    pub timed_calls: i64,
    /// The latest time of the events that made it.
    pub last_updated: DateTime<Utc>,
    /// The month's last reset; zero when there was none.
    pub reset: Position,
}

/// A user's calls of a month as the log has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Calls {
    /// User who made the calls.
    pub user: UserId,
    /// Their month.
    pub month: Month,
    /// Their category.
    pub category: Category,
    /// Whether they count.
    pub counted: bool,
    /// Units.
    pub units: i64,
    /// Calls.
    pub calls: i64,
    /// Sum of the known response times.
    pub total_response_time_ms: i64,
    /// Calls with a known response time.
    pub timed_calls: i64,
    /// The last 48 bits of the calls' row ids and their times in microseconds, exclusive-or: tells whether they are the
    /// same calls.
    pub marks: i64,
}

/// A token that the log says a user has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptToken {
    /// Its owner.
    pub user: UserId,
    /// Provider whose API it opens.
    pub token_type: String,
    /// Its id.
    pub id: Uuid,
}

/// Sent to the database at a time.
const CHUNK_BYTES: usize = 4 * 1024 * 1024;
const SUMMARY_COLUMNS: &str = "total_calls, analyze_calls, auth_calls, other_calls, total_response_time_ms, \
     timed_calls, monthly_api_limit, analyze_limit, last_updated, reset_seq, reset_idx";
const LATE_KEYS: &str = "user_id, of_month, closings";
const LATE_COLUMNS: &str =
    "analyze_units, auth_units, other_units, retried_analyze, retried_auth, retried_other";

/// Puts the sums into temporary tables, which end with the transaction.
pub async fn stage(
    conn: &mut PgConnection,
    summaries: &[Summary],
    calls: &[Calls],
    late: &[LateUnits],
) -> Result<(), Error> {
    conn.execute(sqlx::raw_sql(
        "CREATE TEMPORARY TABLE expected_counts (
             user_id UUID, month_year TEXT, analyze_calls BIGINT, auth_calls BIGINT, other_calls BIGINT,
             total_response_time_ms BIGINT, timed_calls BIGINT, last_updated TIMESTAMPTZ, reset_seq BIGINT,
             reset_idx INTEGER) ON COMMIT DROP;
         CREATE TEMPORARY TABLE expected_calls (
             user_id UUID, month_year TEXT, category TEXT, counted BOOLEAN, units BIGINT, calls BIGINT,
             total_response_time_ms BIGINT, timed_calls BIGINT, marks BIGINT) ON COMMIT DROP;
         CREATE TEMPORARY TABLE counted_late (
             user_id UUID, of_month TEXT, closings INTEGER, analyze_units BIGINT, auth_units BIGINT,
             other_units BIGINT) ON COMMIT DROP",
    ))
    .await?;
    copy_text(conn, "expected_counts", summaries, |s, out| {
        let units = tabs(s.units);
        let (seq, idx) = s.reset.columns();
        let (user, month, at) = (s.user, s.month, s.last_updated.to_rfc3339());
        let (ms, timed) = (s.total_response_time_ms, s.timed_calls);
        writeln!(out, "{user}\t{month}\t{units}\t{ms}\t{timed}\t{at}\t{seq}\t{idx}")
    })
    .await?;
    copy_text(conn, "expected_calls", calls, |c, out| {
        let (user, month, category, counted) = (c.user, c.month, c.category.as_str(), c.counted);
        let (units, calls, ms, timed, marks) =
            (c.units, c.calls, c.total_response_time_ms, c.timed_calls, c.marks);
        writeln!(out, "{user}\t{month}\t{category}\t{counted}\t{units}\t{calls}\t{ms}\t{timed}\t{marks}")
    })
    .await?;
    copy_text(conn, "counted_late", late, |l, out| {
        writeln!(out, "{}\t{}\t{}\t{}", l.user, l.of_month, l.closings, tabs(l.units))
    })
    .await?;
    conn.execute(sqlx::raw_sql(
        "ANALYZE expected_counts; ANALYZE expected_calls;
         CREATE TEMPORARY TABLE expected_summary ON COMMIT DROP AS
         SELECT e.*, e.analyze_calls + e.auth_calls + e.other_calls AS total_calls, p.monthly_api_limit,
                p.analyze_limit
         FROM expected_counts e
         CROSS JOIN LATERAL plan_at(e.user_id, month_end(e.month_year) - interval '1 microsecond') p;
         -- What was retried is taken over: it does not follow from the log.
         CREATE TEMPORARY TABLE expected_late ON COMMIT DROP AS
         SELECT user_id, of_month, closings, sum(analyze_units)::bigint AS analyze_units,
                sum(auth_units)::bigint AS auth_units, sum(other_units)::bigint AS other_units,
                sum(retried_analyze)::bigint AS retried_analyze, sum(retried_auth)::bigint AS retried_auth,
                sum(retried_other)::bigint AS retried_other
         FROM (SELECT *, 0 AS retried_analyze, 0 AS retried_auth, 0 AS retried_other FROM counted_late
               UNION ALL
               SELECT user_id, of_month, closings, retried_analyze, retried_auth, retried_other, retried_analyze,
                      retried_auth, retried_other FROM late_units
               WHERE (retried_analyze, retried_auth, retried_other) <> (0, 0, 0)) parts
         GROUP BY user_id, of_month, closings;
         ANALYZE expected_summary",
    ))
    .await?;
    Ok(())
}

fn tabs(units: [i64; 3]) -> String {
    format!("{}\t{}\t{}", units[0], units[1], units[2])
}

/// Columns of an audit's row that follow from the log alone, in the order of [`links`].
const LINK_COLUMNS: &str = "event_id, action, token_id, token_type, replaced_id, purpose, fingerprint, actor_kind, \
     actor_id, created_at, event_hash, hash";

/// Puts links and tokens into temporary tables, which end with the transaction.
pub async fn stage_vault(conn: &mut PgConnection, links: &[Link], tokens: &[KeptToken]) -> Result<(), Error> {
    conn.execute(sqlx::raw_sql(
        "CREATE TEMPORARY TABLE expected_links (
             user_id UUID, log_seq BIGINT, log_idx INTEGER, event_id UUID, action TEXT, token_id UUID, token_type TEXT,
             replaced_id UUID, purpose TEXT, fingerprint TEXT, actor_kind TEXT, actor_id TEXT, created_at TIMESTAMPTZ,
             event_hash TEXT, hash TEXT) ON COMMIT DROP;
         CREATE TEMPORARY TABLE expected_tokens (user_id UUID, token_type TEXT, id UUID) ON COMMIT DROP",
    ))
    .await?;
    copy_text(conn, "expected_links", links, |link, out| {
        let ((seq, idx), user, action) = (link.position.columns(), link.user, link.action.as_str());
        write!(out, "{user}\t{seq}\t{idx}\t{}\t{action}\t{}", link.event_id, Maybe(link.token_id))?;
        write!(out, "\t{}\t{}", Maybe(link.token_type.as_deref().map(Escaped)), Maybe(link.replaced_id))?;
        write!(out, "\t{}", Maybe(link.purpose.as_deref().map(Escaped)))?;
        write!(out, "\t{}", Maybe(link.fingerprint.as_deref().map(Escaped)))?;
        write!(out, "\t{}\t{}\t{}", link.actor_kind, Escaped(&link.actor_id), link.at.to_rfc3339())?;
        writeln!(out, "\t{}\t{}", Hex(&link.event_hash), Hex(&link.hash))
    })
    .await?;
    copy_text(conn, "expected_tokens", tokens, |token, out| {
        writeln!(out, "{}\t{}\t{}", token.user, Escaped(&token.token_type), token.id)
    })
    .await?;
    conn.execute(sqlx::raw_sql("ANALYZE expected_links; ANALYZE expected_tokens")).await?;
    Ok(())
}

/// The staged links and tokens against the stored ones, of one user or of all.
pub fn vault(user: Option<UserId>) -> Vec<Comparison> {
    let owner = user.map_or_else(|| "TRUE".to_owned(), |user| format!("user_id = '{user}'"));
    let found = format!(
        "(SELECT user_id, log_seq, log_idx, event_id, action, token_id, token_type, replaced_id, purpose, fingerprint,
                 actor_kind, actor_id, created_at, encode(event_hash, 'hex') AS event_hash, encode(hash, 'hex') AS hash
          FROM token_audit WHERE {owner})"
    );
    let tokens = format!("(SELECT user_id, token_type, id FROM user_tokens WHERE {owner})");
    vec![
        comparison(
            "token_audit",
            "expected_links".to_owned(),
            found,
            "user_id, log_seq, log_idx",
            LINK_COLUMNS,
        ),
        comparison("user_tokens", "expected_tokens".to_owned(), tokens, "user_id, token_type", "id"),
    ]
}

/// A value of COPY's text format, or its null.
struct Maybe<T>(Option<T>);

impl<T: Display> Display for Maybe<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Some(value) => value.fmt(f),
            None => f.write_str("\\N"),
        }
    }
}

/// Text in COPY's text format. The events' fields hold no control characters.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.replace('\\', "\\\\"))
    }
}

struct Hex<'a>(&'a Hash);

impl Display for Hex<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The staged sums against the stored ones, of one user or of all.
pub fn sums(user: Option<UserId>) -> Vec<Comparison> {
    let of = |table: &str| match user {
        Some(user) => format!("(SELECT * FROM {table} WHERE user_id = '{user}')"),
        None => table.to_owned(),
    };
    vec![
        comparison(
            "monthly_usage_summary",
            of("expected_summary"),
            of("monthly_usage_summary"),
            "user_id, month_year",
            SUMMARY_COLUMNS,
        ),
        late_units(&of("expected_late"), &of("late_units"), ["closed_periods"; 2]),
    ]
}

/// The months whose calls are there. Of those that are detached nothing is looked at: their rows are elsewhere.
const ATTACHED: &str = r"(SELECT replace(right(c.relname, 7), '_', '-')
                          FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                          WHERE i.inhparent = 'api_usage'::regclass)";

/// The rows of compacted hours against the hours.
pub fn hours(user: Option<UserId>) -> Vec<Comparison> {
    let owner = user.map_or_else(|| "TRUE".to_owned(), |user| format!("user_id = '{user}'"));
    // By the day as well as by the range: a hash of days serves as well as the index does.
    let expected = format!(
        "(SELECT u.user_id, date_trunc('hour', u.created_at, 'UTC') AS bucket, u.category, u.counted,
                 sum(u.units)::bigint AS units, count(*) AS calls,
                 COALESCE(sum(u.response_time_ms), 0)::bigint AS total_response_time_ms,
                 count(u.response_time_ms) AS timed_calls
          FROM (SELECT * FROM compacted_days WHERE hours <> 0 AND {owner}) d
          JOIN api_usage u ON u.user_id = d.user_id AND date_trunc('day', u.created_at, 'UTC') = d.day
           AND u.created_at >= d.day AND u.created_at < d.day + interval '24 hours'
          WHERE d.hours >> extract(hour FROM u.created_at AT TIME ZONE 'UTC')::int & 1 = 1
          GROUP BY 1, 2, 3, 4)"
    );
    let found = format!(
        "(SELECT * FROM usage_hourly
          WHERE {owner} AND to_char(bucket AT TIME ZONE 'UTC', 'YYYY-MM') IN {ATTACHED})"
    );
    let columns = "units, calls, total_response_time_ms, timed_calls";
    vec![comparison("usage_hourly", expected, found, "user_id, bucket, category, counted", columns)]
}

/// The staged sums of calls against the rows themselves, and the rows against the stored summaries.
pub fn rows(user: Option<UserId>) -> Vec<Comparison> {
    let owner = user.map_or_else(|| "TRUE".to_owned(), |user| format!("user_id = '{user}'"));
    let expected = format!("(SELECT * FROM expected_calls WHERE calls <> 0 AND month_year IN {ATTACHED})");
    let found = format!(
        "(SELECT user_id, month_year, category, counted, sum(units)::bigint AS units, count(*) AS calls,
                 COALESCE(sum(response_time_ms), 0)::bigint AS total_response_time_ms,
                 count(response_time_ms) AS timed_calls,
                 bit_xor(('x' || right(id::text, 12))::bit(48)::bigint
                         # (extract(epoch FROM created_at) * 1000000)::bigint) AS marks
          FROM api_usage WHERE {owner} GROUP BY 1, 2, 3, 4)"
    );
    let from_rows = format!(
        "(SELECT u.user_id, u.month_year, sum(u.units)::bigint AS total_calls,
                 COALESCE(sum(u.units) FILTER (WHERE u.category = 'analyze'), 0)::bigint AS analyze_calls,
                 COALESCE(sum(u.units) FILTER (WHERE u.category = 'auth'), 0)::bigint AS auth_calls,
                 COALESCE(sum(u.units) FILTER (WHERE u.category = 'other'), 0)::bigint AS other_calls,
                 COALESCE(sum(u.response_time_ms), 0)::bigint AS total_response_time_ms,
                 count(u.response_time_ms) AS timed_calls
          FROM api_usage u
          LEFT JOIN monthly_usage_summary s ON s.user_id = u.user_id AND s.month_year = u.month_year
          WHERE u.counted AND u.{owner}
            AND (u.log_seq, u.log_idx) > (COALESCE(s.reset_seq, 0), COALESCE(s.reset_idx, 0))
          GROUP BY u.user_id, u.month_year)"
    )
    .replace("u.TRUE", "TRUE");
    let stored = format!(
        "(SELECT * FROM monthly_usage_summary WHERE total_calls <> 0 AND {owner} AND month_year IN {ATTACHED})"
    );
    let sums = "total_calls, analyze_calls, auth_calls, other_calls, total_response_time_ms, timed_calls";
    vec![
        comparison(
            "api_usage",
            expected,
            found,
            "user_id, month_year, category, counted",
            "units, calls, total_response_time_ms, timed_calls, marks",
        ),
        comparison("monthly_usage_summary by rows", from_rows, stored, "user_id, month_year", sums),
    ]
}

/// Puts the staged sums in the place of the stored ones, within the caller's transaction.
pub async fn replace(conn: &mut PgConnection) -> Result<(), Error> {
    let tables = [
        ("monthly_usage_summary", "expected_summary", "user_id, month_year", SUMMARY_COLUMNS),
        ("late_units", "expected_late", LATE_KEYS, LATE_COLUMNS),
    ];
    for (table, expected, keys, columns) in tables {
        let prefixed = |alias: &str, names: &str| {
            names.split(", ").map(|name| format!("{alias}.{name}")).collect::<Vec<_>>().join(", ")
        };
        let set = columns
            .split(", ")
            .map(|name| format!("{name} = excluded.{name}"))
            .collect::<Vec<_>>()
            .join(", ");
        let (t, e, excluded) = (prefixed("t", columns), prefixed("e", keys), prefixed("excluded", columns));
        let t_keys = prefixed("t", keys);
        conn.execute(sqlx::raw_sql(&format!(
            "DELETE FROM {table} t WHERE NOT EXISTS (SELECT FROM {expected} e WHERE ({e}) = ({t_keys}));
             INSERT INTO {table} AS t ({keys}, {columns}) SELECT {keys}, {columns} FROM {expected}
             ON CONFLICT ({keys}) DO UPDATE SET {set} WHERE ({t}) IS DISTINCT FROM ({excluded})"
        )))
        .await?;
    }
    // Another figure may be at a threshold of which no event tells.
    conn.execute(
        "INSERT INTO pending_thresholds AS p (user_id, month_year, log_seq)
         SELECT user_id, month_year, 0 FROM monthly_usage_summary s
         WHERE (100 * total_calls::numeric >= 80 * monthly_api_limit::numeric
                OR 100 * analyze_calls::numeric >= 80 * analyze_limit::numeric)
           AND NOT EXISTS (SELECT FROM closed_periods c WHERE c.month_year = s.month_year)
         ON CONFLICT (user_id, month_year) DO UPDATE SET log_seq = p.log_seq + 1",
    )
    .await?;
    Ok(())
}

fn comparison(name: &str, expected: String, found: String, keys: &str, columns: &str) -> Comparison {
    let names = |list: &str| list.split(", ").map(str::to_owned).collect();
    Comparison { name: name.to_owned(), expected, found, keys: names(keys), columns: names(columns) }
}

/// Copies rows in COPY's text format; `line` writes one, with its end. No value holds a tab, a backslash or a line end.
async fn copy_text<T>(
    conn: &mut PgConnection,
    table: &str,
    rows: &[T],
    line: impl Fn(&T, &mut String) -> std::fmt::Result,
) -> Result<(), Error> {
    let mut copy = conn.copy_in_raw(&format!("COPY {table} FROM STDIN")).await?;
    let mut text = String::with_capacity(CHUNK_BYTES + 1_024);
    for row in rows {
        // Writing to a String cannot fail.
        let _ = line(row, &mut text);
        if text.len() >= CHUNK_BYTES {
            copy.send(text.as_bytes()).await?;
            text.clear();
        }
    }
    copy.send(text.as_bytes()).await?;
    copy.finish().await?;
    Ok(())
}
