//! Registry of API keys: makes, changes and revokes them, for the routes and for the command line.
//!
//! What happens to a key is in the log before anybody is told of it. A key, a change and a new secret are there before
//! they are in the table, so that nothing can be used of which the log does not know; whoever dies in between leaves an
//! event without an effect, and a caller without an answer. A revocation is in the table first, with the event that is
//! to tell of it: nothing is used that is about to be revoked, and [`Registry::log_revocations`] tells of it later.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use credentials::{ApiKey as Secret, Environment, KeyRole};
use events::{Actor, ActorKind, ApiKeyRevoked, ApiKeyRotated, ApiKeyTerms, Body, Event, SealedJson};
use ledger::{KeyId, UserId};
use sqlx::{PgConnection, PgPool};
use store::identity::api_keys::{self, ApiKey, Inserted, KeyChange, NewKey, NewSecret, Terms, Unlogged};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use vault::{Entropy as _, EntropyError, OsEntropy};

use super::by::By;
use super::error::ApiKeysError;
use super::transaction::in_transaction;
use crate::auth::KnownKeys;
use crate::facts::{Turns, Writer};
use crate::http::problem::Chain;
use crate::metering::sealer::{SealError, Sealer};

/// Time after which a revocation that nobody has told of is told of by whoever sees it.
const UNLOGGED_AFTER: TimeDelta = TimeDelta::minutes(2);
/// Keys that are read at a time.
const PAGE: u32 = 100;
/// Time between two looks for such.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);

/// Makes, changes and revokes API keys. Cheap to clone.
#[derive(Clone)]
pub struct Registry {
    pool: PgPool,
    writer: Writer,
    environment: Environment,
    /// Changes of one key, one at a time, so that the log has them in the table's order.
    turns: Turns<()>,
    /// Keys that this process remembers, if it does.
    known: Option<KnownKeys>,
    /// Seals what is known of the caller, if anything is.
    sealer: Option<Sealer>,
}

/// A key to be made.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Its name.
    pub name: String,
    /// The role that it acts in.
    pub role: KeyRole,
    /// What it may do.
    pub terms: Terms,
}

/// A key that has got a secret.
#[derive(Debug)]
pub struct Made {
    /// The key.
    pub key: ApiKey,
    /// The secret, to be shown once; none where an earlier try of the request has made it.
    pub secret: Option<Secret>,
    /// Sequence of the event.
    pub seq: u64,
}

impl Registry {
    /// Keys of these surroundings in `pool`, with what happens to them in the log of `writer`.
    pub fn new(pool: PgPool, writer: Writer, environment: Environment) -> Self {
        Self { pool, writer, environment, turns: Turns::new(()), known: None, sealer: None }
    }

    /// The same in a process that takes keys and calls.
    pub(crate) fn serving(self, known: KnownKeys, sealer: Sealer) -> Self {
        Self { known: Some(known), sealer: Some(sealer), ..self }
    }

    /// The ledger's time.
    pub(crate) fn now(&self) -> DateTime<Utc> {
        self.writer.now()
    }

    /// Makes a key of `owner` with this id, at this time: those of the event that tells of it.
    pub async fn create(
        &self,
        owner: UserId,
        spec: Spec,
        by: &By,
        (id, at): (Uuid, DateTime<Utc>),
    ) -> Result<Made, ApiKeysError> {
        check(spec.role, &spec.terms, at)?;
        let mut conn = self.pool.acquire().await.map_err(store::Error::from)?;
        let key_id = KeyId::new(id);
        let is_there = api_keys::get(&mut conn, owner, key_id, at).await?.is_some();
        if !is_there && api_keys::live(&mut conn, owner, at).await? >= api_keys::MAX_LIVE {
            return Err(ApiKeysError::TooMany);
        }
        drop(conn);
        let (secret, stored) = self.new_secret()?;
        let body =
            Body::ApiKeyCreated(self.terms_event(owner, key_id, id, spec.role, &spec.terms, by).await?);
        let seq = self.writer.record(&Event::by_api(id, owner, at, body)).await?;
        let new = NewKey {
            id: key_id,
            user: owner,
            name: spec.name,
            role: spec.role,
            terms: spec.terms,
            at,
            created_by: by.actor.id.clone().into_owned(),
            secret: stored,
        };
        let inserted = self.in_transaction(async |tx| Ok(api_keys::insert(tx, &new).await?)).await?;
        let secret = match inserted {
            Inserted::New => Some(secret),
            Inserted::Before => None,
            Inserted::TooMany => return Err(ApiKeysError::TooMany),
            Inserted::NoUser => return Err(ApiKeysError::Erased),
        };
        self.forget(key_id);
        Ok(Made { key: self.get(owner, key_id, at).await?, secret, seq })
    }

