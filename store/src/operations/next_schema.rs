//! `ledger_next`: the schema that a rebuild fills beside the live one, and its exchange with it.
//!
//! What is made here follows the catalog: a migration that adds a table, an index or a view to `ledger` needs no change
//! here. The names of schemas and tables are the catalog's own, quoted by PostgreSQL.

use ledger::Month;
use sqlx::{Connection, Executor, PgConnection};

use crate::Error;
use crate::patience::{LOCK_WAIT_MS, Patience, is_lock_timeout};
use crate::position::seq_from_column;
use crate::projection::partitions;

/// Tables whose rows do not come from the log: they are copied.
const SEEDED: [&str; 1] = ["subscription_limits"];

/// The statements that make `ledger_next` like `ledger`, in order. Constraints and indexes keep their names, which
/// LIKE alone would change. Partitions are made as they are needed.
const CLONE: &str = r"
    WITH tables AS (
        SELECT c.oid, c.relname, c.relkind, c.reloptions, c.relacl, c.relowner FROM pg_class c
        WHERE c.relnamespace = 'ledger'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
          AND c.relname !~ '^api_usage_\d{4}_\d{2}$'
    ), views AS (
        SELECT c.oid, c.relname, c.relacl, c.relowner FROM pg_class c
        WHERE c.relnamespace = 'ledger'::regnamespace AND c.relkind = 'v'
    ), steps AS (
        SELECT 1 AS step, relname::text AS name,
               format('CREATE TABLE ledger_next.%I (LIKE ledger.%I INCLUDING ALL EXCLUDING INDEXES)%s%s', relname,
                      relname, CASE relkind WHEN 'p' THEN ' PARTITION BY ' || pg_get_partkeydef(oid) ELSE '' END,
                      COALESCE(' WITH (' || array_to_string(reloptions, ', ') || ')', '')) AS ddl
        FROM tables
        UNION ALL
        SELECT 2, k.conname, format('ALTER TABLE ledger_next.%I ADD CONSTRAINT %I %s', t.relname, k.conname,
                                    pg_get_constraintdef(k.oid))
        FROM tables t JOIN pg_constraint k ON k.conrelid = t.oid AND k.contype IN ('p', 'u', 'x')
        UNION ALL
        SELECT 3, i.indexrelid::regclass::text,
               regexp_replace(pg_get_indexdef(i.indexrelid), ' ON (ONLY )?ledger\.', ' ON ledger_next.')
        FROM tables t JOIN pg_index i ON i.indrelid = t.oid
        WHERE NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid AND k.conrelid = t.oid)
        UNION ALL
        SELECT 4, relname, format('CREATE VIEW ledger_next.%I AS %s', relname, pg_get_viewdef(oid)) FROM views
        UNION ALL
        SELECT 5, r.relname, format('GRANT %s ON ledger_next.%I TO %s', a.privilege_type, r.relname, CASE a.grantee
                   WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END)
        FROM (SELECT relname, relacl, relowner FROM tables UNION ALL SELECT relname, relacl, relowner FROM views) r,
             aclexplode(r.relacl) a
        WHERE a.grantee <> r.relowner
        UNION ALL
        SELECT 6, 'ledger_next', format('GRANT %s ON SCHEMA ledger_next TO %s', a.privilege_type, CASE a.grantee
                   WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END)
        FROM pg_namespace n, aclexplode(n.nspacl) a WHERE n.nspname = 'ledger' AND a.grantee <> n.nspowner
    )
    SELECT ddl FROM steps ORDER BY step, name";

