//! A batch and a compactor at once, each held at the points where the other could slip through.

use anyhow::Result;
use events::Event;
use ledger::Category::Other;
use ledger_worker::compaction::{claim, compact};
use sqlx::{Connection, Executor, PgPool};
use store::projection::hours::{self, Touched};
use store::{Schema, connect};
use testkit::wait_until;

use super::{Book, at, day, user};
use crate::support::{BOUND, call, reported};

/// Waits until so many sessions of the database wait for a lock.
async fn until_waiting(pool: &PgPool, sessions: i64) {
    wait_until(BOUND, || async {
        let waiting = "SELECT count(*) FROM pg_stat_activity
                       WHERE datname = current_database() AND wait_event_type = 'Lock'";
        sqlx::query_scalar::<_, i64>(waiting).fetch_one(pool).await.is_ok_and(|found| found == sessions)
    })
    .await;
}

async fn with_a_noted_day() -> Result<Book> {
    let mut book = Book::start().await?;
    book.apply(&[
        reported(user(1), "a", at(3, 0), call(Other)),
        reported(user(1), "b", at(4, 0), call(Other)),
    ])
    .await?;
    book.note(user(1), day()).await?;
    Ok(book)
}

fn late(id: &str) -> Event<'static> {
    reported(user(1), id, at(3, 30), call(Other))
}

/// A batch that began before the day was claimed, and does not know of it, is waited for: its call is read.
#[tokio::test]
async fn a_claim_waits_for_the_batch_that_is_being_applied() -> Result<()> {
    let mut book = with_a_noted_day().await?;
    let pool = book.env.pool().clone();
    let mut blocker = pool.begin().await?;
    blocker.execute("LOCK TABLE event_claims IN SHARE MODE").await?;
    let mut compactor = connect(book.env.database_url(), Schema::Live).await?;
    let calls = [late("late")];
    let batch = book.apply(&calls);
    let claiming = async {
        until_waiting(&pool, 1).await;
        claim(&mut compactor).await
    };
    let release = async {
        until_waiting(&pool, 2).await;
        blocker.rollback().await
    };
    let (applied, days, released) = tokio::join!(batch, claiming, release);
    applied?;
    released?;
    assert!(compact(&mut compactor, &days?.days[0]).await?);
    assert_eq!(book.hours().await?, "3 other t 2 2, 4 other t 1 1");
    book.checked(user(1)).await?;
    Ok(())
}

#[tokio::test]
async fn a_batch_after_the_claim_takes_it_back() -> Result<()> {
    for is_read in [false, true] {
        let mut book = with_a_noted_day().await?;
        let day = claim(&mut book.compactor).await?.days.remove(0);
        let mut sums = hours::read(&mut book.compactor, &day).await?;
        book.apply(&[late("late")]).await?;
        if !is_read {
            sums = hours::read(&mut book.compactor, &day).await?;
        }
        let mut tx = book.compactor.begin().await?;
        assert!(!hours::put(&mut tx, &day, &sums).await?);
        tx.commit().await?;
        assert_eq!(book.hours().await?, "");
        book.checked(user(1)).await?;
        assert_eq!(book.compact().await?, 1);
        assert_eq!(book.hours().await?, "3 other t 2 2, 4 other t 1 1");
        book.checked(user(1)).await?;
    }
    Ok(())
}

/// The batch waits for what is being put, and then takes it out.
#[tokio::test]
async fn a_batch_beside_hours_that_are_being_put_takes_them_out() -> Result<()> {
    let mut book = with_a_noted_day().await?;
    let pool = book.env.pool().clone();
    let mut compactor = connect(book.env.database_url(), Schema::Live).await?;
    let day = claim(&mut compactor).await?.days.remove(0);
    let sums = hours::read(&mut compactor, &day).await?;
    let mut tx = compactor.begin().await?;
    assert!(hours::put(&mut tx, &day, &sums).await?);
    let calls = [late("late")];
    let commit = async {
        until_waiting(&pool, 1).await;
        tx.commit().await
    };
    let (applied, committed) = tokio::join!(book.apply(&calls), commit);
    applied?;
    committed?;
    assert_eq!(book.hours().await?, "4 other t 1 1");
    book.checked(user(1)).await?;
    Ok(())
}

/// Whoever puts hours waits for a batch that has taken the claim back, and puts nothing if it is applied.
#[tokio::test]
async fn hours_are_put_after_the_batch_beside_them_or_not_at_all() -> Result<()> {
    for is_applied in [false, true] {
        let mut book = with_a_noted_day().await?;
        let pool = book.env.pool().clone();
        let mut compactor = connect(book.env.database_url(), Schema::Live).await?;
        let day = claim(&mut compactor).await?.days.remove(0);
        let mut batch = book.conn.begin().await?;
        hours::forget(&mut batch, 0, &[Touched { user: user(1), hour: at(3, 0), calls: 1 }]).await?;
        let end = async {
            until_waiting(&pool, 1).await;
            if is_applied { batch.commit().await } else { batch.rollback().await }
        };
        let (is_put, ended) = tokio::join!(compact(&mut compactor, &day), end);
        ended?;
        assert_eq!(is_put?, !is_applied);
        assert_eq!(book.hours().await?.is_empty(), is_applied);
    }
    Ok(())
}