    /// Changes the key of `owner`.
    pub async fn change(
        &self,
        owner: UserId,
        id: KeyId,
        change: &KeyChange,
        by: &By,
    ) -> Result<(ApiKey, u64), ApiKeysError> {
        let _turn = self.turns.of(id.get()).await?;
        let (event_id, at) = (self.writer.new_id(), self.writer.now());
        let key = self.living(owner, id, by).await?;
        let terms = change.applied_to(&key.terms);
        check(
            key.role,
            &terms,
            if terms.expires_at == key.terms.expires_at { DateTime::UNIX_EPOCH } else { at },
        )?;
        let body = Body::ApiKeyChanged(self.terms_event(owner, id, event_id, key.role, &terms, by).await?);
        let seq = self.writer.record(&Event::by_api(event_id, owner, at, body)).await?;
        let name = change.name.as_deref();
        let changing = async |tx: &mut PgConnection| Ok(api_keys::change(tx, owner, id, name, &terms).await?);
        if !self.in_transaction(changing).await? {
            return Err(ApiKeysError::Revoked);
        }
        self.forget(id);
        Ok((self.get(owner, id, at).await?, seq))
    }

    /// Gives the key of `owner` another secret; the earlier one ends after `overlap`.
    pub async fn rotate(
        &self,
        owner: UserId,
        id: KeyId,
        overlap: TimeDelta,
        by: &By,
        (event_id, at): (Uuid, DateTime<Utc>),
    ) -> Result<Made, ApiKeysError> {
        let _turn = self.turns.of(id.get()).await?;
        self.living(owner, id, by).await?;
        let (secret, stored) = self.new_secret()?;
        let earlier_end_at = at + overlap;
        let body = Body::ApiKeyRotated(ApiKeyRotated {
            key_id: id.get(),
            earlier_end_at,
            actor: by.actor.clone(),
            personal: self.seal(owner, event_id, by).await?,
        });
        let seq = self.writer.record(&Event::by_api(event_id, owner, at, body)).await?;
        let rotating = async |tx: &mut PgConnection| {
            Ok(api_keys::rotate(tx, owner, id, &stored, at, earlier_end_at).await?)
        };
        if !self.in_transaction(rotating).await? {
            return Err(ApiKeysError::Revoked);
        }
        self.forget(id);
        Ok(Made { key: self.get(owner, id, at).await?, secret: Some(secret), seq })
    }

    /// Revokes the key of `owner`, for ever. One that was revoked before stays so; answers the event's sequence if this
    /// did it.
    pub async fn revoke(&self, owner: UserId, id: KeyId, by: &By) -> Result<Option<u64>, ApiKeysError> {
        let (event_id, at) = (self.writer.new_id(), self.writer.now());
        match self.living(owner, id, by).await {
            Ok(_) => {}
            Err(ApiKeysError::Revoked) => return Ok(None),
            Err(error) => return Err(error),
        }
        let actor = (by.actor.kind.as_str(), &*by.actor.id);
        let revoking =
            async |tx: &mut PgConnection| Ok(api_keys::revoke(tx, owner, id, event_id, actor, at).await?);
        let is_done = self.in_transaction(revoking).await?;
        self.forget(id);
        if !is_done {
            return Ok(None);
        }
        // It is of no use any more, whatever stands in the way of the rest.
        let personal = self.seal(owner, event_id, by).await.unwrap_or_else(|error| {
            tracing::warn!(error = %Chain(&error), key_id = %id, "a revocation does not say from where it came");
            None
        });
        let revoked = ApiKeyRevoked { key_id: id.get(), actor: by.actor.clone(), personal };
        Ok(Some(self.tell_revoked(owner, event_id, at, revoked).await?))
    }

    /// Revokes all keys of `owner` that can be used.
    pub async fn revoke_all(&self, owner: UserId, by: &By) -> Result<(), ApiKeysError> {
        let mut before = None;
        loop {
            let mut conn = self.pool.acquire().await.map_err(store::Error::from)?;
            let page = api_keys::list(&mut conn, owner, before, self.now(), PAGE).await?;
            drop(conn);
            let Some(last) = page.last() else { return Ok(()) };
            before = Some(last.id);
            for key in page.iter().filter(|key| key.revoked_at.is_none() && key.role == KeyRole::User) {
                self.revoke(owner, key.id, by).await?;
            }
        }
    }

    async fn tell_revoked(
        &self,
        owner: UserId,
        event_id: Uuid,
        at: DateTime<Utc>,
        revoked: ApiKeyRevoked<'_>,
    ) -> Result<u64, ApiKeysError> {
        let event = Event::by_api(event_id, owner, at, Body::ApiKeyRevoked(revoked));
        let seq = self.writer.record(&event).await?;
        let mut conn = self.pool.acquire().await.map_err(store::Error::from)?;
        api_keys::note_logged(&mut conn, owner, event_id).await?;
        Ok(seq)
    }

