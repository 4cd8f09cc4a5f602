//! What happens to accounts, as the log tells of it: each event is a link of its user's chain and a row of the security
//! log, and so are changes of keys, tokens, plans and usage; refused credentials have rows of their own.

use anyhow::Result;
use events::{
    AccountAction, AccountFact, Actor, ActorKind, ApiKeyRevoked, AuthFailed, AuthFailureCount, Body, Event,
    Personal, SOURCE_API, SealedJson,
};
use ledger::{Month, UserId};
use ledger_worker::rebuild::Finish;
use uuid::Uuid;
use vault::{OsEntropy, TokenKind};

use crate::support::{TestLedger, plan, reset};

const ACTS: &str =
    "SELECT string_agg(concat_ws(' ', action, method, CASE WHEN object_id IS NULL THEN NULL ELSE 'it' END,
         actor_kind, ip_address, user_agent), ', ' ORDER BY log_seq, log_idx) FROM security_log";
const FAILURES: &str = "SELECT string_agg(concat_ws(' ', counts, other), ', ' ORDER BY log_seq, log_idx)
     FROM auth_failures";
const OBJECT: Uuid = Uuid::from_u128(77);

impl TestLedger {
    /// Something that the user did to the account, from 192.0.2.7.
    fn act(&self, user: UserId, action: AccountAction, method: &'static str) -> Event<'static> {
        let id = self.env.ids.event_id();
        let personal = Personal::of_client(Some([192, 0, 2, 7].into()), Some("curl/8".into()));
        let key = self.keys.cached(user).expect("the user's key was made");
        let sealed = key.seal_personal(&id.to_string(), &personal.to_json(), &OsEntropy).expect("random");
        let fact = AccountFact {
            method: Some(method.into()),
            object_id: Some(OBJECT),
            actor: Actor::new(ActorKind::User, user.to_string()),
            personal: Some(SealedJson::new(sealed.to_compact_json()).expect("a string")),
        };
        Event::by_api(id, user, self.env.clock.now(), Body::Account(action, fact))
    }

    /// Something that an operator did to the account.
    fn act_of_operator(&self, user: UserId, action: AccountAction) -> Event<'static> {
        let actor = Actor::new(ActorKind::Operator, "usage-ledger user");
        let fact = AccountFact { method: None, object_id: None, actor, personal: None };
        let (id, now) = (self.env.ids.event_id(), self.env.clock.now());
        Event::by_api(id, user, now, Body::Account(action, fact))
    }

    fn key_revoked(&self, user: UserId) -> Event<'static> {
        let actor = Actor::new(ActorKind::Admin, "9f1c2b7a-0d3e-4f5a-8b6c-7d8e9f0a1b2c");
        let body = Body::ApiKeyRevoked(ApiKeyRevoked { key_id: OBJECT, actor, personal: None });
        Event::by_api(self.env.ids.event_id(), user, self.env.clock.now(), body)
    }

    fn failed(&self, network: &'static str, other: u64) -> Event<'static> {
        let count = AuthFailureCount { reason: "signature".into(), network: network.into(), failures: 31 };
        let now = self.env.clock.now();
        let body = Body::AuthFailed(AuthFailed { window_start: now, counts: vec![count], other });
        Event::own(SOURCE_API, self.env.ids.event_id(), None, now, body)
    }

    /// A user to whom everything has happened that the security log tells of, some of it told twice.
    async fn user_of_whom_it_tells(&self) -> Result<UserId> {
        let user = self.user_with_everything("customer-1").await?;
        let (id, now) = (|| self.env.ids.event_id(), self.env.clock.now());
        let signed_in = self.act(user, AccountAction::SignedIn, "password");
        let month = Month::of(now);
        let (reset, plan) = (reset(id(), user, month, now), plan(id(), user, (Some(5), None), now));
        self.publish(&[signed_in.clone(), self.act_of_operator(user, AccountAction::SignedOut)]).await;
        self.publish(&[self.key_revoked(user), self.used(user, OBJECT), plan.clone(), reset.clone()]).await;
        self.publish(&[signed_in, plan, reset, self.failed("192.0.2.0/24", 0)]).await;
        self.publish(&[self.failed("2001:db8::/48", 9)]).await;
        Ok(user)
    }

    fn expected_acts(&self, is_erased: bool) -> String {
        let client = if is_erased { "" } else { " 192.0.2.7 curl/8" };
        let token = if is_erased { "" } else { " 192.0.2.9 curl/8" };
        let month = Month::of(self.env.clock.now());
        format!(
            "token_stored github it user{token}, signed_in password it user{client}, signed_out operator, \
             api_key_revoked it admin, plan_changed pro admin, usage_reset {month} admin"
        )
    }
}

