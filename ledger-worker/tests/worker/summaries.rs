//! `rebuild --only summaries` and `verify` of one user.

use anyhow::Result;
use ledger::Category::Other;
use ledger_worker::verify::verify;

use crate::support::{TestLedger, call};

#[tokio::test]
async fn counting_in_memory_gives_what_the_projector_counted() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    ledger.publish_all_kinds().await;
    let compared = ledger.rebuild().summaries(true).await?;
    assert_eq!(compared.differences, []);
    assert_eq!(compared.tables, ["monthly_usage_summary", "monthly_key_usage", "statement_adjustments"]);
    let sums =
        "SELECT string_agg(concat_ws(' ', user_id, month_year, total_calls, analyze_calls, timed_calls,
                    monthly_api_limit, reset_seq, reset_idx, last_updated), ', ' ORDER BY user_id, month_year)
                FROM monthly_usage_summary";
    let late = "SELECT string_agg(l::text, ', ' ORDER BY l::text) FROM late_units l";
    let keys = "SELECT string_agg(k::text, ', ' ORDER BY k::text) FROM monthly_key_usage k";
    let (before, late_before) = (ledger.text(sums).await, ledger.text(late).await);
    let keys_before = ledger.text(keys).await;
    assert_ne!(late_before, "", "a call came after its month's closing");
    assert_ne!(keys_before, "", "a call came with an API key");
    ledger
        .execute(
            "UPDATE monthly_usage_summary SET reset_seq = 0, timed_calls = 9;
             UPDATE late_units SET other_units = other_units + 5;
             UPDATE monthly_key_usage SET units = units + 5;
             INSERT INTO monthly_key_usage VALUES (gen_random_uuid(), '2026-10', gen_random_uuid(), 3);
             DELETE FROM monthly_usage_summary
             WHERE user_id = (SELECT min(user_id::text)::uuid FROM monthly_usage_summary);
             INSERT INTO monthly_usage_summary (user_id, month_year, last_updated)
             SELECT gen_random_uuid(), '2026-10', now()",
        )
        .await;
    let found = ledger.rebuild().summaries(true).await?;
    assert_eq!(found.differences.len(), 3);
    assert!(found.differences[0].rows.len() > 2, "{:?}", found.differences);
    assert_ne!(ledger.text(sums).await, before, "a dry run changes nothing");
    ledger.rebuild().summaries(false).await?;
    assert_eq!((ledger.text(sums).await, ledger.text(late).await), (before, late_before));
    assert_eq!(ledger.text(keys).await, keys_before);
    assert_eq!(ledger.verified().await?.differences, []);
    // The projector goes on from there.
    ledger.publish(&[ledger.own_call(ledger.user(), call(Other))]).await;
    ledger.projected().await;
    assert_eq!(ledger.verified().await?.differences, []);
    worker.stop().await;
    Ok(())
}

#[tokio::test]
async fn one_user_is_verified_alone() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    let (user, other) = (ledger.publish_all_kinds().await, ledger.user());
    ledger.publish(&[ledger.own_call(other, call(Other))]).await;
    ledger.projected().await;
    sqlx::query("UPDATE monthly_usage_summary SET timed_calls = 77 WHERE user_id = $1")
        .bind(other.get())
        .execute(ledger.env.pool())
        .await?;
    assert_eq!(verify(&ledger.rebuild(), Some(user)).await?.differences, []);
    let found = verify(&ledger.rebuild(), Some(other)).await?.differences;
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].rows[0].key.to_string().contains(&other.to_string()));
    worker.stop().await;
    Ok(())
}
