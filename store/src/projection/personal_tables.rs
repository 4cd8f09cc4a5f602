//! Tables that may hold something personal of a user: found in the catalog, counted, and blanked.

use chrono::{DateTime, Utc};
use ledger::UserId;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{Error, Position};

/// SQLSTATE of a table that is not there.
const UNDEFINED_TABLE: &str = "42P01";

/// A table that may hold something personal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PersonalTable {
    /// Its name with its schema, quoted by PostgreSQL where it must be.
    pub name: String,
    /// The kind of rows in it.
    pub holds: Holds,
}

/// The kind of a user's rows in a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// Calls of a month, attached or not.
    Calls,
    /// The audit chain.
    Audit,
    /// The security log.
    SecurityLog,
    /// Stored tokens.
    Tokens,
}

/// Rows of a table that hold something personal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PersonalRows {
    /// The table, with its schema.
    pub table: String,
    /// Number of its rows.
    pub rows: u64,
}

/// Every table that may hold something personal: months attached and detached, audit chains, security log, tokens; of
/// the projection, of one that a rebuild is making or keeps, and of one that a rebuild put aside and could not drop.
pub async fn all(conn: &mut PgConnection) -> Result<Vec<PersonalTable>, Error> {
    let tables = sqlx::query!(
        r#"SELECT c.relname::text AS "relname!", format('%I.%I', n.nspname, c.relname) AS "name!"
           FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
           WHERE n.nspname IN ('ledger', 'ledger_next', 'ledger_old') AND c.relkind = 'r'
             AND (c.relname ~ '^api_usage_\d{4}_\d{2}$' OR c.relname IN ('token_audit', 'security_log', 'user_tokens'))
           ORDER BY n.nspname, c.relname"#
    )
    .fetch_all(conn)
    .await?;
    let of = |name: &str| match name {
        "token_audit" => Holds::Audit,
        "security_log" => Holds::SecurityLog,
        "user_tokens" => Holds::Tokens,
        _ => Holds::Calls,
    };
    Ok(tables.into_iter().map(|row| PersonalTable { holds: of(&row.relname), name: row.name }).collect())
}

/// Place in a user's rows of a table, behind which a walk through them goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Behind this call, by its time and id.
    Call(DateTime<Utc>, Uuid),
    /// Behind this link.
    Link(Position),
}

/// A step of a walk through a user's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Walked {
    /// Number of rows that held something personal.
    pub rows: u64,
    /// Place behind which the next step begins; `None` at the end.
    pub next: Option<Place>,
}

impl Walked {
    const END: Self = Self { rows: 0, next: None };
}

impl PersonalTable {
    /// Takes what is personal out of `limit` of the user's rows at most, those behind `after`, in the order of the
    /// table's index: however many there are, none is looked at twice. A table that is gone, for a rebuild may drop it
    /// meanwhile, has no rows.
    pub async fn blank(
        &self,
        conn: &mut PgConnection,
        user: UserId,
        after: Option<Place>,
        limit: u32,
    ) -> Result<Walked, Error> {
        self.step(conn, user, after, limit, true).await
    }

    /// Counts the rows that hold something personal among `limit` of the user's rows at most, those behind `after`.
    pub async fn count(
        &self,
        conn: &mut PgConnection,
        user: UserId,
        after: Option<Place>,
        limit: u32,
    ) -> Result<Walked, Error> {
        self.step(conn, user, after, limit, false).await
    }

    async fn step(
        &self,
        conn: &mut PgConnection,
        user: UserId,
        after: Option<Place>,
        limit: u32,
        is_blanked: bool,
    ) -> Result<Walked, Error> {
        let walked = match self.holds {
            Holds::Calls => {
                let (time, id) = match after {
                    Some(Place::Call(time, id)) => (time, id),
                    // Before every call: the ledger keeps none of before 2000.
                    _ => (DateTime::UNIX_EPOCH, Uuid::nil()),
                };
                let query = self.query(["created_at", "id"], &["ip_address", "user_agent"], is_blanked);
                let step = sqlx::query_as::<_, Step<DateTime<Utc>, Uuid>>(&query).bind(user.get());
                let step = step.bind(time).bind(id).bind(i64::from(limit)).fetch_one(conn).await;
                step.map(|step| step.walked(limit, Place::Call))
            }
            Holds::Audit | Holds::SecurityLog => {
                let (log_seq, log_idx) = match after {
                    Some(Place::Link(position)) => position.columns(),
                    _ => (-1, -1),
                };
                let columns: &[&str] = match self.holds {
                    Holds::Audit => &["token_name", "ip_address", "user_agent"],
                    _ => &["ip_address", "user_agent"],
                };
                let query = self.query(["log_seq", "log_idx"], columns, is_blanked);
                let step = sqlx::query_as::<_, Step<i64, i32>>(&query).bind(user.get());
                let step = step.bind(log_seq).bind(log_idx).bind(i64::from(limit)).fetch_one(conn).await;
                let place = |log_seq, log_idx| Place::Link(Position::from_columns(log_seq, log_idx));
                step.map(|step| step.walked(limit, place))
            }
            Holds::Tokens => self.tokens(conn, user, is_blanked).await,
        };
        match walked {
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(UNDEFINED_TABLE) => {
                Ok(Walked::END)
            }
            other => Ok(other?),
        }
    }

