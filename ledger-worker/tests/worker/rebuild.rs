//! Rebuilding beside a worker that goes on: identical tables, mended rows, tables that are held, detached months.

use anyhow::Result;
use events::{ApiCalled, Body, CallCompleted, Event, LimitRejected, PeriodClosed, SOURCE_WORKER};
use ledger::Category::{Analyze, Auth, Other};
use ledger::{Meter, Month, UserId};
use ledger_worker::rebuild::{Compared, Finish, Progress, Rebuild, RebuildError, Room};
use ledger_worker::verify::{VerifyError, verify};
use uuid::Uuid;

use crate::support::{TestLedger, call, minutes, of_a_later_version, plan, reported, reset};

const SILENT: &(dyn Fn(Progress) + Send + Sync) = &|_| {};

impl TestLedger {
    pub(crate) fn rebuild(&self) -> Rebuild<'_> {
        Rebuild {
            database_url: self.env.database_url(),
            log: &self.log,
            progress: SILENT,
            room: Room::default(),
        }
    }

    pub(crate) async fn verified(&self) -> Result<Compared, VerifyError> {
        verify(&self.rebuild(), None).await
    }

    /// Events of every kind: reported twice, completed, un-counted, reset, closed, unknown, refused, another plan.
    pub(crate) async fn publish_all_kinds(&self) -> UserId {
        let (user, other) = (self.user(), self.user());
        let now = self.env.clock.now();
        let (month, october) = (Month::of(now), Month::of(now).prev());
        let id = || self.env.ids.event_id();
        let mut open = call(Analyze);
        (open.status_code, open.response_time_ms) = (None, None);
        let with_key = |mut called: ApiCalled<'static>, key: u128| {
            called.key_id = Some(Uuid::from_u128(key));
            called
        };
        open.key_id = Some(Uuid::from_u128(1));
        let (failed, fine) = (self.own_call(user, open.clone()), self.own_call(other, open));
        let complete = |of: &Event<'_>, status_code, counted| {
            let completed = CallCompleted {
                call_id: of.row_id().expect("an own id"),
                call_time: of.time,
                status_code,
                response_time_ms: Some(70),
                response_size: None,
                counted,
            };
            Event::by_api(id(), of.subject.expect("a user"), now, Body::CallCompleted(completed))
        };
        let missing = {
            let ghost = self.own_call(user, call(Other));
            complete(&ghost, 200, true)
        };
        let (broken, good) = (complete(&failed, 503, false), complete(&fine, 200, true));
        let late = |id: &str| reported(user, id, october.start() + minutes(90), with_key(call(Other), 1));
        let close = Body::PeriodClosed(PeriodClosed { month: october });
        let rejected =
            LimitRejected { meter: Meter::Analyze, count: 3, window_start: now, shadow: false, key_id: None };
        self.publish(&[
            reported(user, "a", now, call(Auth)),
            reported(user, "a", now - minutes(1), call(Auth)),
            reported(other, "a", now, call(Auth)),
            self.own_call(user, with_key(call(Other), 1)),
            failed.clone(),
            fine.clone(),
            late("old"),
        ])
        .await;
        self.publish(&[
            broken.clone(),
            good,
            broken,
            missing,
            plan(id(), other, (Some(500), Some(100)), now),
            reset(id(), user, month, now),
            self.own_call(user, with_key(call(Analyze), 2)),
            Event::own(SOURCE_WORKER, id(), None, now, close),
            late("older"),
            Event::by_api(id(), user, now, Body::LimitRejected(rejected)),
            reported(user, "a", now, call(Auth)),
        ])
        .await;
        self.publisher.publish(of_a_later_version()).await.expect("the log takes it");
        self.projected().await;
        user
    }

    pub(crate) async fn execute(&self, statement: &'static str) {
        sqlx::raw_sql(statement).execute(self.env.pool()).await.expect("the statement runs");
    }
}