/// Objects that hang on tables and views of `ledger`, or on the types of their rows, and are not in `ledger` itself.
const DEPENDANTS: &str = r"
    WITH ours AS (
        SELECT oid, reltype FROM pg_class WHERE relnamespace = 'ledger'::regnamespace
    ), hanging AS (
        SELECT d.classid, d.objid FROM pg_depend d JOIN ours o
            ON d.refclassid = 'pg_class'::regclass AND d.refobjid = o.oid
            OR d.refclassid = 'pg_type'::regclass AND d.refobjid = o.reltype
    ), found AS (
        SELECT c.relnamespace AS schema, format('view %s.%I', c.relnamespace::regnamespace, c.relname) AS name
        FROM hanging h JOIN pg_rewrite r ON h.classid = 'pg_rewrite'::regclass AND r.oid = h.objid
        JOIN pg_class c ON c.oid = r.ev_class
        UNION
        SELECT c.relnamespace, format('table %s.%I', c.relnamespace::regnamespace, c.relname)
        FROM hanging h JOIN pg_class c
            ON h.classid = 'pg_class'::regclass AND c.oid = h.objid AND c.relkind IN ('r', 'p', 'f')
        UNION
        SELECT c.relnamespace, format('constraint %I of %s.%I', k.conname, c.relnamespace::regnamespace, c.relname)
        FROM hanging h JOIN pg_constraint k ON h.classid = 'pg_constraint'::regclass AND k.oid = h.objid
        JOIN pg_class c ON c.oid = k.conrelid
        UNION
        SELECT p.pronamespace, format('function %s.%I', p.pronamespace::regnamespace, p.proname)
        FROM hanging h JOIN pg_proc p ON h.classid = 'pg_proc'::regclass AND p.oid = h.objid
        UNION
        SELECT 0, format('publication %I', p.pubname)
        FROM hanging h JOIN pg_publication_rel r ON h.classid = 'pg_publication_rel'::regclass AND r.oid = h.objid
        JOIN pg_publication p ON p.oid = r.prpubid
    )
    SELECT name FROM found WHERE schema <> 'ledger'::regnamespace ORDER BY name";

/// The version of the tables: the last migration that was applied.
pub async fn tables_version(conn: &mut PgConnection) -> Result<i64, Error> {
    Ok(sqlx::query_scalar("SELECT COALESCE(max(version), 0) FROM public._sqlx_migrations")
        .fetch_one(conn)
        .await?)
}

/// The version of the tables that `ledger_next` was made for; `None` when there is no such schema.
pub async fn version(conn: &mut PgConnection) -> Result<Option<i64>, Error> {
    let comment: Option<Option<String>> = sqlx::query_scalar(
        "SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = 'ledger_next'",
    )
    .fetch_optional(conn)
    .await?;
    Ok(comment.map(|comment| comment.and_then(|text| text.rsplit(' ').next()?.parse().ok()).unwrap_or(-1)))
}

/// Makes `ledger_next` as empty as `ledger` is after the migrations, all or nothing.
pub async fn create(conn: &mut PgConnection) -> Result<(), Error> {
    let mut tx = conn.begin().await?;
    let version = tables_version(&mut tx).await?;
    tx.execute("SET LOCAL search_path = ledger, public").await?;
    let steps: Vec<String> = sqlx::query_scalar(CLONE).fetch_all(&mut *tx).await?;
    tx.execute("CREATE SCHEMA ledger_next").await?;
    // Definitions of views name what they read without the schema, which the path now decides.
    tx.execute("SET LOCAL search_path = ledger_next, public").await?;
    for step in steps {
        tx.execute(sqlx::raw_sql(&step)).await?;
    }
    tx.execute(
        "INSERT INTO ledger_next.projection_checkpoint (partition, seq, frame_id, events)
         SELECT partition, 0, '', 0 FROM ledger.projection_checkpoint",
    )
    .await?;
    copy_seeds(&mut tx).await?;
    tx.execute(sqlx::raw_sql(&format!(
        "COMMENT ON SCHEMA ledger_next IS 'usage-ledger rebuild of tables at migration {version}'"
    )))
    .await?;
    tx.commit().await?;
    Ok(())
}

/// Drops `ledger_next`; `false` when there is none. Waits for readers that still read it.
///
/// # Errors
/// [`Error::Locked`] when they did not end within half a minute.
pub async fn drop_next(conn: &mut PgConnection) -> Result<bool, Error> {
    let there = version(conn).await?.is_some();
    drop_patiently(conn, "ledger_next").await?;
    Ok(there)
}

/// Drops what a swap put aside. Waits for readers that still read it.
///
/// # Errors
/// [`Error::Locked`] when they did not end within half a minute.
pub async fn drop_old(conn: &mut PgConnection) -> Result<(), Error> {
    drop_patiently(conn, "ledger_old").await
}

