//! Tables that may hold something personal of a user: found in the catalog, counted, and blanked.

use ledger::UserId;
use sqlx::PgConnection;

use crate::Error;

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

/// Every table that may hold something personal: months attached and detached, audit chains, tokens; of the projection,
/// of one that a rebuild is making or keeps, and of one that a rebuild put aside and could not drop.
pub async fn all(conn: &mut PgConnection) -> Result<Vec<PersonalTable>, Error> {
    let tables = sqlx::query!(
        r#"SELECT c.relname::text AS "relname!", format('%I.%I', n.nspname, c.relname) AS "name!"
           FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
           WHERE n.nspname IN ('ledger', 'ledger_next', 'ledger_old') AND c.relkind = 'r'
             AND (c.relname ~ '^api_usage_\d{4}_\d{2}$' OR c.relname IN ('token_audit', 'user_tokens'))
           ORDER BY n.nspname, c.relname"#
    )
    .fetch_all(conn)
    .await?;
    let of = |name: &str| match name {
        "token_audit" => Holds::Audit,
        "user_tokens" => Holds::Tokens,
        _ => Holds::Calls,
    };
    Ok(tables.into_iter().map(|row| PersonalTable { holds: of(&row.relname), name: row.name }).collect())
}

impl PersonalTable {
    /// SQL condition of a row that holds something personal.
    const fn is_personal(&self) -> &'static str {
        match self.holds {
            Holds::Calls => "num_nonnulls(ip_address, user_agent) > 0",
            Holds::Audit => "num_nonnulls(token_name, ip_address, user_agent) > 0",
            Holds::Tokens => "true",
        }
    }

    /// Takes what is personal of the user out of the table, of `limit` rows at most; answers of how many it did. Fewer
    /// than `limit`: none is left. No rows: the table is gone, for a rebuild may drop it meanwhile.
    pub async fn blank(&self, conn: &mut PgConnection, user: UserId, limit: u32) -> Result<u64, Error> {
        let (table, is_personal) = (&self.name, self.is_personal());
        let change = match self.holds {
            Holds::Calls => format!("UPDATE {table} SET ip_address = NULL, user_agent = NULL"),
            Holds::Audit => {
                format!("UPDATE {table} SET token_name = NULL, ip_address = NULL, user_agent = NULL")
            }
            Holds::Tokens => format!("DELETE FROM {table}"),
        };
        // The name is the catalog's.
        let done = sqlx::query(&format!(
            "{change} WHERE ctid = ANY (ARRAY (
                 SELECT ctid FROM {table} WHERE user_id = $1 AND {is_personal} LIMIT $2 FOR UPDATE))"
        ))
        .bind(user.get())
        .bind(i64::from(limit))
        .execute(conn)
        .await;
        match done {
            Ok(done) => Ok(done.rows_affected()),
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(UNDEFINED_TABLE) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }
}

/// The tables that hold something personal of the user.
pub async fn rows_of(conn: &mut PgConnection, user: UserId) -> Result<Vec<PersonalRows>, Error> {
    let mut found = Vec::new();
    for table in all(conn).await? {
        let (name, is_personal) = (&table.name, table.is_personal());
        // The name is the catalog's, quoted by PostgreSQL.
        let query = format!("SELECT count(*) FROM {name} WHERE user_id = $1 AND {is_personal}");
        let rows: i64 = sqlx::query_scalar(&query).bind(user.get()).fetch_one(&mut *conn).await?;
        if rows > 0 {
            found.push(PersonalRows { table: table.name, rows: rows.unsigned_abs() });
        }
    }
    Ok(found)
}
