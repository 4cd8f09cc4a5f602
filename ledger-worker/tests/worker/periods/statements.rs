//! Statements are derived: closing a month costs one row, and nothing that comes later changes what it was.

use anyhow::Result;
use events::{Body, CallCompleted, Event, PeriodClosed, SOURCE_WORKER};
use ledger::Category::{Analyze, Other};
use ledger::Month;
use ledger_worker::dead_letters::{RetryReport, retry_all};
use ledger_worker::rebuild::Finish;
use store::{Schema, connect};

use crate::support::{TestLedger, call, minutes, plan, reported, reset};

const STATEMENTS: &str = "SELECT string_agg(concat_ws(' ', user_id, month_year, plan_name, monthly_api_limit, analyze_limit,
            price_monthly, analyze_calls, auth_calls, other_calls, issued_at), ', ' ORDER BY user_id, month_year)
     FROM statements";
const ADJUSTMENTS: &str =
    "SELECT COALESCE(string_agg(concat_ws(' ', listed_in, of_month, analyze_units, other_units), ', '
                                ORDER BY listed_in, of_month), '')
     FROM statement_adjustments";

impl TestLedger {
    fn end_of(&self, month: Month) -> Event<'static> {
        let body = Body::PeriodClosed(PeriodClosed { month });
        Event::own(SOURCE_WORKER, self.env.ids.event_id(), None, month.end() + minutes(60), body)
    }

    /// Log, rows, sums and statements agree, and a rebuild gives the same.
    async fn agrees_with_a_rebuild(&self) -> Result<()> {
        assert_eq!(self.verified().await?.differences, []);
        assert_eq!(self.rebuild().summaries(true).await?.differences, []);
        let statements = (self.text(STATEMENTS).await, self.text(ADJUSTMENTS).await);
        assert_eq!(self.rebuild().run(&self.keys, Finish::Swap).await?.differences, []);
        assert_eq!((self.text(STATEMENTS).await, self.text(ADJUSTMENTS).await), statements);
        assert_eq!(self.verified().await?.differences, []);
        Ok(())
    }
}

/// The transaction that closes a month of 200,000 users writes the rows that any other batch writes.
#[tokio::test]
async fn closing_a_month_of_many_users_writes_one_row() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    let october = Month::new(2026, 10).expect("a month");
    ledger
        .execute(
            "INSERT INTO monthly_usage_summary (user_id, month_year, total_calls, other_calls, last_updated)
             SELECT gen_random_uuid(), month_year, n % 90 + 1, n % 90 + 1, '2026-10-02'
             FROM generate_series(1, 100000) n, (VALUES ('2026-09'), ('2026-10')) m (month_year);
             ANALYZE monthly_usage_summary",
        )
        .await;
    ledger.publish(&[ledger.end_of(october.prev()), ledger.end_of(october)]).await;
    ledger.projected().await;
    assert_eq!(ledger.number("SELECT count(*) FROM closed_periods").await, 2);
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT c.oid::regclass::text FROM pg_class c
         WHERE c.relnamespace = 'ledger'::regnamespace AND c.relkind = 'r' ORDER BY 1",
    )
    .fetch_all(ledger.env.pool())
    .await?;
    let mut written = Vec::new();
    for table in tables {
        let query = format!(
            "SELECT count(*) FROM {table} WHERE xmin = (SELECT xmin FROM closed_periods WHERE month_year = '2026-10')"
        );
        let rows: i64 = sqlx::query_scalar(&query).fetch_one(ledger.env.pool()).await?;
        if rows > 0 {
            written.push(format!("{table} {rows}"));
        }
    }
    assert_eq!(written, ["closed_periods 2", "producers 1", "projection_checkpoint 1"]);
    assert_eq!(ledger.number("SELECT count(*) FROM statements").await, 200_000);
    worker.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_closed_month_stays_as_it_was_whatever_comes_later() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    let (user, other, stranger) = (ledger.user(), ledger.user(), ledger.user());
    let october = Month::new(2026, 10).expect("a month");
    let at = october.end() - minutes(5);
    let id = || ledger.env.ids.event_id();
    let mut open = call(Analyze);
    (open.status_code, open.response_time_ms, open.units) = (None, None, 3);
    let began = Event::by_api(id(), user, at, Body::ApiCalled(open));
    let failed = CallCompleted {
        call_id: began.row_id()?,
        call_time: at,
        status_code: 502,
        response_time_ms: Some(7),
        response_size: None,
        counted: false,
    };
    ledger
        .publish(&[
            plan(id(), user, (Some(500), Some(100)), october.start()),
            began,
            reported(user, "a", at, call(Other)),
            reported(other, "b", at, call(Other)),
            reset(id(), other, october, at),
            ledger.end_of(october),
        ])
        .await;
    ledger.projected().await;
    let issued = ledger.text(STATEMENTS).await;
    assert!(issued.starts_with(&format!("{user} 2026-10 pro 500 100 9.99 3 0 1 ")), "{issued}");
    assert!(!issued.contains(&other.to_string()), "no units, no statement: {issued}");
    // In the month's own batch and in later ones: late calls, also of somebody who had none, an un-counting, the
    // same event again, a plan that begins in the past, a reset.
    ledger
        .publish(&[
            reported(user, "late", at, call(Other)),
            Event::own(events::SOURCE_API, id(), Some(user), at + minutes(9), Body::CallCompleted(failed)),
            reported(user, "late", at, call(Other)),
            reported(stranger, "late", at, call(Analyze)),
        ])
        .await;
    ledger
        .publish(&[plan(id(), user, (Some(9), Some(9)), october.start()), reset(id(), user, october, at)])
        .await;
    ledger.projected().await;
    assert_eq!(ledger.text(STATEMENTS).await, issued);
    assert_eq!(ledger.text(ADJUSTMENTS).await, "", "listed by a later statement");
    ledger.agrees_with_a_rebuild().await?;
    ledger.publish(&[ledger.end_of(october.next()), reported(user, "later", at, call(Other))]).await;
    ledger.projected().await;
    let listed = "2026-11 2026-10 1 0, 2026-11 2026-10 -3 1";
    let sorted = "SELECT string_agg(concat_ws(' ', listed_in, of_month, analyze_units, other_units), ', '
                                    ORDER BY analyze_units DESC) FROM statement_adjustments";
    assert_eq!(ledger.text(sorted).await, listed);
    assert_eq!(ledger.number("SELECT count(*) FROM statements WHERE month_year = '2026-11'").await, 2);
    let of_october = "SELECT count(*) FROM statements WHERE month_year = '2026-10'";
    assert_eq!(ledger.number(of_october).await, 1);
    assert!(ledger.text(STATEMENTS).await.contains(&issued));
    ledger.agrees_with_a_rebuild().await?;
    worker.stop().await;
    Ok(())
}