/// Drops the schema between its readers: nobody who comes waits for those who are there.
async fn drop_patiently(conn: &mut PgConnection, schema: &'static str) -> Result<(), Error> {
    let mut patience = Patience::new();
    loop {
        let mut tx = conn.begin().await?;
        let dropped = tx
            .execute(sqlx::raw_sql(&format!(
                "SET LOCAL lock_timeout = {LOCK_WAIT_MS}; DROP SCHEMA IF EXISTS {schema} CASCADE"
            )))
            .await;
        match dropped {
            Ok(_) => {
                tx.commit().await?;
                return Ok(());
            }
            Err(error) => {
                tx.rollback().await?;
                patience.again(error).await?;
            }
        }
    }
}

/// Keeps the projector waiting, and nobody else, until the transaction ends: it takes a row of this table for update
/// before all else.
pub async fn hold_projector(conn: &mut PgConnection) -> Result<(), Error> {
    conn.execute("LOCK TABLE ledger.projection_checkpoint IN EXCLUSIVE MODE").await?;
    Ok(())
}

/// Checkpoints of the live and the next projection, in one look.
pub async fn checkpoints(conn: &mut PgConnection, partition: i16) -> Result<(u64, u64), Error> {
    let (live, next): (i64, i64) = sqlx::query_as(
        "SELECT l.seq, n.seq FROM ledger.projection_checkpoint l
         JOIN ledger_next.projection_checkpoint n USING (partition) WHERE partition = $1",
    )
    .bind(partition)
    .fetch_one(conn)
    .await?;
    Ok((seq_from_column(live), seq_from_column(next)))
}

/// Objects outside the live schema that hang on its tables: views, constraints, functions and publications that are not
/// ours. They would go with the tables that an exchange puts aside.
pub async fn dependants(conn: &mut PgConnection) -> Result<Vec<String>, Error> {
    Ok(sqlx::query_scalar(DEPENDANTS).fetch_all(conn).await?)
}