    /// Tells the log of revocations of which a process that died told nobody, until `shutdown`. Told twice, each is
    /// applied once.
    pub(crate) async fn log_revocations(self, shutdown: CancellationToken) {
        let mut interval = tokio::time::interval(LOOK_INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while shutdown.run_until_cancelled(interval.tick()).await.is_some() {
            if let Err(error) = self.log_unlogged(self.writer.now() - UNLOGGED_AFTER).await {
                tracing::warn!(error = %Chain(&error), "revocations of API keys are not in the log yet; trying again");
            }
        }
    }

    /// Tells the log of revocations before `before` of which it may not know.
    pub async fn log_unlogged(&self, before: DateTime<Utc>) -> Result<(), ApiKeysError> {
        let mut conn = self.pool.acquire().await.map_err(store::Error::from)?;
        let unlogged = api_keys::unlogged(&mut conn, before).await?;
        drop(conn);
        for Unlogged { id, user, event_id, at, actor_kind, actor_id } in unlogged {
            let kind = ActorKind::ALL.into_iter().find(|kind| kind.as_str() == actor_kind);
            let actor = Actor::new(kind.unwrap_or(ActorKind::System), actor_id);
            let revoked = ApiKeyRevoked { key_id: id.get(), actor, personal: None };
            self.tell_revoked(user, event_id, at, revoked).await?;
        }
        Ok(())
    }

    /// Does this to the table in a transaction, or nothing. It waits for nobody for long: others would wait for it.
    async fn in_transaction<T>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, ApiKeysError>,
    ) -> Result<T, ApiKeysError> {
        in_transaction(&self.pool, "changing an API key", work).await
    }

    async fn get(&self, owner: UserId, id: KeyId, at: DateTime<Utc>) -> Result<ApiKey, ApiKeysError> {
        let mut conn = self.pool.acquire().await.map_err(store::Error::from)?;
        api_keys::get(&mut conn, owner, id, at).await?.ok_or(ApiKeysError::NoSuchKey)
    }

    /// The key of `owner`, if it was not revoked, and the caller may change it.
    async fn living(&self, owner: UserId, id: KeyId, by: &By) -> Result<ApiKey, ApiKeysError> {
        let mut conn = self.pool.acquire().await.map_err(store::Error::from)?;
        let key = api_keys::get(&mut conn, owner, id, self.now()).await?.ok_or(ApiKeysError::NoSuchKey)?;
        match () {
            // Whoever had a service's secret would be one.
            () if key.role == KeyRole::Service && by.actor.kind == ActorKind::User => {
                Err(ApiKeysError::NotByUser)
            }
            () if key.revoked_at.is_some() => Err(ApiKeysError::Revoked),
            () => Ok(key),
        }
    }

    fn new_secret(&self) -> Result<(Secret, NewSecret), EntropyError> {
        let secret = Secret::make(&self.environment, |bytes| OsEntropy.fill(bytes))?;
        let stored = NewSecret {
            hash: secret.hash(),
            prefix: secret.shown_prefix().to_owned(),
            last_four: secret.last_four().to_owned(),
        };
        Ok((secret, stored))
    }

    async fn terms_event(
        &self,
        owner: UserId,
        id: KeyId,
        event_id: Uuid,
        role: KeyRole,
        terms: &Terms,
        by: &By,
    ) -> Result<ApiKeyTerms<'static>, ApiKeysError> {
        Ok(ApiKeyTerms {
            key_id: id.get(),
            role: role.as_str().into(),
            scopes: terms.scopes.iter().map(|scope| scope.as_str().into()).collect(),
            networks: u32::try_from(terms.networks.texts().len()).unwrap_or(u32::MAX),
            budget: terms.budget,
            expires_at: terms.expires_at,
            actor: by.actor.clone(),
            personal: self.seal(owner, event_id, by).await?,
        })
    }

    /// What is known of the caller, sealed for the event of this id.
    async fn seal(
        &self,
        owner: UserId,
        event_id: Uuid,
        by: &By,
    ) -> Result<Option<SealedJson<'static>>, SealError> {
        by.sealed(self.sealer.as_ref(), owner, event_id).await
    }

    fn forget(&self, id: KeyId) {
        if let Some(known) = &self.known {
            known.forget(id);
        }
    }
}

fn check(role: KeyRole, terms: &Terms, at: DateTime<Utc>) -> Result<(), ApiKeysError> {
    let beyond = terms.scopes.without(role.scopes());
    if !beyond.is_empty() {
        return Err(ApiKeysError::Scopes { role: role.as_str(), scopes: beyond.to_string() });
    }
    if role == KeyRole::Service && terms.budget.is_some() {
        return Err(ApiKeysError::ServiceBudget);
    }
    if terms.expires_at.is_some_and(|end| end <= at) { Err(ApiKeysError::Past) } else { Ok(()) }
}
