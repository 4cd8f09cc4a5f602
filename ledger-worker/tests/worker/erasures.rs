//! An erased user: what the log says is made true everywhere, whoever dies in between, and stays true in a rebuild.

use anyhow::Result;
use events::{Actor, ActorKind, Body, Event, UserErased};
use ledger::Category::Other;
use ledger::UserId;
use ledger_worker::batch::KnownDataKeys;
use ledger_worker::rebuild::Finish;
use ledger_worker::{Applier, Batch};
use sqlx::Connection;
use store::identity::users::{AccountStatus, NewUser};
use store::identity::wrapped_keys;
use store::projection::personal_tables::{self, Holds};
use vault::TokenKind;

use crate::support::{TestLedger, call, minutes, reported};

const CLEAR_ROWS: &str = "SELECT count(*) FROM (SELECT ip_address, user_agent FROM api_usage
         UNION ALL SELECT COALESCE(ip_address, token_name), user_agent FROM token_audit
         UNION ALL SELECT ip_address, user_agent FROM security_log) r
     WHERE ip_address IS NOT NULL OR user_agent IS NOT NULL";
const DATA_KEYS: &str = "SELECT count(*) FROM public.user_data_keys";
const BLANKED: &str = "SELECT count(blanked_at) FROM public.users";

impl TestLedger {
    pub(crate) fn erased(&self, user: UserId) -> Event<'static> {
        let body = Body::UserErased(UserErased { actor: Actor::new(ActorKind::Admin, "tester") });
        Event::by_api(self.env.ids.event_id(), user, self.env.clock.now(), body)
    }

    pub(crate) async fn finished(&self) {
        self.projected().await;
        self.until("SELECT count(*)::text FROM public.users WHERE blanked_at IS NOT NULL", "1").await;
    }

    /// A user with an account by this name, a token, and calls that name an address.
    pub(crate) async fn user_with_everything(&self, name: &str) -> Result<UserId> {
        let user = self.user();
        let mut conn = self.env.pool().acquire().await?;
        let external = self.keys.hash_external_id(name.parse()?).await?;
        store::identity::users::provision(
            &mut conn,
            vec![NewUser::named(user.get(), external)],
            self.env.clock.now(),
        )
        .await?;
        sqlx::query("UPDATE public.users SET email = 'a@example.org', name = 'A'")
            .execute(&mut *conn)
            .await?;
        self.keys.get_or_make(&mut conn, user).await?;
        self.publish(&[
            self.stored(user, self.env.ids.event_id(), TokenKind::Github, "mine"),
            self.sealed_call(user, "e1", "e1", "192.0.2.1"),
            self.sealed_call(user, "e2", "e2", "192.0.2.2"),
        ])
        .await;
        Ok(user)
    }
}