/// Takes every table and view of the live schema from its readers until the transaction ends: those that come wait, and
/// then see the exchanged tables. `false` when those that are reading did not end within `wait_ms` a table; the
/// transaction is lost then. The time is kept below the server's `deadlock_timeout`, so that no reader is ever the
/// victim.
pub async fn lock_out_readers(conn: &mut PgConnection, wait_ms: u32) -> Result<bool, Error> {
    let tables: Option<String> = sqlx::query_scalar(
        "SELECT string_agg(format('ledger.%I', relname), ', ' ORDER BY relname) FROM pg_class
         WHERE relnamespace = 'ledger'::regnamespace AND relkind IN ('r', 'p', 'v') AND NOT relispartition",
    )
    .fetch_one(&mut *conn)
    .await?;
    let statements = format!(
        "SET LOCAL lock_timeout = {wait_ms}; LOCK TABLE {} IN ACCESS EXCLUSIVE MODE; SET LOCAL lock_timeout = 0",
        tables.unwrap_or_default()
    );
    match conn.execute(sqlx::raw_sql(&statements)).await {
        Ok(_) => Ok(true),
        Err(error) if is_lock_timeout(&error) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Exchanges the schemas. The caller's transaction holds the projector and has locked out readers.
pub async fn exchange(conn: &mut PgConnection) -> Result<(), Error> {
    conn.execute("SET LOCAL search_path = ledger_next, public").await?;
    align_partitions(conn).await?;
    take_over_retried(conn).await?;
    copy_seeds(conn).await?;
    for month in months(conn, "ledger").await?.detached {
        let table = partitions::table(month);
        conn.execute(sqlx::raw_sql(&format!(
            "DROP TABLE IF EXISTS ledger_next.{table}; ALTER TABLE ledger.{table} SET SCHEMA ledger_next"
        )))
        .await?;
    }
    conn.execute(sqlx::raw_sql(
        "ALTER SCHEMA ledger RENAME TO ledger_old; ALTER SCHEMA ledger_next RENAME TO ledger;
         COMMENT ON SCHEMA ledger IS NULL;
         SELECT pg_notify('ledger_projected', seq::text) FROM ledger.projection_checkpoint WHERE partition = 0",
    ))
    .await?;
    Ok(())
}

/// Gives `ledger_next` the partitions that the live tables have. Months that were detached there are detached here: of
/// one that still stands alone an empty table keeps the place, so that late calls are refused as they are there.
///
/// The connection's `search_path` is that of `ledger_next`.
pub async fn align_partitions(conn: &mut PgConnection) -> Result<(), Error> {
    let live = months(conn, "ledger").await?;
    let next = months(conn, "ledger_next").await?;
    for month in next.attached.iter().filter(|month| !live.attached.contains(month)) {
        let table = partitions::table(*month);
        let keep = if live.detached.contains(month) {
            format!("CREATE TABLE ledger_next.{table} (LIKE ledger_next.api_usage)")
        } else if was_counted(conn, *month).await? {
            // Detached and then dropped.
            String::new()
        } else {
            // Of frames that the live projection has not seen.
            continue;
        };
        conn.execute(sqlx::raw_sql(&format!("DROP TABLE ledger_next.{table}; {keep}"))).await?;
    }
    for month in live.attached.iter().filter(|month| !next.attached.contains(month)) {
        partitions::ensure(conn, *month).await?;
    }
    Ok(())
}

/// Whether calls of the month were counted in the live projection, wherever they are now.
async fn was_counted(conn: &mut PgConnection, month: Month) -> Result<bool, Error> {
    Ok(sqlx::query_scalar("SELECT EXISTS (SELECT FROM ledger.monthly_usage_summary WHERE month_year = $1)")
        .bind(month.to_string())
        .fetch_one(conn)
        .await?)
}

/// Takes over which late units and plan changes are there because dead letters were applied later than their place in
/// the log, which does not say when. What a closed month's statement says stays so.
pub async fn take_over_retried(conn: &mut PgConnection) -> Result<(), Error> {
    conn.execute(sqlx::raw_sql(
        "UPDATE ledger_next.late_units SET
             analyze_units = analyze_units - retried_analyze, auth_units = auth_units - retried_auth,
             other_units = other_units - retried_other, retried_analyze = 0, retried_auth = 0, retried_other = 0
         WHERE (retried_analyze, retried_auth, retried_other) <> (0, 0, 0);
         INSERT INTO ledger_next.late_units AS l (user_id, of_month, closings, analyze_units, auth_units, other_units,
             retried_analyze, retried_auth, retried_other)
         SELECT user_id, of_month, closings, retried_analyze, retried_auth, retried_other, retried_analyze,
                retried_auth, retried_other
         FROM ledger.late_units WHERE (retried_analyze, retried_auth, retried_other) <> (0, 0, 0)
         ON CONFLICT (user_id, of_month, closings) DO UPDATE SET
             analyze_units = l.analyze_units + excluded.analyze_units,
             auth_units = l.auth_units + excluded.auth_units, other_units = l.other_units + excluded.other_units,
             retried_analyze = excluded.retried_analyze, retried_auth = excluded.retried_auth,
             retried_other = excluded.retried_other;
         UPDATE ledger_next.subscriptions n SET retried_closings = l.retried_closings
         FROM ledger.subscriptions l
         WHERE l.retried_closings IS NOT NULL AND n.user_id = l.user_id AND n.log_seq = l.log_seq
           AND n.log_idx = l.log_idx AND n.retried_closings IS DISTINCT FROM l.retried_closings",
    ))
    .await?;
    Ok(())
}

#[derive(Default)]
struct Months {
    attached: Vec<Month>,
    detached: Vec<Month>,
}

async fn months(conn: &mut PgConnection, schema: &str) -> Result<Months, Error> {
    let rows: Vec<(String, bool)> = sqlx::query_as(
        r"SELECT replace(right(c.relname, 7), '_', '-'), c.relispartition FROM pg_class c
          WHERE c.relnamespace = $1::regnamespace AND c.relkind = 'r' AND c.relname ~ '^api_usage_\d{4}_\d{2}$'",
    )
    .bind(schema)
    .fetch_all(conn)
    .await?;
    let mut months = Months::default();
    for (text, attached) in rows {
        let Ok(month) = text.parse() else { continue };
        if attached { months.attached.push(month) } else { months.detached.push(month) }
    }
    Ok(months)
}

async fn copy_seeds(conn: &mut PgConnection) -> Result<(), Error> {
    for table in SEEDED {
        conn.execute(sqlx::raw_sql(&format!(
            "DELETE FROM ledger_next.{table}; INSERT INTO ledger_next.{table} SELECT * FROM ledger.{table}"
        )))
        .await?;
    }
    Ok(())
}