#[tokio::test]
async fn a_rebuild_gives_the_same_rows_and_the_worker_goes_on() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    let user = ledger.publish_all_kinds().await;
    assert!(ledger.number("SELECT count(*) FROM dead_letters").await >= 2);
    // The worker makes the next month's partition by itself.
    let ahead = "SELECT count(*)::text FROM pg_class WHERE relispartition AND relkind = 'r'
                 AND relname = 'api_usage_' || to_char(now() AT TIME ZONE 'UTC' + interval '1 month', 'YYYY_MM')";
    ledger.until(ahead, "1").await;
    let before = catalogue(&ledger).await?;
    for _ in 0..2 {
        let outcome = ledger.rebuild().run(&ledger.keys, Finish::Swap).await?;
        assert_eq!(outcome.differences, []);
        assert!(outcome.tables.iter().any(|table| table == "api_usage"), "{:?}", outcome.tables);
        let after = catalogue(&ledger).await?;
        let only = |these: &[String], those: &[String]| -> Vec<String> {
            these.iter().filter(|line| !those.contains(line)).cloned().collect()
        };
        assert_eq!(
            (only(&before, &after), only(&after, &before)),
            (vec![], vec![]),
            "names, options, definitions"
        );
        // The same worker, its statements prepared before the swap.
        let calls = ledger.number("SELECT count(*) FROM api_usage").await;
        ledger
            .publish(&[
                ledger.own_call(user, call(Other)),
                reported(user, "a", ledger.env.clock.now(), call(Auth)),
            ])
            .await;
        ledger.projected().await;
        assert_eq!(ledger.number("SELECT count(*) FROM api_usage").await, calls + 1);
        assert_eq!(ledger.number("SELECT count(*) FROM projector_status WHERE state = 'running'").await, 1);
    }
    assert_eq!(ledger.verified().await?.differences, []);
    assert_eq!(
        ledger
            .number("SELECT count(*) FROM pg_namespace WHERE nspname IN ('ledger_old', 'ledger_next')")
            .await,
        0
    );
    worker.stop().await;
    Ok(())
}

/// Everything that a migration could have named or set.
async fn catalogue(ledger: &TestLedger) -> Result<Vec<String>> {
    Ok(sqlx::query_scalar(
        "SELECT concat_ws(' ', relname, relkind, reloptions, relispartition, pg_get_partkeydef(oid)) FROM pg_class
         WHERE relnamespace = 'ledger'::regnamespace
         UNION ALL SELECT concat_ws(' ', conname, pg_get_constraintdef(oid)) FROM pg_constraint
         WHERE connamespace = 'ledger'::regnamespace
         UNION ALL SELECT concat_ws(' ', tablename, indexdef) FROM pg_indexes WHERE schemaname = 'ledger'
         UNION ALL SELECT pg_get_viewdef(oid) FROM pg_class
         WHERE relnamespace = 'ledger'::regnamespace AND relkind = 'v'
         UNION ALL SELECT concat_ws(' ', table_name, column_name, data_type, is_nullable, column_default,
                                    generation_expression)
         FROM information_schema.columns WHERE table_schema = 'ledger' ORDER BY 1",
    )
    .fetch_all(ledger.env.pool())
    .await?)
}

#[tokio::test]
async fn rows_changed_by_hand_are_found_and_mended() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    ledger.publish_all_kinds().await;
    assert_eq!(ledger.verified().await?.differences, []);
    ledger
        .execute(
            "UPDATE monthly_usage_summary SET total_calls = total_calls + 7, other_calls = other_calls + 7
             WHERE (user_id, month_year) = (SELECT user_id, month_year FROM monthly_usage_summary LIMIT 1);
             DELETE FROM api_usage WHERE id = (SELECT id FROM api_usage LIMIT 1)",
        )
        .await;
    let tables = |compared: &Compared| -> Vec<String> {
        compared.differences.iter().map(|difference| difference.name.clone()).collect()
    };
    let found = tables(&ledger.verified().await?);
    assert_eq!(found, ["monthly_usage_summary", "api_usage"]);
    let rebuild = ledger.rebuild();
    for _ in 0..2 {
        let dry = rebuild.run(&ledger.keys, Finish::DryRun).await?;
        assert_eq!(tables(&dry), ["api_usage", "monthly_usage_summary"]);
        let summary = &dry.differences[1].rows[0];
        let total =
            |row: &Option<serde_json::Value>| row.as_ref().and_then(|row| row["total_calls"].as_i64());
        assert_eq!(total(&summary.expected).map(|total| total + 7), total(&summary.found));
    }
    assert_eq!(ledger.number("SELECT count(*) FROM pg_namespace WHERE nspname = 'ledger_next'").await, 0);
    assert_eq!(tables(&rebuild.run(&ledger.keys, Finish::Swap).await?).len(), 2);
    assert_eq!(ledger.verified().await?.differences, []);
    worker.stop().await;
    Ok(())
}

#[tokio::test]
async fn held_tables_are_swapped_or_dropped_later() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    let user = ledger.publish_all_kinds().await;
    let rebuild = ledger.rebuild();
    assert!(matches!(rebuild.swap(&ledger.keys).await, Err(RebuildError::NothingHeld)));
    assert_eq!(rebuild.run(&ledger.keys, Finish::Hold).await?.differences, []);
    ledger.publish(&[ledger.own_call(user, call(Other))]).await;
    ledger.projected().await;
    rebuild.swap(&ledger.keys).await?;
    assert_eq!(ledger.verified().await?.differences, []);
    rebuild.run(&ledger.keys, Finish::Hold).await?;
    assert!(rebuild.drop_held().await?);
    assert!(!rebuild.drop_held().await?);
    assert_eq!(ledger.verified().await?.differences, []);
    worker.stop().await;
    Ok(())
}

