//! Statements of a database that a build wrote which stored them: they come out as they were.

use std::time::Duration;

use events::{Body, Event, PeriodClosed, SOURCE_WORKER};
use ledger::UserId;
use nats::EncodedEvent;
use serde_json::{Value, json};
use testkit::{Env, World};
use uuid::Uuid;

use crate::customer::at;

/// The last migration of that build.
const STORED: i64 = 9;

/// What it left of three users: `a` has a plan, another one that begins in the past and was decided after September's
/// closing, and late calls that are listed and that are not; `b` has months with nothing but adjustments; `c` came
/// after the closing.
const LEFT: &str = "
    INSERT INTO subscriptions (user_id, log_seq, log_idx, plan_name, monthly_api_limit, analyze_limit, price_monthly,
        currency, effective_at, changed_at) VALUES
        ('{a}', 0, 1, 'pro', 500, 100, 9.99, 'USD', '2026-07-01', '2026-07-01'),
        ('{a}', 0, 25, 'enterprise', NULL, 1000, 49.99, 'USD', '2026-08-15', '2026-10-15');
    INSERT INTO closed_periods (month_year, closed_at, log_seq, log_idx) VALUES
        ('2026-08', '2026-09-01T01:00:00Z', 0, 10), ('2026-09', '2026-10-01T01:00:00Z', 0, 20),
        ('2026-10', '2026-11-01T01:00:00Z', 0, 30);
    INSERT INTO monthly_usage_summary (user_id, month_year, total_calls, analyze_calls, auth_calls, other_calls,
        last_updated, billed_analyze, billed_auth, billed_other) VALUES
        ('{a}', '2026-08', 8, 7, 1, 0, '2026-10-02', 7, 1, 0), ('{a}', '2026-09', 4, 3, 0, 1, '2026-09-02', 3, 0, 1),
        ('{a}', '2026-10', 9, 8, 0, 1, '2026-11-02', 5, 0, 2), ('{b}', '2026-08', 6, 0, 0, 6, '2026-10-02', 0, 0, 6),
        ('{c}', '2026-10', 2, 0, 0, 2, '2026-11-02', 0, 0, 0), ('{c}', '2026-11', 2, 0, 0, 2, '2026-11-02', 0, 0, 0);
    INSERT INTO statements (user_id, month_year, plan_name, monthly_api_limit, analyze_limit, price_monthly, currency,
        total_calls, analyze_calls, auth_calls, other_calls, issued_at, log_seq, log_idx) VALUES
        ('{a}', '2026-08', 'pro', 500, 100, 9.99, 'USD', 6, 5, 1, 0, '2026-09-01T01:00:00Z', 0, 10),
        ('{a}', '2026-09', 'pro', 500, 100, 9.99, 'USD', 4, 3, 0, 1, '2026-10-01T01:00:00Z', 0, 20),
        ('{a}', '2026-10', 'enterprise', NULL, 1000, 49.99, 'USD', 7, 5, 0, 2, '2026-11-01T01:00:00Z', 0, 30),
        ('{b}', '2026-08', 'free', 50, 10, 0, 'USD', 4, 0, 0, 4, '2026-09-01T01:00:00Z', 0, 10),
        ('{b}', '2026-09', 'free', 50, 10, 0, 'USD', 0, 0, 0, 0, '2026-10-01T01:00:00Z', 0, 20),
        ('{b}', '2026-10', 'free', 50, 10, 0, 'USD', 0, 0, 0, 0, '2026-11-01T01:00:00Z', 0, 30);
    INSERT INTO statement_adjustments (user_id, listed_in, of_month, analyze_units, auth_units, other_units) VALUES
        ('{a}', '2026-10', '2026-08', 2, 0, 0), ('{b}', '2026-09', '2026-08', 0, 0, 3),
        ('{b}', '2026-10', '2026-08', 0, 0, -1)";

