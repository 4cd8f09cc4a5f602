//! `verify --user`: what is sealed for a user opens; of one who was erased, nothing does and nothing else is left.

use anyhow::Result;
use data_keys::Keys;
use ledger::UserId;
use ledger_worker::rebuild::Finish;
use ledger_worker::verify::{SealedReport, Tried, open_all};
use store::identity::wrapped_keys::{self, WrappedKey};

use crate::support::TestLedger;

impl TestLedger {
    async fn opened(&self, user: UserId, keys: Option<&Keys>) -> Result<SealedReport> {
        Ok(open_all(&self.rebuild(), user, keys).await?)
    }

    /// Erased, and gone from everywhere.
    async fn erase(&self, user: UserId) {
        self.publish(&[self.erased(user)]).await;
        self.finished().await;
    }

    async fn data_keys(&self, user: UserId) -> Result<Vec<WrappedKey>> {
        let mut conn = self.env.pool().acquire().await?;
        Ok(wrapped_keys::of_users(&mut conn, &[user]).await?)
    }

    /// Puts a data key back, as somebody would who has the row from a backup.
    async fn put_back(&self, key: &WrappedKey) -> Result<()> {
        sqlx::query(
            "INSERT INTO public.user_data_keys (user_id, dek_id, kid, sealed, created_at)
             VALUES ($1, $2, $3, $4::json, now())",
        )
        .bind(key.user.get())
        .bind(&key.dek_id)
        .bind(&key.kid)
        .bind(&key.sealed)
        .execute(self.env.pool())
        .await?;
        Ok(())
    }

    async fn change(&self, statement: &str) -> Result<()> {
        sqlx::raw_sql(statement).execute(self.env.pool()).await?;
        Ok(())
    }
}

fn tried(sealed: u64, open: u64) -> Tried {
    Tried { sealed, open }
}

fn faults(report: &SealedReport) -> Vec<String> {
    report.faults.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn all_of_a_living_user_opens_and_what_was_changed_is_named() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    let user = ledger.user_with_everything("customer-1").await?;
    let stranger = ledger.user_with_key().await?;
    ledger.publish(&[ledger.sealed_call(stranger, "e9", "e9", "192.0.2.9")]).await;
    ledger.projected().await;
    let report = ledger.opened(user, Some(&ledger.keys)).await?;
    assert_eq!(faults(&report), [""; 0]);
    assert_eq!((report.erased_at, report.data_keys), (None, 1));
    assert_eq!((report.tokens, report.personal), (tried(1, 1), tried(3, 3)));
    assert_eq!(report.stored_tokens, tried(1, 1));

    // A row that somebody changed, and a field that was moved to another event.
    ledger
        .change(
            r#"UPDATE user_tokens SET encrypted_token =
                   regexp_replace(encrypted_token::text, '"tag":"[0-9a-f]*', '"tag":"' || repeat('0', 64))::json"#,
        )
        .await?;
    let changed = ledger.opened(user, Some(&ledger.keys)).await?;
    assert_eq!(changed.stored_tokens, tried(1, 0));
    let found = faults(&changed);
    assert!(found.len() == 1 && found[0].starts_with("the stored github token "), "{found:?}");
    ledger.change("DELETE FROM user_tokens").await?;
    let position = ledger.publish(&[ledger.sealed_call(user, "e3", "e1", "192.0.2.3")]).await[0];
    ledger.projected().await;
    let moved = ledger.opened(user, Some(&ledger.keys)).await?;
    assert_eq!(moved.personal, tried(4, 3));
    let at = format!("{}/{}", position.seq, position.idx);
    assert_eq!(
        faults(&moved),
        [format!("1 sealed values of the log do not open, the first one in the event {at}")]
    );

    // The data key itself.
    ledger
        .change(
            r#"UPDATE public.user_data_keys SET sealed =
                   regexp_replace(sealed::text, '"tag":"[0-9a-f]*', '"tag":"' || repeat('0', 64))::json"#,
        )
        .await?;
    let lost = ledger.opened(user, Some(&ledger.keys)).await?;
    assert_eq!((lost.tokens, lost.personal, lost.data_keys), (tried(1, 0), tried(4, 0), 1));
    assert_eq!(faults(&lost)[0], "a data key does not open");
    worker.stop().await;
    Ok(())
}

#[tokio::test]
async fn nothing_of_an_erased_user_opens_unless_somebody_puts_the_key_back() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    let user = ledger.user_with_everything("customer-1").await?;
    ledger.projected().await;
    let wrapped = ledger.data_keys(user).await?;
    ledger.erase(user).await;
    // This process still remembers the key; the proof is about what is stored.
    for keys in [None, Some(&ledger.keys)] {
        let report = ledger.opened(user, keys).await?;
        assert!(report.erased_at.is_some());
        assert_eq!((report.tokens, report.personal), (tried(1, 0), tried(3, 0)));
        assert_eq!((report.data_keys, report.personal_rows), (0, 0));
        assert_eq!(faults(&report), [""; 0]);
    }
    worker.stop().await;

    ledger.put_back(&wrapped[0]).await?;
    let report = ledger.opened(user, Some(&ledger.keys)).await?;
    assert_eq!((report.tokens, report.personal, report.data_keys), (tried(1, 1), tried(3, 3), 1));
    let left = "1 data keys are still in public.user_data_keys";
    assert_eq!(faults(&report), ["4 sealed values of the log still open", left]);
    assert_eq!(faults(&ledger.opened(user, None).await?), [left]);
    ledger.change("DELETE FROM public.user_data_keys").await?;

    ledger
        .change(
            "UPDATE api_usage SET user_agent = 'curl/8'; UPDATE token_audit SET token_name = 'mine';
             DO $$ BEGIN EXECUTE (SELECT format('ALTER TABLE api_usage DETACH PARTITION %I', relname)
                 FROM pg_class WHERE relname ~ '^api_usage_[0-9]+_[0-9]+$' LIMIT 1); END $$",
        )
        .await?;
    let report = ledger.opened(user, None).await?;
    assert_eq!(report.personal_rows, 4);
    let found = faults(&report);
    assert!(found.len() == 2 && found[0].starts_with("2 rows of ledger.api_usage_2"), "{found:?}");
    assert_eq!(found[1], "2 rows of ledger.token_audit still hold personal fields or tokens");

    ledger
        .change("UPDATE public.users SET status = 'active', erased_at = NULL, external_id = 'customer-1'")
        .await?;
    let found = faults(&ledger.opened(user, None).await?);
    assert!(found.iter().any(|fault| fault == "the account is not a tombstone"), "{found:?}");
    Ok(())
}

#[tokio::test]
async fn a_rebuild_that_is_held_back_counts_too() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    let user = ledger.user_with_everything("customer-1").await?;
    ledger.projected().await;
    ledger.rebuild().run(&ledger.keys, Finish::Hold).await?;
    ledger.erase(user).await;
    assert_eq!(faults(&ledger.opened(user, None).await?), [""; 0], "it was blanked too");
    ledger.change("UPDATE ledger_next.token_audit SET token_name = 'mine'").await?;
    let found = faults(&ledger.opened(user, None).await?);
    assert_eq!(found, ["1 rows of ledger_next.token_audit still hold personal fields or tokens"]);
    ledger.rebuild().drop_held().await?;
    assert_eq!(faults(&ledger.opened(user, None).await?), [""; 0]);
    worker.stop().await;
    Ok(())
}
