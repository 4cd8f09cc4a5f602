//! Months that are over get closed, whoever finds it out and how often.

use anyhow::Result;
use chrono::TimeDelta;
use ledger::Category::Other;
use ledger::Month;
use ledger_worker::rollover::{Closer, RolloverError};

use crate::support::{TestLedger, call, minutes, reported};

const CLOSED: &str = "SELECT string_agg(month_year, ' ' ORDER BY log_seq, log_idx) FROM closed_periods";
const STATEMENTS: &str =
    "SELECT string_agg(concat_ws(' ', month_year, total_calls), ', ' ORDER BY month_year) FROM statements";

impl TestLedger {
    fn closer(&self) -> Closer {
        let (publisher, ids) = (self.publisher.clone(), self.env.ids.clone());
        Closer { publisher, ids, clock: self.env.clock.clone(), close_grace: TimeDelta::hours(1) }
    }
}

#[tokio::test]
async fn missed_months_are_closed_once_and_late_calls_are_adjustments() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let august = Month::new(2026, 8).expect("a month");
    let (september, october, november) = (august.next(), august.next().next(), august.next().next().next());
    ledger.env.clock.set(november.start() + minutes(90));
    let user = ledger.user();
    let in_month = |id: &str, month: Month| reported(user, id, month.start() + minutes(5), call(Other));
    ledger
        .publish(&[
            in_month("a", august),
            in_month("b", august),
            in_month("c", september),
            in_month("d", october),
        ])
        .await;
    // Nobody ran for three months. Two workers begin at once, and two operators do it by hand.
    let (one, two) = (ledger.spawn_worker(), ledger.spawn_worker());
    ledger.projected_to(1).await;
    let closer = ledger.closer();
    let mut conns = (ledger.env.pool().acquire().await?, ledger.env.pool().acquire().await?);
    let (first, second) =
        tokio::join!(closer.close_due(&mut conns.0, None), closer.close_due(&mut conns.1, None));
    first?;
    second?;
    ledger.until(CLOSED, "2026-08 2026-09 2026-10").await;
    ledger.projected().await;
    assert_eq!(ledger.text(STATEMENTS).await, "2026-08 2, 2026-09 1, 2026-10 1");
    assert_eq!(
        ledger
            .number("SELECT count(*) FROM pg_class WHERE relname = 'api_usage_2026_12' AND relispartition")
            .await,
        1
    );
    // Late: counted in its month, its statement unchanged, listed in the next one.
    ledger.publish(&[in_month("late", august), in_month("now", november)]).await;
    ledger.projected().await;
    let (none, _) = closer.close_due(&mut conns.0, None).await?;
    assert_eq!(none, []);
    let early = closer.close_due(&mut conns.0, Some(november)).await;
    assert!(matches!(early, Err(RolloverError::NotOver { .. })), "{early:?}");
    // The month ends while the worker runs: it finds out by the ledger's clock.
    ledger.env.clock.set(november.end() + minutes(61));
    ledger.until(CLOSED, "2026-08 2026-09 2026-10 2026-11").await;
    assert_eq!(ledger.text(STATEMENTS).await, "2026-08 2, 2026-09 1, 2026-10 1, 2026-11 1");
    let adjustments = "SELECT string_agg(concat_ws(' ', listed_in, of_month, other_units), ', ')
                       FROM statement_adjustments";
    assert_eq!(ledger.text(adjustments).await, "2026-11 2026-08 1");
    assert_eq!(
        ledger.number("SELECT total_calls FROM monthly_usage_summary WHERE month_year = '2026-08'").await,
        3
    );
    ledger.projected().await;
    assert_eq!(ledger.verified().await?.differences, []);
    one.stop().await;
    two.stop().await;
    Ok(())
}

/// The first rows of a backfill would close its month, and all the others would be adjustments.
#[tokio::test]
async fn a_month_into_which_rows_still_come_stays_open() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let (march, november) = (Month::new(2020, 3).expect("a month"), Month::new(2026, 11).expect("a month"));
    ledger.env.clock.set(november.start() + minutes(90));
    let user = ledger.user();
    let in_month = |id: &str, month: Month| reported(user, id, month.start() + minutes(5), call(Other));
    // October's were projected by an earlier worker, and by now nobody knows when.
    ledger.publish(&[in_month("a", november.prev())]).await;
    let worker = ledger.spawn_worker();
    ledger.projected().await;
    worker.stop().await;
    let worker = ledger.spawn_worker();
    ledger.until(CLOSED, "2026-10").await;
    ledger.publish(&[in_month("b", november), in_month("first", march), in_month("second", march)]).await;
    ledger.projected().await;
    ledger.env.clock.set(november.end() + minutes(30));
    ledger.publish(&[in_month("last", march)]).await;
    ledger.projected().await;
    // Two months that are over, one of them with a row that came half an hour ago.
    ledger.env.clock.set(november.end() + minutes(61));
    ledger.until(CLOSED, "2026-10 2026-11").await;
    ledger.env.clock.set(november.end() + minutes(92));
    ledger.until(CLOSED, "2026-10 2026-11 2020-03").await;
    assert_eq!(ledger.text(STATEMENTS).await, "2020-03 3, 2026-10 1, 2026-11 1");
    assert_eq!(ledger.number("SELECT count(*) FROM statement_adjustments").await, 0);
    worker.stop().await;
    Ok(())
}

/// Nobody calls in the month that is to list what came late.
#[tokio::test]
async fn a_month_that_has_only_adjustments_is_closed_too() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let october = Month::new(2026, 10).expect("a month");
    ledger.env.clock.set(october.end() + minutes(90));
    let user = ledger.user();
    let in_october = |id: &str| reported(user, id, october.start() + minutes(5), call(Other));
    ledger.publish(&[in_october("a")]).await;
    let worker = ledger.spawn_worker();
    ledger.projected().await;
    let closer = ledger.closer();
    let mut conn = ledger.env.pool().acquire().await?;
    closer.close_due(&mut conn, Some(october)).await?;
    ledger.until(CLOSED, "2026-10").await;
    ledger.publish(&[in_october("late")]).await;
    ledger.projected().await;
    ledger.env.clock.set(october.next().end() + minutes(61));
    ledger.until(CLOSED, "2026-10 2026-11").await;
    assert_eq!(ledger.text(STATEMENTS).await, "2026-10 1, 2026-11 0");
    // December has nothing to list.
    ledger.env.clock.set(october.next().next().end() + minutes(61));
    let (none, _) = closer.close_due(&mut conn, None).await?;
    assert_eq!(none, []);
    worker.stop().await;
    Ok(())
}
