//! Following the audit chains and the tokens in memory, as the projector writes them into the tables.
//!
//! Memory: some 400 bytes for every link.

use std::collections::{HashMap, HashSet};

use events::{Event, Personal};
use ledger::UserId;
use store::Position;
use store::operations::recount::KeptToken;
use store::projection::audit_chain::{Action, CHAIN_START, Hash, Link};
use uuid::Uuid;

use crate::batch::{Audited, Tokens, link_hash};

/// The chains, and what they leave.
#[derive(Debug, Default)]
pub(crate) struct Audit {
    last: HashMap<UserId, Hash>,
    tokens: Tokens,
    erased: HashSet<UserId>,
    links: Vec<Link>,
}

impl Audit {
    /// The next event of a chain; `raw` are its bytes. What cannot be read stops a projector, so it is behind no
    /// checkpoint.
    pub(super) fn add(&mut self, position: Position, user: UserId, event: &Event<'_>, raw: &str) {
        let Ok(Audited { mut link, .. }) = Audited::of(position, user, event, raw, &Personal::default())
        else {
            return;
        };
        let last = self.last.entry(user).or_insert(CHAIN_START);
        *last = link_hash(last, &link.event_hash);
        link.hash = *last;
        if !self.erased.contains(&user) {
            link.replaced_id = self.apply(&link);
        }
        self.links.push(link);
    }

    /// Answers the token that is replaced.
    fn apply(&mut self, link: &Link) -> Option<Uuid> {
        let user = link.user;
        match (link.action, link.token_id, &link.token_type) {
            (Action::Stored, Some(id), Some(token_type)) => {
                return self.tokens.store(user, token_type, id);
            }
            (Action::Deleted, Some(id), _) => {
                self.tokens.delete(user, id);
            }
            (Action::Erased, ..) => {
                self.tokens.forget(user);
                self.erased.insert(user);
            }
            _ => {}
        }
        None
    }

    /// All links, in the log's order.
    pub(crate) fn links(&self) -> &[Link] {
        &self.links
    }

    /// The tokens that there are at the end.
    pub(crate) fn tokens(&self) -> Vec<KeptToken> {
        let kept = |(user, token_type, id): (UserId, &str, Uuid)| KeptToken {
            user,
            token_type: token_type.to_owned(),
            id,
        };
        self.tokens.iter().map(kept).collect()
    }
}