#[tokio::test]
async fn an_erased_user_leaves_counts_a_tombstone_and_a_chain_that_verifies() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    let user = ledger.user_with_everything("customer-1").await?;
    // The fields of these were sealed before the key was destroyed, and come after it.
    let late = [
        ledger.sealed_call(user, "e3", "e3", "192.0.2.3"),
        ledger.stored(user, ledger.env.ids.event_id(), TokenKind::Openai, "late"),
        ledger.erased(user),
    ];
    ledger.projected().await;
    assert_eq!(ledger.number(CLEAR_ROWS).await, 4);
    assert_eq!(ledger.number(DATA_KEYS).await, 1);

    ledger.publish(&[ledger.erased(user)]).await;
    ledger.publish(&late).await;
    ledger.finished().await;
    assert_eq!(ledger.number(CLEAR_ROWS).await, 0);
    assert_eq!(ledger.number(DATA_KEYS).await, 0);
    assert_eq!(ledger.number("SELECT count(*) FROM user_tokens").await, 0);
    assert_eq!(ledger.number("SELECT sum(total_calls)::bigint FROM monthly_usage_summary").await, 3);
    assert_eq!(
        ledger.text("SELECT concat_ws(' ', status, external_id, email, name) FROM public.users").await,
        "erased"
    );
    assert_eq!(
        ledger.text("SELECT string_agg(action, ' ' ORDER BY log_seq, log_idx) FROM token_audit").await,
        "stored erased stored erased"
    );
    ledger.agrees().await?;

    // The host's id is recognised, makes nobody, and no key is made again.
    let mut conn = ledger.env.pool().acquire().await?;
    let external = ledger.keys.hash_external_id("customer-1".parse()?).await?;
    let found = store::identity::users::by_external_id(&mut conn, &external).await?.expect("the tombstone");
    assert_eq!((found.user_id, found.status), (user, AccountStatus::Erased));
    let again = vec![NewUser::named(ledger.env.ids.random_id(), external)];
    store::identity::users::provision(&mut conn, again, ledger.env.clock.now()).await?;
    assert_eq!(ledger.number("SELECT count(*) FROM public.users").await, 1);
    ledger.keys.forget_all();
    assert!(ledger.keys.get_or_make(&mut conn, user).await.is_err());
    drop(conn);

    let rebuilt = ledger.rebuild().run(&ledger.keys, Finish::Swap).await?;
    assert_eq!(rebuilt.differences, []);
    assert_eq!(ledger.number(CLEAR_ROWS).await, 0);
    ledger.agrees().await?;
    worker.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_rebuild_in_which_the_key_still_lives_holds_nothing_of_the_erased() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let user = ledger.user_with_everything("customer-1").await?;
    ledger.publish(&[ledger.erased(user), ledger.sealed_call(user, "e3", "e3", "192.0.2.3")]).await;
    // Nobody has finished the erasure: as right after a crash of the api, before a worker looked.
    let worker = ledger.spawn_worker();
    ledger.finished().await;
    worker.stop().await;
    let mut conn = ledger.env.pool().acquire().await?;
    // A backup of the database was restored, with the key in it.
    let key = ledger.keys.cached(user);
    assert!(key.is_some(), "this process was not told");
    let rebuilt = ledger.rebuild().run(&ledger.keys, Finish::Swap).await?;
    assert_eq!(rebuilt.differences, []);
    assert_eq!(ledger.number(CLEAR_ROWS).await, 0);
    assert!(wrapped_keys::of_users(&mut conn, &[user]).await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn what_a_restored_backup_brings_back_is_erased_again() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let user = ledger.user_with_everything("customer-1").await?;
    let mut conn = ledger.env.pool().acquire().await?;
    let wrapped = wrapped_keys::of_users(&mut conn, &[user]).await?;
    ledger.publish(&[ledger.erased(user)]).await;
    let worker = ledger.spawn_worker();
    ledger.finished().await;
    worker.stop().await;
    sqlx::query(
        "UPDATE public.users SET status = 'active', erased_at = NULL, blanked_at = NULL, external_id = 'customer-1'",
    )
    .execute(&mut *conn)
    .await?;
    wrapped_keys::insert(&mut conn, wrapped, ledger.env.clock.now()).await?;
    sqlx::query("UPDATE api_usage SET ip_address = '192.0.2.1'").execute(&mut *conn).await?;
    assert_eq!(ledger.number(DATA_KEYS).await, 1);
    let worker = ledger.spawn_worker();
    ledger.finished().await;
    assert_eq!((ledger.number(DATA_KEYS).await, ledger.number(CLEAR_ROWS).await), (0, 0));
    worker.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_month_that_was_detached_loses_the_addresses_too() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    let user = ledger.user_with_everything("customer-1").await?;
    ledger.projected().await;
    let table: String =
        sqlx::query_scalar("SELECT relname::text FROM pg_class WHERE relname ~ '^api_usage_[0-9]+_[0-9]+$'")
            .fetch_one(ledger.env.pool())
            .await?;
    sqlx::query(&format!("ALTER TABLE api_usage DETACH PARTITION {table}"))
        .execute(ledger.env.pool())
        .await?;
    ledger.publish(&[ledger.erased(user)]).await;
    ledger.finished().await;
    let clear: i64 =
        sqlx::query_scalar(&format!("SELECT count(ip_address) + count(user_agent) FROM {table}"))
            .fetch_one(ledger.env.pool())
            .await?;
    assert_eq!(clear, 0);
    worker.stop().await;
    Ok(())
}

/// A projection that a rebuild keeps beside the live one, and one that it put aside and could not drop.
#[tokio::test]
async fn what_a_rebuild_left_loses_the_addresses_too() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    let user = ledger.user_with_everything("customer-1").await?;
    ledger.projected().await;
    ledger.rebuild().run(&ledger.keys, Finish::Swap).await?;
    ledger.rebuild().run(&ledger.keys, Finish::Hold).await?;
    let pool = ledger.env.pool();
    for statement in [
        "CREATE SCHEMA ledger_old",
        "CREATE TABLE ledger_old.api_usage_2026_11 AS SELECT * FROM ledger.api_usage",
        "CREATE TABLE ledger_old.token_audit AS SELECT * FROM ledger.token_audit",
        "CREATE TABLE ledger_old.security_log AS SELECT * FROM ledger.security_log",
        "CREATE TABLE ledger_old.user_tokens AS SELECT * FROM ledger.user_tokens",
    ] {
        sqlx::query(statement).execute(pool).await?;
    }
    let mut conn = pool.acquire().await?;
    let left = |rows: Vec<personal_tables::PersonalRows>| rows.iter().map(|table| table.rows).sum::<u64>();
    assert_eq!(left(personal_tables::rows_of(&mut conn, user).await?), 15, "five in each of three");
    ledger.publish(&[ledger.erased(user)]).await;
    ledger.finished().await;
    assert_eq!(personal_tables::rows_of(&mut conn, user).await?, []);
    drop(conn);
    ledger.rebuild().swap(&ledger.keys).await?;
    assert_eq!(ledger.number(CLEAR_ROWS).await, 0);
    ledger.agrees().await?;
    worker.stop().await;
    Ok(())
}

