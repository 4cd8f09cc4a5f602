//! The transaction in which an answer is read.

use ledger::Category;
use sqlx::Row;
use store::projection::checkpoint;

use crate::customer::{Customer, at};
use crate::usage::seed::Call;

#[tokio::test(flavor = "multi_thread")]
async fn it_stays_at_one_instant_and_ends_by_itself() {
    let mut customer = Customer::start().await;
    let mut snapshot = store::read::snapshot(customer.pool()).await.unwrap();
    let before = checkpoint::read(&mut snapshot, 0).await.unwrap();
    let call = Call::at(at("2026-11-03T12:00:00Z"), 7, Category::Other, "/api/x");
    let seeded = customer.seed_calls(&[call]).await;
    let month = "2026-11".parse().unwrap();
    let usage = store::read::stats::month_usage(&mut snapshot, customer.user, month).await.unwrap();
    assert_eq!((before.seq, usage.total), (0, 0), "neither the checkpoint nor the figure has moved");
    assert_eq!(checkpoint::read(&mut snapshot, 0).await.unwrap(), before);

    let timeout = sqlx::query("SHOW statement_timeout").fetch_one(&mut *snapshot).await.unwrap();
    assert_eq!(timeout.get::<String, _>(0), "25s");
    let written = sqlx::query("DELETE FROM api_usage").execute(&mut *snapshot).await;
    assert!(written.is_err(), "it only reads");
    drop(snapshot);
    let mut fresh = store::read::snapshot(customer.pool()).await.unwrap();
    assert_eq!(checkpoint::read(&mut fresh, 0).await.unwrap().seq, seeded);
}
