//! Calls as they are stored: once for a user, time and id, and found by an id alone.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use ledger::Category::{Analyze, Other};
use ledger::{Clock, IdSource, Month};
use sqlx::{Connection, Executor, PgConnection};
use store::projection::partitions::{self, Partition};
use store::read::call_outcomes;
use store::{Schema, connect};
use testkit::{Database, Env, Servers};

use crate::support::{BOUND, TestLedger, call, minutes, reported};

/// What is forgotten is the claim. The row is there, and its units are not added again.
#[tokio::test]
async fn a_stored_call_counts_once_though_its_claim_is_forgotten() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    let (user, other, now) = (ledger.user(), ledger.user(), ledger.env.clock.now());
    let event = |who, category| reported(who, "e1", now, call(category));
    ledger.publish(&[event(user, Analyze), event(other, Analyze)]).await;
    ledger.projected().await;
    ledger.execute("TRUNCATE event_claims_0").await;
    // With other content, and beside one that is new.
    ledger
        .publish(&[event(user, Other), reported(user, "e2", now, call(Other)), event(other, Analyze)])
        .await;
    ledger.projected().await;
    assert_eq!(ledger.number("SELECT count(*) FROM api_usage").await, 3);
    let sums = "SELECT string_agg(concat_ws(' ', total_calls, analyze_calls), ', ' ORDER BY total_calls)
                FROM monthly_usage_summary";
    assert_eq!(ledger.text(sums).await, "1 1, 2 1");
    assert_eq!(ledger.verified().await?.differences, []);
    // At another time it is another row, which a claim alone can tell.
    ledger.execute("TRUNCATE event_claims_0").await;
    ledger.publish(&[reported(user, "e1", now - minutes(1), call(Other))]).await;
    ledger.projected().await;
    assert_eq!(ledger.number("SELECT count(*) FROM api_usage").await, 4);
    worker.stop().await;
    Ok(())
}

/// The very statement that the api prepares, among calls of many months.
#[tokio::test]
async fn a_call_is_found_by_its_id_in_an_index() -> Result<()> {
    let env = Env::start().await?;
    let mut conn = connect(env.database_url(), Schema::Live).await?;
    let month = Month::of(env.clock.now());
    for month in [month.prev(), month, month.next()] {
        partitions::ensure(&mut conn, month).await?;
        fill(&mut conn, month, 5_000).await?;
    }
    let (id, user) = (env.ids.event_id(), env.ids.random_id());
    sqlx::query(
        "INSERT INTO api_usage (id, user_id, created_at, log_seq, log_idx, units, counted, category, month_year,
                                endpoint)
         SELECT $1, $2, $3, 1, 0, 1, true, 'other', to_char($3 AT TIME ZONE 'UTC', 'YYYY-MM'), '/api/x'",
    )
    .bind(id)
    .bind(user)
    .bind(env.clock.now())
    .execute(&mut conn)
    .await?;
    conn.execute("ANALYZE api_usage; SET plan_cache_mode = force_generic_plan").await?;
    let found = call_outcomes::find(&mut conn, None, id).await?.context("the call")?;
    assert_eq!(found.user.get(), user);
    let statement: String = sqlx::query_scalar(
        "SELECT name FROM pg_prepared_statements WHERE statement LIKE '%FROM api_usage WHERE id%'",
    )
    .fetch_one(&mut conn)
    .await?;
    let at = env.clock.now().to_rfc3339();
    let explain = format!("EXPLAIN EXECUTE {statement} ('{id}', '{at}', '{at}', NULL)");
    let plan: Vec<String> = sqlx::query_scalar(&explain).fetch_all(&mut conn).await?;
    let plan = plan.join("\n");
    assert!(plan.contains("_id_idx on api_usage") && !plan.contains("Seq Scan"), "{plan}");
    Ok(())
}

/// Calls of clients and of our own api, in turn.
async fn fill(conn: &mut PgConnection, month: Month, calls: i32) -> Result<()> {
    sqlx::query(
        "INSERT INTO api_usage (id, user_id, created_at, log_seq, log_idx, units, counted, category, month_year,
                                endpoint)
         SELECT overlay(md5(n::text) PLACING CASE n % 2 WHEN 0 THEN '7' ELSE '8' END FROM 13 FOR 1)::uuid,
                md5((n % 50)::text)::uuid, $1 + n * interval '1 second', n, 0, 1, true, 'other', $2, '/api/x'
         FROM generate_series(1, $3) n",
    )
    .bind(month.start())
    .bind(month.to_string())
    .bind(calls)
    .execute(conn)
    .await?;
    Ok(())
}

