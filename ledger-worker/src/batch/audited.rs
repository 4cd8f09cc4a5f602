//! Events of users' audit chains: tokens that are stored, deleted and used, API keys, what happens to accounts, and
//! users who are erased.
//!
//! Every one of them is a link: its hash covers the link before it and the event's bytes as the log has them. So none
//! is ever passed over, and what an erasure blanks in a row leaves the chain whole.

use std::collections::{BTreeMap, HashMap, HashSet};

use events::{Actor, Body, Event, Personal, event_type};
use ledger::UserId;
use sha2::{Digest, Sha256};
use sqlx::PgConnection;
use store::projection::audit_chain::security_log::{self, Act};
use store::projection::audit_chain::{self, Action, CHAIN_START, Hash, Link};
use store::projection::erased_users::{self, Erasure};
use store::projection::token_rows::{self, TokenRow, TokenUse};
use store::{Position, Schema};
use uuid::Uuid;

use super::acts;
use super::fault::EventFault;

/// `token_type` of a link that is about an API key.
const API_KEY: &str = "api_key";

/// One of them, read.
#[derive(Debug, Clone)]
pub struct Audited {
    /// Its id, which is claimed: a retried request publishes the same event again.
    pub claim: Uuid,
    /// Its row, but for the hash, which follows from the row before it.
    pub link: Link,
    /// The token, if one was stored.
    pub stored: Option<TokenRow>,
}

/// SHA-256 of an event's bytes as they stand in its frame.
fn event_hash(raw: &str) -> Hash {
    Sha256::digest(raw.as_bytes()).into()
}

/// The hash that binds an event to the chain that ends with `previous`.
pub(crate) fn link_hash(previous: &Hash, event_hash: &Hash) -> Hash {
    Sha256::new().chain_update(previous).chain_update(event_hash).finalize().into()
}

impl Audited {
    /// Reads the event; `raw` are its bytes in the frame, and `personal` is what was sealed in it.
    pub(crate) fn of(
        position: Position,
        user: UserId,
        event: &Event<'_>,
        raw: &str,
        personal: &Personal<'_>,
    ) -> Result<Self, EventFault> {
        let claim = event.row_id().map_err(EventFault::Unreadable)?;
        let text = |text: &Option<std::borrow::Cow<'_, str>>| text.as_deref().map(str::to_owned);
        let link = |action: Action, actor: &Actor<'_>| Link {
            user,
            position,
            event_id: claim,
            action,
            token_id: None,
            token_type: None,
            replaced_id: None,
            purpose: None,
            fingerprint: None,
            actor_kind: actor.kind.as_str(),
            actor_id: actor.id.clone().into_owned(),
            token_name: text(&personal.token_name),
            ip_address: text(&personal.ip_address),
            user_agent: text(&personal.user_agent),
            at: event.time,
            event_hash: event_hash(raw),
            hash: CHAIN_START,
        };
        let of_token = |action, actor: &Actor<'_>, id: Uuid, token_type: &str| Link {
            token_id: Some(id),
            token_type: Some(token_type.to_owned()),
            ..link(action, actor)
        };
        let of_key = |action, actor: &Actor<'_>, id: Uuid| (of_token(action, actor, id, API_KEY), None);
        let (link, stored) = match &event.body {
            Body::TokenStored(body) => {
                let mut link = of_token(Action::Stored, &body.actor, body.token_id, &body.token_type);
                link.fingerprint = Some(body.fingerprint.clone().into_owned());
                let stored = TokenRow {
                    id: body.token_id,
                    user,
                    token_type: body.token_type.clone().into_owned(),
                    sealed: body.sealed.as_str().to_owned(),
                    name: text(&personal.token_name),
                    masked: body.masked.clone().into_owned(),
                    fingerprint: body.fingerprint.clone().into_owned(),
                    at: event.time,
                    position,
                };
                (link, Some(stored))
            }
            Body::TokenDeleted(body) => {
                (of_token(Action::Deleted, &body.actor, body.token_id, &body.token_type), None)
            }
            Body::TokenUsed(body) => {
                let mut link = of_token(Action::Used, &body.actor, body.token_id, &body.token_type);
                link.purpose = Some(body.purpose.clone().into_owned());
                (link, None)
            }
            Body::UserErased(body) => (link(Action::Erased, &body.actor), None),
            Body::ApiKeyCreated(body) => of_key(Action::KeyCreated, &body.actor, body.key_id),
            Body::ApiKeyChanged(body) => of_key(Action::KeyChanged, &body.actor, body.key_id),
            Body::ApiKeyRotated(body) => of_key(Action::KeyRotated, &body.actor, body.key_id),
            Body::ApiKeyRevoked(body) => of_key(Action::KeyRevoked, &body.actor, body.key_id),
            Body::Account(action, body) => {
                let mut link = link(Action::Account(*action), &body.actor);
                link.token_id = body.object_id;
                link.token_type = text(&body.method);
                (link, None)
            }
            _ => return Err(EventFault::NotAudited),
        };
        Ok(Self { claim, link, stored })
    }

    /// The event's type.
    pub(super) fn event_type(&self) -> &'static str {
        event_type_of(self.link.action)
    }
}