/// A database that was made anew: nobody has an account, and the log says who is erased.
#[tokio::test]
async fn an_erased_user_without_an_account_gets_none_again() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let user = ledger.user();
    ledger.publish(&[ledger.erased(user)]).await;
    let worker = ledger.spawn_worker();
    ledger.finished().await;
    let mut conn = ledger.env.pool().acquire().await?;
    store::identity::users::provision(&mut conn, vec![NewUser::unnamed(user.get())], ledger.env.clock.now())
        .await?;
    assert_eq!(ledger.text("SELECT string_agg(status, ' ') FROM public.users").await, "erased");
    assert!(ledger.keys.get_or_make(&mut conn, user).await.is_err());
    worker.stop().await;
    Ok(())
}

/// One whose external id cannot be hashed, for want of the ledger's own key, keeps nobody else waiting.
#[tokio::test]
async fn an_erasure_that_cannot_be_finished_does_not_stop_the_others() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let (stuck, fine) = (ledger.user_with_everything("customer-1").await?, ledger.user_with_key().await?);
    let pool = ledger.env.pool();
    sqlx::query("UPDATE public.users SET external_id_hash = NULL WHERE user_id = $1")
        .bind(stuck.get())
        .execute(pool)
        .await?;
    sqlx::query(
        "UPDATE public.ledger_data_keys SET kid = 'k0', sealed = jsonb_set(sealed::jsonb, '{kid}', '\"k0\"')::json",
    )
    .execute(pool)
    .await?;
    ledger.publish(&[ledger.erased(stuck), ledger.erased(fine)]).await;
    let worker = ledger.spawn_worker();
    ledger.until("SELECT string_agg(status, ' ' ORDER BY status) FROM public.users", "active erased").await;
    sqlx::query(
        "UPDATE public.ledger_data_keys SET kid = 'k1', sealed = jsonb_set(sealed::jsonb, '{kid}', '\"k1\"')::json",
    )
    .execute(pool)
    .await?;
    worker.stop().await;
    let worker = ledger.spawn_worker();
    ledger.until("SELECT string_agg(status, ' ') FROM public.users", "erased erased").await;
    worker.stop().await;
    Ok(())
}

/// While the erasure holds the account, whoever wants to make a key waits, and then gets none.
#[tokio::test]
async fn no_key_is_made_beside_or_after_an_erasure() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let now = ledger.env.clock.now();
    for round in 0..50 {
        let user = ledger.user();
        let mut conn = ledger.env.pool().acquire().await?;
        store::identity::users::provision(&mut conn, vec![NewUser::unnamed(user.get())], now).await?;
        let (keys, pool) = (ledger.keys.clone(), ledger.env.pool().clone());
        let making = tokio::spawn(async move {
            let mut conn = pool.acquire().await.expect("a connection");
            let _ = keys.get_or_make(&mut conn, user).await;
        });
        if round % 2 == 0 {
            tokio::task::yield_now().await;
        }
        let mut tx = conn.begin().await?;
        store::identity::erasure::bury(&mut tx, user, None, now).await?;
        tx.commit().await?;
        making.await?;
        assert!(wrapped_keys::of_users(&mut conn, &[user]).await?.is_empty(), "round {round}");
    }
    assert_eq!(ledger.number(BLANKED).await, 0);
    Ok(())
}

/// However many users are erased: neither a worker's start nor a batch of calls looks at them.
#[tokio::test]
async fn calls_are_projected_without_a_look_at_the_erased() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let user = ledger.user_with_key().await?;
    let mut lock = ledger.env.pool().begin().await?;
    sqlx::query("LOCK TABLE erased_users IN ACCESS EXCLUSIVE MODE").execute(&mut *lock).await?;
    let worker = ledger.spawn_worker();
    ledger.publish(&[ledger.sealed_call(user, "e1", "e1", "192.0.2.1")]).await;
    ledger.projected().await;
    assert_eq!(ledger.number(CLEAR_ROWS).await, 1);
    lock.rollback().await?;
    worker.stop().await;
    Ok(())
}

