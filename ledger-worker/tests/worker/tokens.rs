//! Stored tokens as the log tells of them: the last store wins, every event is a link of its user's chain, none is
//! passed over.

mod security_log;

use anyhow::Result;
use events::{
    Actor, ActorKind, Body, Event, Personal, SealedJson, TokenDeleted, TokenStored, TokenUsed, encode,
};
use ledger::Category::Other;
use ledger::UserId;
use nats::FrameHeader;
use sha2::{Digest, Sha256};
use uuid::Uuid;
use vault::{OsEntropy, SecretText, TokenKind};

use crate::support::{TestLedger, call};

const TOKENS: &str = "SELECT COALESCE(string_agg(concat_ws(' ', token_type, token_name, masked,
         CASE WHEN last_used IS NULL THEN 'unused' ELSE 'used' END), ', ' ORDER BY token_type), '') FROM user_tokens";
const ACTIONS: &str = "SELECT COALESCE(string_agg(action || COALESCE(' ' || purpose, '') ||
         CASE WHEN replaced_id IS NULL THEN '' ELSE ' instead' END, ', ' ORDER BY log_seq, log_idx), '')
     FROM token_audit";
const STOPPED: &str = "SELECT COALESCE(reason, '') FROM projector_status WHERE state = 'stopped'";

impl TestLedger {
    /// A token, sealed for this user, and its name.
    pub(crate) fn stored(&self, user: UserId, id: Uuid, kind: TokenKind, name: &str) -> Event<'static> {
        let key = self.keys.cached(user).expect("the user's key was made");
        let token = SecretText::new(format!("secret of {name}"));
        let sealed = key.seal_token(kind, id, &token, &OsEntropy).expect("random bytes");
        let personal = Personal {
            token_name: Some(name.to_owned().into()),
            ..Personal::of_client(Some([192, 0, 2, 9].into()), Some("curl/8".into()))
        };
        let personal = key.seal_personal(&id.to_string(), &personal.to_json(), &OsEntropy).expect("random");
        let body = Body::TokenStored(TokenStored {
            token_id: id,
            token_type: kind.as_str().into(),
            sealed: SealedJson::new(sealed.to_json()).expect("an object"),
            masked: vault::mask(&token).into(),
            fingerprint: key.fingerprint(kind, &token).to_string().into(),
            actor: actor(user),
            personal: Some(SealedJson::new(personal.to_json()).expect("an object")),
        });
        Event::by_api(id, user, self.env.clock.now(), body)
    }

    pub(crate) fn used(&self, user: UserId, token_id: Uuid) -> Event<'static> {
        let body = Body::TokenUsed(TokenUsed {
            token_id,
            token_type: "github".into(),
            purpose: "test".into(),
            actor: actor(user),
            personal: None,
        });
        Event::by_api(self.env.ids.event_id(), user, self.env.clock.now(), body)
    }

    fn deleted(&self, user: UserId, token_id: Uuid) -> Event<'static> {
        let token_type = "github".into();
        let body =
            Body::TokenDeleted(TokenDeleted { token_id, token_type, actor: actor(user), personal: None });
        Event::by_api(self.env.ids.event_id(), user, self.env.clock.now(), body)
    }

    pub(crate) async fn agrees(&self) -> Result<()> {
        let outcome = self.verified().await?;
        assert_eq!(outcome.differences, []);
        assert!(outcome.tables.contains(&"token_audit".to_owned()));
        Ok(())
    }
}

fn actor(user: UserId) -> Actor<'static> {
    Actor::new(ActorKind::User, user.to_string())
}

#[tokio::test]
async fn the_last_store_of_a_type_wins_and_all_of_them_are_links() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    let user = ledger.user_with_key().await?;
    let (first, second, other) =
        (ledger.env.ids.event_id(), ledger.env.ids.event_id(), ledger.env.ids.event_id());
    let store = ledger.stored(user, first, TokenKind::Github, "one");
    let again = ledger.stored(user, second, TokenKind::Github, "two");
    // Both stores, and the first one once more, as a retried request publishes it.
    ledger.publish(&[store.clone(), ledger.used(user, first), again.clone(), store.clone()]).await;
    ledger
        .publish(&[ledger.stored(user, other, TokenKind::Gemini, "three"), ledger.used(user, second)])
        .await;
    // Of another user's token, and of one that is gone: noted, without effect.
    let stranger = ledger.user_with_key().await?;
    ledger.publish(&[ledger.deleted(stranger, second), ledger.used(user, first), store]).await;
    ledger.projected().await;
    assert_eq!(ledger.text(TOKENS).await, "gemini three •••••••• unused, github two •••••••• used");
    assert_eq!(
        ledger.text(ACTIONS).await,
        "stored, used test, stored instead, stored, used test, deleted, used test"
    );
    let clients = "SELECT string_agg(DISTINCT concat_ws(' ', ip_address, user_agent), ',') FROM token_audit
                   WHERE action = 'stored'";
    assert_eq!(ledger.text(clients).await, "192.0.2.9 curl/8");
    ledger.agrees().await?;
    ledger.publish(&[ledger.deleted(user, second)]).await;
    ledger.projected().await;
    assert_eq!(ledger.text(TOKENS).await, "gemini three •••••••• unused");
    assert_eq!(
        ledger.rebuild().run(&ledger.keys, ledger_worker::rebuild::Finish::DryRun).await?.differences,
        []
    );
    ledger.agrees().await?;
    worker.stop().await;
    Ok(())
}

