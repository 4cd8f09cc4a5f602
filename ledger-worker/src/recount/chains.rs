//! Following the audit chains and the tokens in memory, as the projector writes them into the tables.
//!
//! Memory: what is there at the end of each user's chain.

use std::collections::{HashMap, HashSet};

use ledger::UserId;
use store::Position;
use store::operations::recount::{KeptToken, StoredLink, hash_text};
use store::projection::audit_chain::{Action, CHAIN_START, Hash};
use uuid::Uuid;

use crate::batch::{Tokens, link_hash};

use super::record::LinkEvent;

/// The ends of the chains, and what they leave.
#[derive(Debug, Default)]
pub(super) struct Chains {
    last: HashMap<UserId, Hash>,
    tokens: Tokens,
    erased: HashSet<UserId>,
}

impl Chains {
    /// The next event of a chain; answers its link.
    pub(super) fn add(&mut self, position: Position, user: UserId, event: &LinkEvent<'_>) -> StoredLink {
        let last = self.last.entry(user).or_insert(CHAIN_START);
        *last = link_hash(last, &event.event_hash);
        let hash = *last;
        let replaced = if self.erased.contains(&user) { None } else { self.apply(user, event) };
        let text = |value: Option<&str>| value.map(str::to_owned);
        let id = |value: Option<Uuid>| value.map(|id| id.to_string());
        StoredLink {
            user,
            position,
            columns: [
                id(Some(event.event_id)),
                text(Some(event.action.as_str())),
                id(event.token_id),
                text(event.token_type),
                id(replaced),
                text(event.purpose),
                text(event.fingerprint),
                text(Some(event.actor_kind)),
                text(Some(event.actor_id)),
                Some(event.at.to_rfc3339()),
                Some(hash_text(&event.event_hash)),
                Some(hash_text(&hash)),
            ],
        }
    }

    /// Answers the token that is replaced.
    fn apply(&mut self, user: UserId, event: &LinkEvent<'_>) -> Option<Uuid> {
        match (event.action, event.token_id, event.token_type) {
            (Action::Stored, Some(id), Some(token_type)) => {
                return self.tokens.store(user, token_type, id);
            }
            (Action::Deleted, Some(id), _) => self.tokens.delete(user, id),
            (Action::Erased, ..) => {
                self.tokens.forget(user);
                self.erased.insert(user);
            }
            _ => {}
        }
        None
    }

    /// The tokens that there are now.
    pub(super) fn tokens(&self) -> impl Iterator<Item = KeptToken> {
        self.tokens.iter().map(|(user, token_type, id)| KeptToken {
            user,
            token_type: token_type.to_owned(),
            id,
        })
    }
}