    /// The statement of a step: by the user, the two keys behind which it begins, and the number of rows. It answers
    /// the number of personal rows, the number of all, and the last one's keys.
    fn query(&self, keys: [&str; 2], columns: &[&str], is_blanked: bool) -> String {
        // The name is the catalog's, quoted by PostgreSQL.
        let (table, [first, second]) = (&self.name, keys);
        let step = format!(
            "WITH step AS MATERIALIZED (
                 SELECT {first}, {second}, num_nonnulls({}) > 0 AS is_personal FROM {table}
                 WHERE user_id = $1 AND ({first}, {second}) > ($2, $3) ORDER BY {first}, {second} LIMIT $4)",
            columns.join(", ")
        );
        let (changed, personal) = if is_blanked {
            let set = columns.iter().map(|column| format!("{column} = NULL")).collect::<Vec<_>>().join(", ");
            let changed = format!(
                ", changed AS (
                     UPDATE {table} t SET {set} FROM step s
                     WHERE s.is_personal AND t.user_id = $1 AND t.{first} = s.{first} AND t.{second} = s.{second}
                     RETURNING 1)"
            );
            (changed, "changed")
        } else {
            (String::new(), "step WHERE is_personal")
        };
        format!(
            "{step}{changed}
             SELECT (SELECT count(*) FROM {personal}), (SELECT count(*) FROM step),
                    (SELECT {first} FROM step ORDER BY {first} DESC, {second} DESC LIMIT 1),
                    (SELECT {second} FROM step ORDER BY {first} DESC, {second} DESC LIMIT 1)"
        )
    }

    /// Of a user's tokens there is one of a type.
    async fn tokens(
        &self,
        conn: &mut PgConnection,
        user: UserId,
        is_blanked: bool,
    ) -> Result<Walked, sqlx::Error> {
        let table = &self.name;
        let rows = if is_blanked {
            let query = format!("DELETE FROM {table} WHERE user_id = $1");
            sqlx::query(&query).bind(user.get()).execute(conn).await?.rows_affected()
        } else {
            let query = format!("SELECT count(*) FROM {table} WHERE user_id = $1");
            let rows: i64 = sqlx::query_scalar(&query).bind(user.get()).fetch_one(conn).await?;
            rows.unsigned_abs()
        };
        Ok(Walked { rows, next: None })
    }
}

/// Answer of a step: personal rows, all rows, and the keys of the last one.
#[derive(sqlx::FromRow)]
struct Step<A, B>(i64, i64, Option<A>, Option<B>);

impl<A, B> Step<A, B> {
    fn walked(self, limit: u32, place: impl Fn(A, B) -> Place) -> Walked {
        let Self(rows, all, first, second) = self;
        let next = if all < i64::from(limit) { None } else { first.zip(second) };
        Walked { rows: rows.unsigned_abs(), next: next.map(|(first, second)| place(first, second)) }
    }
}

/// Rows that a step looks at: some 20 ms.
const STEP_ROWS: u32 = 5_000;

/// The tables that hold something personal of the user. They are walked through in steps, so what changes meanwhile may
/// be seen or not.
pub async fn rows_of(conn: &mut PgConnection, user: UserId) -> Result<Vec<PersonalRows>, Error> {
    let mut found = Vec::new();
    for table in all(conn).await? {
        let (mut rows, mut after) = (0, None);
        loop {
            let walked = table.count(conn, user, after, STEP_ROWS).await?;
            (rows, after) = (rows + walked.rows, walked.next);
            if after.is_none() {
                break;
            }
        }
        if rows > 0 {
            found.push(PersonalRows { table: table.name, rows });
        }
    }
    Ok(found)
}