/// The type of the events that make such links.
const fn event_type_of(action: Action) -> &'static str {
    match action {
        Action::Stored => event_type::TOKEN_STORED,
        Action::Deleted => event_type::TOKEN_DELETED,
        Action::Used => event_type::TOKEN_USED,
        Action::Erased => event_type::USER_ERASED,
        Action::KeyCreated => event_type::API_KEY_CREATED,
        Action::KeyChanged => event_type::API_KEY_CHANGED,
        Action::KeyRotated => event_type::API_KEY_ROTATED,
        Action::KeyRevoked => event_type::API_KEY_REVOKED,
        Action::Account(action) => action.event_type(),
    }
}

/// Applies the events in their order; answers who is erased by them. However many events they are, it is the same few
/// statements, and some for each erasure.
pub(super) async fn apply(
    conn: &mut PgConnection,
    schema: Schema,
    events: &[Audited],
) -> Result<Vec<UserId>, store::Error> {
    let mut users: Vec<UserId> = events.iter().map(|event| event.link.user).collect();
    users.sort_unstable();
    users.dedup();
    let erased: HashSet<UserId> = erased_users::among(conn, &users).await?;
    let mut last: HashMap<UserId, Hash> = audit_chain::last_hashes(conn, &users).await?;
    let mut vault = Vault::of(conn, &users).await?;
    let (mut links, mut erased_now) = (Vec::with_capacity(events.len()), Vec::new());
    for event in events {
        let mut link = event.link.clone();
        let previous = last.entry(link.user).or_insert(CHAIN_START);
        *previous = link_hash(previous, &link.event_hash);
        link.hash = *previous;
        let is_over = erased.contains(&link.user) || erased_now.contains(&link.user);
        if is_over || link.action == Action::Erased {
            (link.token_name, link.ip_address, link.user_agent) = (None, None, None);
        }
        match link.action {
            // What comes after the end is noted, and nothing else becomes of it.
            _ if is_over => {}
            Action::Erased => {
                // Earlier links of the user must be in the table to be blanked.
                insert(conn, &std::mem::take(&mut links)).await?;
                erase(conn, schema, &link).await?;
                vault.forget(link.user);
                erased_now.push(link.user);
            }
            Action::Stored => link.replaced_id = event.stored.as_ref().and_then(|token| vault.store(token)),
            Action::Deleted => vault.delete(&link),
            Action::Used => vault.used(&link),
            // Neither keys nor accounts are a projection.
            Action::KeyCreated
            | Action::KeyChanged
            | Action::KeyRotated
            | Action::KeyRevoked
            | Action::Account(_) => {}
        }
        links.push(link);
    }
    vault.write(conn).await?;
    insert(conn, &links).await?;
    Ok(erased_now)
}

/// Adds links to their chains, and what they tell of to the security log.
async fn insert(conn: &mut PgConnection, links: &[Link]) -> Result<(), store::Error> {
    audit_chain::insert(conn, links).await?;
    let acts: Vec<_> = links.iter().filter_map(act).collect();
    security_log::insert(conn, &acts).await
}

/// The act that a link tells of; none for the use of a token, of which there may be thousands a day.
fn act(link: &Link) -> Option<Act> {
    if link.action == Action::Used {
        return None;
    }
    Some(Act {
        user: link.user,
        position: link.position,
        at: link.at,
        action: acts::name(event_type_of(link.action)),
        method: link.token_type.clone().filter(|token_type| token_type != API_KEY),
        object_id: link.token_id,
        actor_kind: link.actor_kind,
        actor_id: link.actor_id.clone(),
        ip_address: link.ip_address.clone(),
        user_agent: link.user_agent.clone(),
    })
}

