//! Closing a month: statements as issued, later calls as adjustments.

mod statements;

use anyhow::Result;
use events::{Body, Event, PeriodClosed, SOURCE_WORKER};
use ledger::Category::{Analyze, Auth, Other};
use ledger::Month;
use ledger_worker::rebuild::Finish;
use sqlx::{Connection, Row};

use crate::support::{TestLedger, call, minutes, plan, reported, reset};

#[tokio::test]
async fn a_statement_stays_as_issued_and_the_next_lists_what_came_late() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    let user = ledger.user();
    let october = Month::new(2026, 10).expect("a month");
    let at = |month: Month| month.start() + minutes(60);
    let close = |month: Month| {
        let body = Body::PeriodClosed(PeriodClosed { month });
        Event::own(SOURCE_WORKER, ledger.env.ids.event_id(), None, month.end() + minutes(60), body)
    };
    let call_in = |month, id: &str, category| reported(user, id, at(month), call(category));
    // A plan of November is not October's; the call after the closing in the same batch is not October's statement's.
    let november = october.next();
    ledger
        .publish(&[
            call_in(october, "a", Analyze),
            call_in(october, "b", Auth),
            plan(ledger.env.ids.event_id(), user, (Some(500), Some(100)), november.start()),
            close(october),
            call_in(october, "late", Other),
            close(october),
        ])
        .await;
    ledger.projected().await;
    let statements =
        "SELECT string_agg(concat_ws(' ', month_year, plan_name, price_monthly, monthly_api_limit,
                          total_calls, analyze_calls, auth_calls, other_calls), ', ' ORDER BY month_year)
                      FROM statements";
    assert_eq!(ledger.text(statements).await, "2026-10 free 0.00 50 2 1 1 0");
    assert_eq!(ledger.number("SELECT total_calls FROM monthly_usage_summary").await, 3);
    assert_eq!(ledger.number("SELECT count(*) FROM closed_periods").await, 1);
    // November has no call of its own: the adjustment alone makes a statement.
    ledger.publish(&[close(november), close(november)]).await;
    ledger.projected().await;
    let both = "2026-10 free 0.00 50 2 1 1 0, 2026-11 pro 9.99 500 0 0 0 0";
    assert_eq!(ledger.text(statements).await, both);
    let adjustments =
        "SELECT string_agg(concat_ws(' ', listed_in, of_month, analyze_units, auth_units, other_units), ', ')
                       FROM statement_adjustments";
    assert_eq!(ledger.text(adjustments).await, "2026-11 2026-10 0 0 1");
    // Listed once: December's statement does not list it again.
    ledger.publish(&[close(november.next())]).await;
    ledger.projected().await;
    assert_eq!(ledger.text(adjustments).await, "2026-11 2026-10 0 0 1");
    assert_eq!(ledger.text(statements).await, both);
    let issued = ledger.text("SELECT min(issued_at AT TIME ZONE 'UTC')::text FROM statements").await;
    assert_eq!(issued, "2026-11-01 01:00:00", "issued when the event says");
    worker.stop().await;
    Ok(())
}

/// A month that a statement lists is not reset any more, whether the closing is in the same batch or an earlier one.
#[tokio::test]
async fn a_reset_after_the_closing_comes_to_nothing() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    let (user, other) = (ledger.user(), ledger.user());
    let october = Month::new(2026, 10).expect("a month");
    let close = Body::PeriodClosed(PeriodClosed { month: october });
    let id = || ledger.env.ids.event_id();
    let at = october.start() + minutes(60);
    ledger
        .publish(&[
            reported(user, "a", at, call(Other)),
            reset(id(), user, october, at),
            reported(user, "b", at, call(Other)),
            Event::own(SOURCE_WORKER, id(), None, october.end() + minutes(60), close),
            reset(id(), user, october, at),
        ])
        .await;
    ledger.projected().await;
    ledger.publish(&[reset(id(), user, october, at), reset(id(), other, october, at)]).await;
    ledger.projected().await;
    let sums = "SELECT string_agg(concat_ws(' ', total_calls, reset_idx), ', ') FROM monthly_usage_summary";
    assert_eq!(ledger.text(sums).await, "1 1");
    assert_eq!(ledger.text("SELECT string_agg(total_calls::text, ', ') FROM statements").await, "1");
    assert_eq!(ledger.verified().await?.differences, []);
    assert_eq!(ledger.rebuild().summaries(true).await?.differences, []);
    assert_eq!(ledger.rebuild().run(&ledger.keys, Finish::Swap).await?.differences, []);
    worker.stop().await;
    Ok(())
}

/// The three statements of the contract, as they stand, on a fresh connection.
#[tokio::test]
async fn people_with_psql_see_the_same_figures() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    let (busy, idle) = (ledger.user(), ledger.user());
    for user in [busy, idle] {
        sqlx::query(
            "INSERT INTO users (user_id, external_id, email, created_at, updated_at)
             VALUES ($1, $2, 'a@b', now(), now())",
        )
        .bind(user.get())
        .bind(user.to_string())
        .execute(ledger.env.pool())
        .await?;
    }
    let mut big = call(Analyze);
    big.units = 44;
    ledger.publish(&[ledger.own_call(busy, big)]).await;
    ledger.projected().await;
    worker.stop().await;
    let all = "SELECT string_agg(concat_ws(' ', plan_name, total_calls, remaining_calls, remaining_analyze,
                   usage_percentage, email), ', ' ORDER BY total_calls) FROM user_usage_overview";
    assert_eq!(ledger.text(all).await, "free 0 50 10 0.0 a@b, free 44 6 0 88.0 a@b");
    let mut conn = sqlx::PgConnection::connect(ledger.env.database_url()).await?;
    let stats = format!("SELECT * FROM get_user_usage_stats('{busy}')");
    let rows = sqlx::raw_sql(&stats).fetch_all(&mut conn).await?;
    assert_eq!((rows.len(), rows[0].len()), (1, 13));
    let near = sqlx::raw_sql("SELECT * FROM user_usage_overview WHERE usage_percentage >= 80;")
        .fetch_all(&mut conn)
        .await?;
    assert_eq!((near.len(), near[0].len()), (1, 14));
    let averages = "SELECT month_year, AVG(usage_percentage) AS avg_usage FROM monthly_usage_summary \
                    GROUP BY month_year ORDER BY month_year DESC;";
    assert_eq!(sqlx::raw_sql(averages).fetch_all(&mut conn).await?.len(), 1);
    Ok(())
}