/// What that build's api answered, from its own tables.
const ANSWERED: &str = r#"
    SELECT json_build_object('month', s.month_year, 'plan_name', plan_name, 'monthly_api_limit', monthly_api_limit,
        'analyze_limit', analyze_limit, 'price_monthly', price_monthly::text, 'currency', currency,
        'total_calls', total_calls, 'analyze_calls', analyze_calls, 'auth_calls', auth_calls, 'other_calls', other_calls,
        'issued_at', to_char(issued_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
        'adjustments', (SELECT COALESCE(json_agg(json_build_object('month', of_month,
                'total_calls', analyze_units + auth_units + other_units, 'analyze_calls', analyze_units,
                'auth_calls', auth_units, 'other_calls', other_units) ORDER BY of_month), '[]')
            FROM statement_adjustments a WHERE a.user_id = s.user_id AND a.listed_in = s.month_year),
        'adjusted_in', (SELECT COALESCE(json_agg(json_build_object('month', listed_in,
                'total_calls', analyze_units + auth_units + other_units, 'analyze_calls', analyze_units,
                'auth_calls', auth_units, 'other_calls', other_units) ORDER BY listed_in), '[]')
            FROM statement_adjustments a WHERE a.user_id = s.user_id AND a.of_month = s.month_year))
    FROM statements s WHERE s.user_id = $1 ORDER BY s.month_year DESC"#;

#[tokio::test(flavor = "multi_thread")]
async fn statements_that_were_stored_are_derived_as_they_were() {
    let env = Env::at_migration(STORED).await.unwrap();
    env.clock.set(at("2026-12-02T03:00:00Z"));
    let [a, b, c] = [(); 3].map(|()| UserId::new(env.ids.random_id()));
    let left = [("{a}", a), ("{b}", b), ("{c}", c)]
        .iter()
        .fold(LEFT.to_owned(), |left, (name, user)| left.replace(name, &user.to_string()));
    let accounts = [a, b, c].map(|user| format!("('{user}', now(), now())")).join(", ");
    let accounts = format!("INSERT INTO public.users (user_id, created_at, updated_at) VALUES {accounts}");
    for statements in [left, accounts] {
        sqlx::raw_sql(&statements).execute(env.pool()).await.unwrap();
    }
    let mut answered = Vec::new();
    for user in [a, b, c] {
        let items: Vec<Value> =
            sqlx::query_scalar(ANSWERED).bind(user.get()).fetch_all(env.pool()).await.unwrap();
        answered.push((user, items));
    }
    assert_eq!(answered.iter().map(|(_, items)| items.len()).collect::<Vec<_>>(), [3, 3, 0]);
    store::migrate(env.database_url()).await.unwrap();

    let mut world = World::in_env(env, &[]).await.unwrap();
    let mut derived = Vec::new();
    for user in [a, b, c] {
        derived.push((user, statements(&world, user).await));
    }
    assert_eq!(derived, answered);
    let pages = all_pages(&world, a).await;
    assert_eq!(pages, answered[0].1, "page by page");

    // The next closing lists what was not listed yet, and changes nothing else.
    world.start_worker();
    let id: Uuid = world.env.ids.event_id();
    let body = Body::PeriodClosed(PeriodClosed { month: "2026-11".parse().unwrap() });
    let closed = Event::own(SOURCE_WORKER, id, None, at("2026-12-01T01:00:00Z"), body);
    world.api.handle.publisher.publish(EncodedEvent::of(&closed)).await.unwrap();
    world.wait_until_projected().await.unwrap();
    let of = |analyze: i64, other: i64| {
        json!([{"month": "2026-10", "total_calls": analyze + other, "analyze_calls": analyze, "auth_calls": 0,
                "other_calls": other}])
    };
    let mut now = statements(&world, a).await;
    let november = now.remove(0);
    assert_eq!((&november["total_calls"], &november["adjustments"]), (&json!(0), &of(3, -1)));
    assert_eq!(now[0]["adjusted_in"][0]["month"], json!("2026-11"));
    now[0]["adjusted_in"] = json!([]);
    assert_eq!(now, answered[0].1);
    assert_eq!(statements(&world, b).await, answered[1].1);
    let of_c = statements(&world, c).await;
    assert_eq!((of_c.len(), &of_c[0]["total_calls"], &of_c[0]["adjustments"]), (1, &json!(2), &of(0, 2)));
}

/// Somebody reads for long: who comes after does not wait for him, and neither for the migration.
#[tokio::test(flavor = "multi_thread")]
async fn a_migration_keeps_no_reader_waiting() {
    let env = Env::at_migration(STORED).await.unwrap();
    let read = "SELECT count(*) FROM closed_periods";
    let mut long = env.pool().begin().await.unwrap();
    sqlx::query(read).execute(&mut *long).await.unwrap();
    let reading = async {
        for _ in 0..3 {
            testkit::wait_until(testkit::PATIENCE, async || {
                let waits: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'closed_periods'::regclass",
            )
            .fetch_one(env.pool())
            .await
            .unwrap();
                waits > 0
            })
            .await;
            let reading = sqlx::query(read).execute(env.pool());
            tokio::time::timeout(Duration::from_secs(5), reading).await.unwrap().unwrap();
        }
        long.rollback().await.unwrap();
    };
    let (migrated, ()) = tokio::join!(store::migrate(env.database_url()), reading);
    migrated.unwrap();
    let late: i64 =
        sqlx::query_scalar("SELECT count(*) FROM late_units").fetch_one(env.pool()).await.unwrap();
    assert_eq!(late, 0);
}

async fn statements(world: &World, user: UserId) -> Vec<Value> {
    page(world, &format!("/api/usage/statements?user_id={user}")).await.0
}

async fn all_pages(world: &World, user: UserId) -> Vec<Value> {
    let path = format!("/api/usage/statements?user_id={user}&limit=1");
    let (mut items, mut next) = page(world, &path).await;
    while let Some(cursor) = next {
        let (more, after) = page(world, &format!("{path}&cursor={cursor}")).await;
        items.extend(more);
        next = after;
    }
    items
}

async fn page(world: &World, path: &str) -> (Vec<Value>, Option<String>) {
    let answer = world.service().unwrap().get(path).send().await.unwrap().expect(200).unwrap();
    let body = answer.json().unwrap();
    let next = body["next_cursor"].as_str().map(str::to_owned);
    (body["items"].as_array().unwrap().clone(), next)
}