/// An erasure stays open until no process can remember the key; of more open ones than a batch compares, the batch's
/// users are looked up.
#[tokio::test]
async fn a_call_whose_fields_a_remembered_key_opened_is_blanked_however_many_erasures_are_open() -> Result<()>
{
    let ledger = TestLedger::start().await?;
    let (user, living) = (ledger.user_with_key().await?, ledger.user_with_key().await?);
    ledger.publish(&[ledger.erased(user)]).await;
    let worker = ledger.spawn_worker();
    ledger.finished().await;
    assert_eq!(ledger.number("SELECT count(*) FROM open_erasures").await, 1);
    worker.stop().await;
    ledger
        .execute(
            "INSERT INTO open_erasures (user_id) SELECT gen_random_uuid() FROM generate_series(1, 1500);
             INSERT INTO erased_users SELECT user_id, user_id, now(), 0, 0 FROM open_erasures ON CONFLICT DO NOTHING",
        )
        .await;
    let calls = [
        ledger.sealed_call(user, "e1", "e1", "192.0.2.1"),
        ledger.sealed_call(living, "e2", "e2", "192.0.2.2"),
    ];
    ledger.publish(&calls).await;
    // This process was not told that the key was destroyed.
    let frame = ledger.log.frame_at(2).await?.expect("it was just stored");
    let mut conn = store::connect::connect_projector(ledger.env.database_url(), store::Schema::Live).await?;
    let checkpoint = store::projection::checkpoint::read(&mut conn, 0).await?;
    let mut batch = Batch::of(std::slice::from_ref(&frame), &frame, &KnownDataKeys::of(&ledger.keys));
    Applier::new(store::Schema::Live, 0, checkpoint).apply(&mut conn, &mut batch).await?;
    assert_eq!(ledger.number("SELECT count(*) FROM api_usage").await, 2);
    assert_eq!(ledger.text("SELECT string_agg(ip_address, ' ') FROM api_usage").await, "192.0.2.2");
    // After an hour it is closed.
    ledger
        .execute(
            "DELETE FROM erased_users WHERE log_seq = 0;
             DELETE FROM open_erasures WHERE user_id NOT IN (SELECT user_id FROM erased_users);
             UPDATE open_erasures SET finished_at = now() - interval '61 minutes'",
        )
        .await;
    let worker = ledger.spawn_worker();
    ledger.until("SELECT count(*)::text FROM open_erasures", "0").await;
    worker.stop().await;
    Ok(())
}

/// A step begins behind the last one: rows that it has passed are not looked at again, nor those of others.
#[tokio::test]
async fn rows_are_blanked_in_steps_along_the_index() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    let user = ledger.user_with_everything("customer-1").await?;
    let now = ledger.env.clock.now();
    // Many at one time, and some that hold nothing.
    let others = [ledger.user(), user].map(|user| {
        (0..12).map(move |n| reported(user, &format!("n{n}"), now - minutes(n / 4), call(Other)))
    });
    ledger.publish(&others.into_iter().flatten().collect::<Vec<_>>()).await;
    ledger.projected().await;
    let mut conn = ledger.env.pool().acquire().await?;
    sqlx::query("UPDATE api_usage SET user_agent = 'x' WHERE get_byte(uuid_send(id), 15) % 2 = 0")
        .execute(&mut *conn)
        .await?;
    let tables = personal_tables::all(&mut conn).await?;
    for table in tables.iter().filter(|table| table.holds != Holds::Tokens) {
        let clear = personal_tables::rows_of(&mut conn, user).await?;
        let clear = clear.iter().find(|rows| rows.table == table.name).map_or(0, |rows| rows.rows);
        let (mut blanked, mut steps, mut after) = (0, 0, None);
        loop {
            let walked = table.blank(&mut conn, user, after, 3).await?;
            assert!(walked.rows <= 3 && steps < 20, "{walked:?}");
            (blanked, steps, after) = (blanked + walked.rows, steps + 1, walked.next);
            if steps == 1 && table.holds == Holds::Calls && after.is_some() {
                sqlx::query(
                    "UPDATE api_usage SET ip_address = 'y' WHERE (user_id, created_at, id) IN (
                         SELECT user_id, created_at, id FROM api_usage WHERE user_id = $1
                         ORDER BY created_at, id LIMIT 1)",
                )
                .bind(user.get())
                .execute(&mut *conn)
                .await?;
            }
            if after.is_none() {
                break;
            }
        }
        assert_eq!(blanked, clear, "{}: no row twice, and none left out", table.name);
    }
    let left = personal_tables::rows_of(&mut conn, user).await?;
    assert_eq!(
        left.iter().map(|table| table.rows).collect::<Vec<_>>(),
        [1, 1],
        "the one behind it, and the token"
    );
    let others = "SELECT count(*) FROM api_usage WHERE user_agent = 'x'";
    assert!(ledger.number(others).await > 0, "of others nothing is taken");
    drop(conn);
    worker.stop().await;
    Ok(())
}
