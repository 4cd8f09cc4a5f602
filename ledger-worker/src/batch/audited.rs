//! Events of users' audit chains: tokens that are stored, deleted and used, and users who are erased.
//!
//! Every one of them is a link: its hash covers the link before it and the event's bytes as the log has them. So none
//! is ever passed over, and what an erasure blanks in a row leaves the chain whole.

use std::collections::{HashMap, HashSet};

use events::{Actor, Body, Event, Personal};
use ledger::UserId;
use sha2::{Digest, Sha256};
use sqlx::PgConnection;
use store::erasure::{self, Erasure};
use store::token_audit::{self, Action, CHAIN_START, Hash, Link};
use store::tokens::{self, StoredToken, TokenUse};
use store::{Position, Schema};
use uuid::Uuid;

/// One of them, read.
#[derive(Debug, Clone)]
pub struct Audited {
    /// Its id, which is claimed: a retried request publishes the same event again.
    pub claim: Uuid,
    /// Its row, but for the hash, which follows from the row before it.
    pub link: Link,
    /// The token, if one was stored.
    pub stored: Option<StoredToken>,
}

/// SHA-256 of an event's bytes as they stand in its frame.
pub(crate) fn event_hash(raw: &str) -> Hash {
    Sha256::digest(raw.as_bytes()).into()
}

/// What binds an event to the chain that ends with `previous`.
pub(crate) fn link_hash(previous: &Hash, event_hash: &Hash) -> Hash {
    Sha256::new().chain_update(previous).chain_update(event_hash).finalize().into()
}

impl Audited {
    /// Reads the event; `raw` are its bytes in the frame, and `personal` is what was sealed in it.
    pub(super) fn of(
        position: Position,
        user: UserId,
        event: &Event<'_>,
        raw: &str,
        personal: &Personal<'_>,
    ) -> Result<Self, String> {
        let claim = event.row_id().map_err(|error| error.detail())?;
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
        let (link, stored) = match &event.body {
            Body::TokenStored(body) => {
                let mut link = of_token(Action::Stored, &body.actor, body.token_id, &body.token_type);
                link.fingerprint = Some(body.fingerprint.clone().into_owned());
                let stored = StoredToken {
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
            _ => return Err("it belongs to no audit chain".to_owned()),
        };
        Ok(Self { claim, link, stored })
    }

    /// The event's type.
    pub(super) fn event_type(&self) -> &'static str {
        match self.link.action {
            Action::Stored => "token.token_stored.v1",
            Action::Deleted => "token.token_deleted.v1",
            Action::Used => "token.token_used.v1",
            Action::Erased => "user.user_erased.v1",
        }
    }
}

/// Applies the events in their order, after `erased` users; answers who is erased by them.
pub(super) async fn apply(
    conn: &mut PgConnection,
    schema: Schema,
    events: &[Audited],
    erased: &HashSet<UserId>,
) -> Result<Vec<UserId>, store::Error> {
    let mut users: Vec<UserId> = events.iter().map(|event| event.link.user).collect();
    users.sort_unstable();
    users.dedup();
    let mut last: HashMap<UserId, Hash> = token_audit::last_hashes(conn, &users).await?;
    let (mut links, mut token_uses, mut erased_now) =
        (Vec::with_capacity(events.len()), Vec::new(), Vec::new());
    for event in events {
        let mut link = event.link.clone();
        let user = link.user;
        let previous = last.entry(user).or_insert(CHAIN_START);
        *previous = link_hash(previous, &link.event_hash);
        link.hash = *previous;
        if erased.contains(&user) || erased_now.contains(&user) {
            // What comes after the end is noted, and nothing else becomes of it.
            (link.token_name, link.ip_address, link.user_agent) = (None, None, None);
            links.push(link);
            continue;
        }
        match (link.action, link.token_id) {
            (Action::Stored, _) => {
                if let Some(token) = &event.stored {
                    link.replaced_id = tokens::store(conn, token).await?;
                }
            }
            (Action::Deleted, Some(id)) => tokens::delete(conn, user, id).await?,
            (Action::Used, Some(id)) => {
                token_uses.push(TokenUse { id, user, at: link.at, position: link.position });
            }
            (Action::Erased, _) => {
                (link.token_name, link.ip_address, link.user_agent) = (None, None, None);
                // Earlier links of the user must be in the table to be blanked.
                token_audit::insert(conn, &std::mem::take(&mut links)).await?;
                erase(conn, schema, &link).await?;
                erased_now.push(user);
            }
            (Action::Deleted | Action::Used, None) => {}
        }
        links.push(link);
    }
    if !token_uses.is_empty() {
        tokens::used(conn, &token_uses).await?;
    }
    token_audit::insert(conn, &links).await?;
    Ok(erased_now)
}

/// Takes the user's tokens away and blanks what is personal in their rows.
///
/// A user may have millions of calls. The live projector leaves those to the reconciler, which blanks them in small
/// steps beside it; a rebuild, which nobody waits for, does it at once, since the reconciler does not look at its tables.
async fn erase(conn: &mut PgConnection, schema: Schema, link: &Link) -> Result<(), store::Error> {
    let erasure = Erasure { event_id: link.event_id, erased_at: link.at, position: link.position };
    erasure::record(conn, link.user, &erasure).await?;
    tokens::delete_all(conn, link.user).await?;
    token_audit::blank(conn, link.user).await?;
    if schema == Schema::Next {
        for table in erasure::month_tables(conn).await? {
            erasure::blank_month(conn, &table, link.user, u32::MAX).await?;
        }
    }
    Ok(())
}