/// A month that is closed long after later ones, as a backfill's is, lists nothing of these, and what comes late into
/// it is listed by the next closing of a later month.
#[tokio::test]
async fn months_that_are_closed_out_of_their_order_list_what_is_earlier() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    let user = ledger.user();
    let (march, october) = (Month::new(2020, 3).expect("a month"), Month::new(2026, 10).expect("a month"));
    let in_month = |id: &str, month: Month| reported(user, id, month.start() + minutes(5), call(Other));
    ledger
        .publish(&[
            in_month("a", october),
            ledger.end_of(october),
            in_month("late october", october),
            in_month("b", march),
            ledger.end_of(march),
            in_month("late march", march),
            in_month("c", march.next()),
            ledger.end_of(march.next()),
            in_month("later march", march),
            in_month("later october", october),
            ledger.end_of(october.next()),
        ])
        .await;
    ledger.projected().await;
    let listed = "2020-04 2020-03 0 1, 2026-11 2020-03 0 1, 2026-11 2026-10 0 2";
    assert_eq!(ledger.text(ADJUSTMENTS).await, listed);
    let totals = "SELECT string_agg(concat_ws(' ', month_year, total_calls), ', ' ORDER BY month_year) FROM statements";
    assert_eq!(ledger.text(totals).await, "2020-03 1, 2020-04 1, 2026-10 1, 2026-11 0");
    ledger.agrees_with_a_rebuild().await?;
    worker.stop().await;
    Ok(())
}

/// Dead letters of before and after a closing are applied when the month is closed, and its successor too.
#[tokio::test]
async fn a_late_retry_is_an_adjustment_and_a_rebuild_leaves_it_one() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    let user = ledger.user();
    let october = Month::new(2026, 10).expect("a month");
    let at = october.start() + minutes(5);
    ledger
        .execute(
            "ALTER TABLE api_usage ADD CHECK (endpoint <> '/api/refused');
             ALTER TABLE subscriptions ADD CONSTRAINT refused CHECK (analyze_limit <> 777)",
        )
        .await;
    let refused = |id: &str, units| {
        let mut refused = call(Other);
        (refused.endpoint, refused.units) = ("/api/refused".into(), units);
        reported(user, id, at, refused)
    };
    ledger
        .publish(&[
            reported(user, "a", at, call(Other)),
            refused("before", 10),
            plan(ledger.env.ids.event_id(), user, (Some(777), Some(777)), october.start()),
            ledger.end_of(october),
            refused("after", 100),
            reported(user, "late", at, call(Other)),
        ])
        .await;
    ledger.publish(&[ledger.end_of(october.next())]).await;
    ledger.projected().await;
    let issued = ledger.text(STATEMENTS).await;
    assert_eq!(ledger.text(ADJUSTMENTS).await, "2026-11 2026-10 0 1");
    ledger
        .execute(
            "ALTER TABLE api_usage DROP CONSTRAINT api_usage_endpoint_check;
             ALTER TABLE subscriptions DROP CONSTRAINT refused",
        )
        .await;
    let mut conn = connect(ledger.env.database_url(), Schema::Live).await?;
    let report = retry_all(&mut conn, &ledger.log, &ledger.keys, None).await?;
    assert_eq!(report, RetryReport { applied: 3, still_dead: 0 });
    assert_eq!(ledger.number("SELECT total_calls FROM monthly_usage_summary").await, 112);
    assert_eq!(ledger.number("SELECT monthly_api_limit FROM monthly_usage_summary").await, 777);
    assert_eq!(ledger.text(STATEMENTS).await, issued);
    ledger.agrees_with_a_rebuild().await?;
    ledger.publish(&[ledger.end_of(october.next().next())]).await;
    ledger.projected().await;
    assert!(ledger.text(STATEMENTS).await.starts_with(&issued), "the two that were issued are as they were");
    assert_eq!(ledger.text(ADJUSTMENTS).await, "2026-11 2026-10 0 1, 2026-12 2026-10 0 110");
    ledger.agrees_with_a_rebuild().await?;
    worker.stop().await;
    Ok(())
}