#[tokio::test]
async fn the_chain_is_what_the_format_says() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    let user = ledger.user_with_key().await?;
    let events = [
        ledger.stored(user, ledger.env.ids.event_id(), TokenKind::Openai, "one"),
        ledger.used(user, ledger.env.ids.event_id()),
    ];
    ledger.publish(&events[..1]).await;
    ledger.publish(&events[1..]).await;
    ledger.projected().await;
    let mut hash = [0_u8; 32];
    for event in &events {
        let mut bytes = Vec::new();
        encode(event, &mut bytes);
        hash = Sha256::new().chain_update(hash).chain_update(Sha256::digest(&bytes)).finalize().into();
    }
    let stored: Vec<u8> = sqlx::query_scalar("SELECT hash FROM token_audit ORDER BY log_seq DESC LIMIT 1")
        .fetch_one(ledger.env.pool())
        .await?;
    assert_eq!(stored, hash);
    worker.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_link_that_was_changed_added_or_taken_away_is_named() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    let user = ledger.user_with_key().await?;
    let id = ledger.env.ids.event_id();
    ledger.publish(&[ledger.stored(user, id, TokenKind::Github, "one")]).await;
    ledger.publish(&[ledger.used(user, id), ledger.used(user, id)]).await;
    ledger.projected().await;
    ledger.agrees().await?;
    let tamper = [
        "UPDATE token_audit SET hash = sha256(hash) WHERE (log_seq, log_idx) = (2, 0)",
        "UPDATE token_audit SET event_hash = sha256(event_hash) WHERE (log_seq, log_idx) = (2, 0)",
        "DELETE FROM token_audit WHERE (log_seq, log_idx) = (2, 0)",
        "UPDATE token_audit SET log_idx = 5 WHERE (log_seq, log_idx) = (2, 0)",
        "UPDATE token_audit SET action = 'deleted' WHERE (log_seq, log_idx) = (2, 0)",
        "UPDATE token_audit SET actor_id = 'somebody' WHERE (log_seq, log_idx) = (2, 0)",
        "UPDATE token_audit SET purpose = NULL WHERE (log_seq, log_idx) = (2, 0)",
        "UPDATE token_audit SET created_at = created_at + interval '1 s' WHERE (log_seq, log_idx) = (2, 0)",
    ];
    for statement in tamper {
        let mut tx = ledger.env.pool().begin().await?;
        sqlx::query("CREATE TABLE IF NOT EXISTS public.kept AS SELECT * FROM token_audit")
            .execute(&mut *tx)
            .await?;
        sqlx::query(statement).execute(&mut *tx).await?;
        tx.commit().await?;
        let mut differences = ledger.verified().await?.differences;
        // It is held against the chains, and differs from one that was tampered with.
        differences.retain(|difference| difference.name != "security_log");
        assert_eq!(differences.len(), 1, "{statement}");
        assert_eq!(differences[0].name, "token_audit");
        let first = &differences[0].rows[0].key;
        assert_eq!(
            (&first["user_id"], &first["log_seq"]),
            (&user.to_string().into(), &2.into()),
            "{statement}"
        );
        sqlx::query("DELETE FROM token_audit").execute(ledger.env.pool()).await?;
        sqlx::query("INSERT INTO token_audit SELECT * FROM public.kept").execute(ledger.env.pool()).await?;
    }
    ledger.agrees().await?;
    worker.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_token_event_that_cannot_be_read_stops_and_is_no_dead_letter() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let user = ledger.user_with_key().await?;
    let mut good = Vec::new();
    encode(&ledger.used(user, ledger.env.ids.event_id()), &mut good);
    let good = String::from_utf8(good)?;
    let worker = ledger.spawn_worker();
    ledger.publish(&[ledger.own_call(user, call(Other))]).await;
    ledger.projected().await;
    // Of a later build; without a field; with a value that no table takes.
    let later = good.replace("token_used.v1", "token_used.v2");
    ledger.store_raw(&later).await?;
    let reason = "the event 2/0 of a user's audit chain cannot be read: token.token_used.v2: this version does not \
                  know the type";
    ledger.until(STOPPED, reason).await;
    assert_eq!(ledger.number("SELECT count(*) FROM dead_letters").await, 0);
    assert_eq!(ledger.number("SELECT seq FROM projection_checkpoint").await, 1);
    let refused = ledger.rebuild().run(&ledger.keys, ledger_worker::rebuild::Finish::DryRun).await;
    assert!(refused.is_ok(), "up to the checkpoint all is well");
    worker.stop().await;
    Ok(())
}

impl TestLedger {
    /// Stores a frame of one event as it stands.
    async fn store_raw(&self, event: &str) -> Result<()> {
        let body = format!("[{event}]").into_bytes();
        let header = FrameHeader::of(Uuid::from_u128(0xdef), 1, 1, &body);
        let jetstream = async_nats::jetstream::new(nats::client(self.env.nats_url()).await?);
        jetstream.publish_with_headers(self.log.subject(), header.to_headers(), body.into()).await?.await?;
        Ok(())
    }
}
