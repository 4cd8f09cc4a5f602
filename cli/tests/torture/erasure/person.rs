//! Those who are erased, and what somebody who still has their key writes about them.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use events::{Actor, ActorKind, ApiCalled, Body, Event, Personal, SealedJson, TokenStored};
use ledger::{Category, UserId};
use nats::EncodedEvent;
use serde_json::{Value, json};
use testkit::{Client, Request, Role};
use uuid::Uuid;
use vault::{DataKey, OsEntropy, SecretText, TokenKind};

use super::{EVENTS, LATE_ADDRESS, LATE_AGENT, World};

const TOKEN: &str = "ghp_0123456789abcdefghijklmnopqrstuvwxyz";

/// A user, and what is theirs alone.
pub(super) struct Person {
    pub(super) name: String,
    pub(super) id: UserId,
    /// With a credential of the host's id.
    pub(super) user: Client,
    /// With a credential of our id.
    pub(super) by_id: Client,
    /// Found in the tables as long as they are not erased.
    pub(super) personal: Vec<String>,
    /// Address that they come from afterwards.
    pub(super) proxied: String,
    /// The data key as it was stored.
    pub(super) wrapped: String,
    /// Kept from before by somebody who had it.
    pub(super) key: Arc<DataKey>,
}

/// Events that come after the end.
pub(super) struct Late {
    pub(super) call: Uuid,
    pub(super) token: Uuid,
    pub(super) events: Vec<EncodedEvent>,
}

impl World {
    /// A user with names, calls and a token that took the place of another one.
    pub(super) async fn person(&self, number: usize) -> Result<Person> {
        let name = format!("person-{number}-of-the-host");
        let (email, address, agent) = (
            format!("p{number}@example.net"),
            format!("198.51.100.{number}"),
            format!("agent-of-{number}/1.0"),
        );
        let account = json!({"email": email, "name": format!("Person Number {number}")});
        self.service.put(&format!("/api/users/{name}")).json(&account).send().await?.expect(201)?;
        let user = self.cluster.settings.client(&name, Role::User)?;
        let call = |n: u32| {
            let data = json!({"endpoint": "/api/analyze", "ip_address": address, "user_agent": agent});
            json!({"id": format!("call {number}.{n}"), "subject": name, "data": data})
        };
        let keyed = |request: Request| request.header("Idempotency-Key", &format!("of-{number}"));
        let calls = json!([call(1), call(2), call(3)]);
        keyed(self.service.post(EVENTS)).json(&calls).send().await?.expect(202)?;
        let call = user.get("/api/forward-auth").header("X-Forwarded-Uri", "/api/x");
        call.header("X-Forwarded-Method", "GET").send().await?.expect(204)?;
        let token =
            json!({"token_type": "github", "token": TOKEN, "token_name": format!("of person {number}")});
        keyed(user.post("/api/tokens")).json(&token).send().await?.expect(201)?;
        user.post("/api/tokens").json(&token).send().await?.expect(200)?;
        self.cluster.projected().await?;

        let id: Uuid = sqlx::query_scalar("SELECT user_id FROM public.users WHERE external_id = $1")
            .bind(&name)
            .fetch_one(&self.pool)
            .await?;
        let id = UserId::new(id);
        let by_id = self.cluster.settings.client(&id.to_string(), Role::User)?;
        let wrapped: String =
            sqlx::query_scalar("SELECT sealed::text FROM public.user_data_keys WHERE user_id = $1")
                .bind(id.get())
                .fetch_one(&self.pool)
                .await?;
        let parts: Value = serde_json::from_str(&wrapped)?;
        let parts =
            ["encrypted", "iv", "tag"].map(|part| parts[part].as_str().unwrap_or_default().to_owned());
        let sealed: String = sqlx::query_scalar(
            "SELECT encrypted_token ->> 'encrypted' FROM ledger.user_tokens WHERE user_id = $1",
        )
        .bind(id.get())
        .fetch_one(&self.pool)
        .await?;
        let key = self.key(id).await?.context("no data key")?;
        let personal = [name.clone(), email, address, agent, format!("Person Number {number}"), sealed];
        let personal = personal.into_iter().chain([format!("of person {number}")]).chain(parts).collect();
        let proxied = format!("192.0.2.{number}");
        Ok(Person { name, id, user, by_id, personal, proxied, wrapped, key })
    }

    /// A call and a token, sealed by somebody who still has the key.
    pub(super) fn late(&self, person: &Person, counted: bool) -> Result<Late> {
        let personal = Personal::of_client(Some(LATE_ADDRESS.parse()?), Some(LATE_AGENT.into()));
        let seal = |id: Uuid| -> Result<_> {
            let sealed = person.key.seal_personal(&id.to_string(), &personal.to_json(), &OsEntropy)?;
            Ok(Some(SealedJson::new(sealed.to_json())?))
        };
        let (call_id, token_id) = (self.ids.event_id(), self.ids.event_id());
        let mut call = ApiCalled::new("/api/late", Category::Other);
        (call.personal, call.counted) = (seal(call_id)?, counted);
        let token = SecretText::new(TOKEN.to_owned());
        let sealed = person.key.seal_token(TokenKind::Github, token_id, &token, &OsEntropy)?;
        let token = TokenStored {
            token_id,
            token_type: "github".into(),
            sealed: SealedJson::new(sealed.to_json())?,
            masked: "ghp_…wxyz".into(),
            fingerprint: person.key.fingerprint(TokenKind::Github, &token).to_string().into(),
            actor: actor(person),
            personal: seal(token_id)?,
        };
        let events = vec![
            self.event(call_id, person, Body::ApiCalled(call)),
            self.event(token_id, person, Body::TokenStored(token)),
        ];
        Ok(Late { call: call_id, token: token_id, events })
    }

    pub(super) fn event(&self, id: Uuid, person: &Person, body: Body<'_>) -> EncodedEvent {
        EncodedEvent::of(&Event::by_api(id, person.id, self.clock.now(), body))
    }
}

pub(super) fn actor(person: &Person) -> Actor<'static> {
    Actor { kind: ActorKind::User, id: person.id.to_string().into() }
}