#[tokio::test]
async fn every_act_has_a_row_live_in_a_rebuild_and_for_verify() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    ledger.user_of_whom_it_tells().await?;
    ledger.projected().await;
    assert_eq!(ledger.text(ACTS).await, ledger.expected_acts(false));
    let failures = r#"[{"reason":"signature","network":"192.0.2.0/24","failures":31}] 0, "#.to_owned()
        + r#"[{"reason":"signature","network":"2001:db8::/48","failures":31}] 9"#;
    assert_eq!(ledger.text(FAILURES).await, failures);
    assert_eq!(ledger.number("SELECT count(*) FROM dead_letters").await, 0);
    let chain = "SELECT string_agg(concat_ws(' ', action, token_type), ', ' ORDER BY log_seq, log_idx) FROM token_audit";
    let links = "stored github, signed_in password, signed_out, key_revoked api_key, used github";
    assert_eq!(ledger.text(chain).await, links);
    ledger.agrees().await?;

    let rebuilt = ledger.rebuild().run(&ledger.keys, Finish::Swap).await?;
    assert_eq!(rebuilt.differences, []);
    for table in ["security_log", "auth_failures"] {
        assert!(rebuilt.tables.iter().any(|compared| compared == table), "{table}: {:?}", rebuilt.tables);
    }
    assert_eq!(ledger.text(ACTS).await, ledger.expected_acts(false));
    assert_eq!(ledger.text(FAILURES).await, failures);
    ledger.agrees().await?;
    worker.stop().await;
    Ok(())
}

#[tokio::test]
async fn an_erasure_leaves_the_acts_and_nothing_of_the_person() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    let user = ledger.user_of_whom_it_tells().await?;
    let late = ledger.act(user, AccountAction::SignedIn, "link");
    ledger.projected().await;
    ledger.rebuild().run(&ledger.keys, Finish::Hold).await?;
    ledger.publish(&[ledger.erased(user)]).await;
    ledger.publish(&[late]).await;
    ledger.finished().await;
    let expected = ledger.expected_acts(true) + ", user_erased admin, signed_in link it user";
    assert_eq!(ledger.text(ACTS).await, expected);
    let held = "SELECT count(*) FROM ledger_next.security_log WHERE ip_address IS NOT NULL OR user_agent IS NOT NULL";
    assert_eq!(ledger.number(held).await, 0);
    ledger.rebuild().drop_held().await?;

    assert_eq!(ledger.rebuild().run(&ledger.keys, Finish::Swap).await?.differences, []);
    assert_eq!(ledger.text(ACTS).await, expected);
    ledger.agrees().await?;
    worker.stop().await;
    Ok(())
}

/// As behind the migration: until a rebuild there are no rows of what was in the log before it.
#[tokio::test]
async fn what_is_older_than_the_table_comes_with_a_rebuild() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    let user = ledger.user_of_whom_it_tells().await?;
    ledger.projected().await;
    sqlx::query("DELETE FROM security_log").execute(ledger.env.pool()).await?;
    ledger.agrees().await?;
    ledger.publish(&[ledger.act_of_operator(user, AccountAction::StatusChanged)]).await;
    ledger.projected().await;
    assert_eq!(ledger.text(ACTS).await, "status_changed operator");
    ledger.agrees().await?;
    let rebuilt = ledger.rebuild().run(&ledger.keys, Finish::Swap).await?;
    assert_eq!(
        rebuilt.differences.iter().map(|found| found.name.as_str()).collect::<Vec<_>>(),
        ["security_log"]
    );
    assert_eq!(ledger.text(ACTS).await, ledger.expected_acts(false) + ", status_changed operator");
    ledger.agrees().await?;
    worker.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_row_that_was_changed_added_or_taken_away_is_named() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    ledger.user_of_whom_it_tells().await?;
    ledger.projected().await;
    for statement in [
        "UPDATE security_log SET actor_id = 'somebody' WHERE action = 'signed_in'",
        "UPDATE security_log SET action = 'signed_out', method = NULL WHERE action = 'signed_in'",
        "UPDATE security_log SET at = at + interval '1 s' WHERE action = 'signed_out'",
        "UPDATE security_log SET object_id = NULL WHERE action = 'api_key_revoked'",
        "DELETE FROM security_log WHERE action = 'signed_in'",
        "INSERT INTO security_log (user_id, log_seq, log_idx, at, action, actor_kind, actor_id)
         SELECT user_id, log_seq, 9, at, action, actor_kind, actor_id FROM security_log WHERE action = 'signed_in'",
    ] {
        let pool = ledger.env.pool();
        sqlx::query("CREATE TABLE IF NOT EXISTS public.kept AS SELECT * FROM security_log").execute(pool).await?;
        assert!(sqlx::query(statement).execute(pool).await?.rows_affected() > 0, "{statement}");
        let differences = ledger.verified().await?.differences;
        let found: Vec<_> = differences.iter().map(|found| (found.name.as_str(), found.rows.len())).collect();
        assert_eq!(found, [("security_log", 1)], "{statement}");
        sqlx::query("DELETE FROM security_log").execute(pool).await?;
        sqlx::query("INSERT INTO security_log SELECT * FROM public.kept").execute(pool).await?;
    }
    ledger.agrees().await?;
    worker.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_token_of_another_type_is_no_act_of_a_key() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    let user = ledger.user_with_key().await?;
    let id = ledger.env.ids.event_id();
    ledger.publish(&[ledger.stored(user, id, TokenKind::Openai, "one"), ledger.used(user, id)]).await;
    ledger.projected().await;
    assert_eq!(ledger.text(ACTS).await, "token_stored openai it user 192.0.2.9 curl/8");
    ledger.agrees().await?;
    worker.stop().await;
    Ok(())
}