#[tokio::test]
async fn detached_months_stay_detached() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    let user = ledger.user();
    let month = |year, number| Month::new(year, number).expect("a month");
    let in_month = |id: &str, month: Month| reported(user, id, month.start() + minutes(5), call(Other));
    ledger
        .publish(&[
            in_month("a", month(2024, 1)),
            in_month("b", month(2024, 2)),
            in_month("c", month(2024, 3)),
        ])
        .await;
    ledger.projected().await;
    ledger
        .execute(
            "ALTER TABLE api_usage DETACH PARTITION api_usage_2024_01;
                    ALTER TABLE api_usage DETACH PARTITION api_usage_2024_02; DROP TABLE api_usage_2024_02",
        )
        .await;
    for _ in 0..2 {
        assert_eq!(ledger.rebuild().run(&ledger.keys, Finish::Swap).await?.differences, []);
        assert_eq!(ledger.number("SELECT count(*) FROM api_usage").await, 1);
        assert_eq!(
            ledger.number("SELECT count(*) FROM api_usage_2024_01").await,
            1,
            "kept beside the live table"
        );
        assert_eq!(ledger.number("SELECT count(*) FROM monthly_usage_summary").await, 3);
        assert_eq!(
            ledger.number("SELECT count(*) FROM pg_class WHERE relname = 'api_usage_2024_02'").await,
            0
        );
    }
    assert_eq!(ledger.verified().await?.differences, []);
    worker.stop().await;
    Ok(())
}

#[tokio::test]
async fn what_others_built_on_the_tables_is_not_dropped() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    ledger.publish_all_kinds().await;
    ledger.rebuild().run(&ledger.keys, Finish::Hold).await?;
    ledger
        .execute("CREATE VIEW public.totals AS SELECT user_id, total_calls FROM ledger.monthly_usage_summary")
        .await;
    for refused in [
        ledger.rebuild().run(&ledger.keys, Finish::Swap).await.map(drop),
        ledger.rebuild().swap(&ledger.keys).await,
    ] {
        assert!(
            matches!(&refused, Err(RebuildError::Dependants { names }) if names == &["view public.totals"]),
            "{refused:?}"
        );
    }
    assert!(ledger.number("SELECT count(*) FROM public.totals").await > 0);
    ledger.execute("DROP VIEW public.totals").await;
    ledger.rebuild().swap(&ledger.keys).await?;
    assert_eq!(ledger.verified().await?.differences, []);
    worker.stop().await;
    Ok(())
}

/// Its rows would go where nobody reads them.
#[tokio::test]
async fn a_call_of_a_month_that_is_detached_meanwhile_is_a_dead_letter() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    let user = ledger.user();
    let january = Month::new(2024, 1).expect("a month").start();
    ledger.publish(&[reported(user, "a", january, call(Other)), ledger.own_call(user, call(Other))]).await;
    ledger.projected().await;
    ledger.execute("ALTER TABLE api_usage DETACH PARTITION api_usage_2024_01").await;
    ledger.publish(&[reported(user, "b", january, call(Other)), ledger.own_call(user, call(Other))]).await;
    ledger.projected().await;
    assert_eq!(ledger.number("SELECT count(*) FROM dead_letters").await, 1);
    assert_eq!(ledger.number("SELECT count(*) FROM api_usage_2024_01").await, 1);
    assert_eq!(ledger.number("SELECT count(*) FROM api_usage").await, 2);
    assert_eq!(ledger.verified().await?.differences, []);
    worker.stop().await;
    Ok(())
}

const READ: &str = "SELECT count(*) FROM ledger_old.api_usage_2024_01";

/// Somebody reads for long what a swap put aside: who comes after does not wait for him, and neither for the rebuild.
#[tokio::test]
async fn a_long_reader_of_old_tables_keeps_nobody_waiting() -> Result<()> {
    let ledger = TestLedger::start().await?;
    ledger
        .execute("CREATE SCHEMA ledger_old; CREATE TABLE ledger_old.api_usage_2024_01 (user_id UUID)")
        .await;
    let mut long = ledger.env.pool().begin().await?;
    sqlx::query(READ).execute(&mut *long).await?;
    let rebuilding = async {
        let outcome = ledger.rebuild().run(&ledger.keys, Finish::DryRun).await;
        outcome.map(|compared| compared.differences)
    };
    let reading = async {
        let waits = "SELECT count(*)::text FROM pg_locks WHERE NOT granted
                     AND relation = 'ledger_old.api_usage_2024_01'::regclass";
        for _ in 0..3 {
            ledger.until(waits, "1").await;
            tokio::time::timeout(std::time::Duration::from_secs(5), ledger.number(READ)).await?;
        }
        long.rollback().await?;
        anyhow::Ok(())
    };
    let (rebuilt, read) = tokio::join!(rebuilding, reading);
    read?;
    assert_eq!(rebuilt?, []);
    Ok(())
}