/// The stored token of each user and type, as the events of tokens leave them, in their order.
#[derive(Debug, Default)]
pub(crate) struct Tokens(HashMap<UserId, BTreeMap<String, Uuid>>);

impl Tokens {
    /// Answers the token whose place it takes.
    pub(crate) fn store(&mut self, user: UserId, token_type: &str, id: Uuid) -> Option<Uuid> {
        self.0.entry(user).or_default().insert(token_type.to_owned(), id)
    }

    /// Takes the token away, if it is the user's.
    pub(crate) fn delete(&mut self, user: UserId, id: Uuid) {
        if let Some(tokens) = self.0.get_mut(&user) {
            tokens.retain(|_, token| *token != id);
        }
    }

    /// Takes all of them away.
    pub(crate) fn forget(&mut self, user: UserId) {
        self.0.remove(&user);
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (UserId, &str, Uuid)> {
        self.0.iter().flat_map(|(user, tokens)| {
            tokens.iter().map(move |(token_type, id)| (*user, token_type.as_str(), *id))
        })
    }
}

/// The stored tokens of some users, and what a batch changes in their table.
struct Vault<'e> {
    tokens: Tokens,
    /// Those that are to be written, by user and type.
    stored: HashMap<UserId, BTreeMap<&'e str, &'e TokenRow>>,
    deleted: Vec<(UserId, Uuid)>,
    uses: Vec<TokenUse>,
}

impl<'e> Vault<'e> {
    async fn of(conn: &mut PgConnection, users: &[UserId]) -> Result<Self, store::Error> {
        let mut tokens = Tokens::default();
        for token in token_rows::of_users(conn, users).await? {
            tokens.store(token.user, &token.token_type, token.id);
        }
        Ok(Self { tokens, stored: HashMap::new(), deleted: Vec::new(), uses: Vec::new() })
    }

    /// Answers the token whose place it takes.
    fn store(&mut self, token: &'e TokenRow) -> Option<Uuid> {
        self.stored.entry(token.user).or_default().insert(&token.token_type, token);
        self.tokens.store(token.user, &token.token_type, token.id)
    }

    fn delete(&mut self, link: &Link) {
        let Some(id) = link.token_id else { return };
        self.tokens.delete(link.user, id);
        if let Some(stored) = self.stored.get_mut(&link.user) {
            stored.retain(|_, token| token.id != id);
        }
        self.deleted.push((link.user, id));
    }

    fn used(&mut self, link: &Link) {
        if let Some(id) = link.token_id {
            self.uses.push(TokenUse { id, user: link.user, at: link.at, position: link.position });
        }
    }

    /// The user's rows are gone.
    fn forget(&mut self, user: UserId) {
        self.tokens.forget(user);
        self.stored.remove(&user);
    }

    async fn write(self, conn: &mut PgConnection) -> Result<(), store::Error> {
        if !self.deleted.is_empty() {
            token_rows::delete(conn, &self.deleted).await?;
        }
        let stored: Vec<TokenRow> =
            self.stored.into_values().flat_map(BTreeMap::into_values).cloned().collect();
        if !stored.is_empty() {
            token_rows::store(conn, &stored).await?;
        }
        if !self.uses.is_empty() {
            token_rows::used(conn, &self.uses).await?;
        }
        Ok(())
    }
}

/// Takes the user's tokens away, and in a rebuild blanks what is personal in their rows.
///
/// A user may have millions of calls, and uses of tokens. The live projector leaves those to the reconciler, which
/// blanks them in small steps beside it; a rebuild, which nobody waits for, does it at once, before its tables are
/// compared and exchanged.
async fn erase(conn: &mut PgConnection, schema: Schema, link: &Link) -> Result<(), store::Error> {
    let erasure = Erasure { event_id: link.event_id, erased_at: link.at, position: link.position };
    erased_users::record(conn, link.user, &erasure).await?;
    token_rows::delete_all(conn, link.user).await?;
    if schema == Schema::Next {
        audit_chain::blank(conn, link.user).await?;
        security_log::blank(conn, link.user).await?;
        erased_users::blank_all_calls(conn, link.user).await?;
    }
    Ok(())
}