/// Every migration before this one, in order.
pub(crate) async fn migrated_before(number: &str) -> Result<(Database, PgConnection)> {
    let servers = Servers::shared().await?;
    let database = Database::create_empty(&servers.admin_url, &IdSource::new(Clock::system())).await?;
    let mut conn = PgConnection::connect(database.url()).await?;
    migrate(&mut conn, |name| name < number).await?;
    Ok((database, conn))
}

/// This migration and every one after it.
pub(crate) async fn migrate_from(conn: &mut PgConnection, number: &str) -> Result<()> {
    migrate(conn, |name| name >= number).await
}

async fn migrate(conn: &mut PgConnection, is_meant: impl Fn(&str) -> bool) -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations");
    let mut files: Vec<_> = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.sort();
    let is_meant = |file: &Path| file.file_name().is_some_and(|name| is_meant(&name.to_string_lossy()));
    for file in files.iter().filter(|file| is_meant(file)) {
        conn.execute(sqlx::raw_sql(&fs::read_to_string(file)?)).await?;
    }
    Ok(())
}

const MIGRATION: &str = include_str!("../../../../migrations/0011_calls_and_hours.sql");

/// Months with calls, one of them detached, as the build before this one made them.
#[tokio::test]
async fn months_of_the_build_before_are_taken_over() -> Result<()> {
    let (_database, mut conn) = migrated_before("0011").await?;
    let month = |number| Month::new(2026, number).expect("a month");
    for month in [month(1), month(2)] {
        partitions::ensure(&mut conn, month).await?;
        fill(&mut conn, month, 100).await?;
    }
    conn.execute("ALTER TABLE api_usage DETACH PARTITION api_usage_2026_01").await?;
    conn.execute(sqlx::raw_sql(MIGRATION)).await?;
    partitions::ensure(&mut conn, month(3)).await?;
    let indexes =
        "SELECT array_agg(regexp_replace(indexdef, '^.* USING ', '') ORDER BY indexdef) FROM pg_indexes
                   WHERE tablename ~ '^api_usage_' GROUP BY tablename";
    let indexes: Vec<Vec<String>> = sqlx::query_scalar(indexes).fetch_all(&mut conn).await?;
    let expected =
        ["btree (id) WHERE ((get_byte(uuid_send(id), 6) >> 4) = 7)", "btree (user_id, created_at, id)"];
    assert_eq!(indexes, [expected, expected, expected], "attached, detached and new");
    assert_eq!(partitions::ensure(&mut conn, month(1)).await?, Partition::Detached);
    conn.execute(
        "ALTER TABLE api_usage ATTACH PARTITION api_usage_2026_01 FOR VALUES FROM ('2026-01-01Z') TO ('2026-02-01Z')",
    )
    .await?;
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM api_usage").fetch_one(&mut conn).await?;
    assert_eq!(rows, 200);
    let again = sqlx::query("INSERT INTO api_usage SELECT * FROM api_usage LIMIT 1").execute(&mut conn).await;
    let refused = store::Error::from(again.expect_err("a call is there once"));
    assert_eq!(refused.conflict(), Some(&store::Constraint::UsageId));
    Ok(())
}

/// Whoever is at the tables is not kept from them for long.
#[tokio::test]
async fn the_migration_does_not_wait_behind_a_reader_for_ever() -> Result<()> {
    let (database, mut conn) = migrated_before("0011").await?;
    let mut reader = PgConnection::connect(database.url()).await?;
    let mut reading = reader.begin().await?;
    reading.execute("SELECT FROM api_usage").await?;
    let hurried = MIGRATION.replace("lock_timeout = '10s'", "lock_timeout = '50ms'");
    assert!(tokio::time::timeout(BOUND, conn.execute(sqlx::raw_sql(&hurried))).await?.is_err());
    reading.rollback().await?;
    conn.execute(sqlx::raw_sql(MIGRATION)).await?;
    Ok(())
}
