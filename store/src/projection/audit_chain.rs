//! Users' audit chains: what was done with their stored tokens, API keys and accounts, each row bound to the one before
//! it.

pub mod security_log;

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use events::AccountAction;
use ledger::UserId;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{Error, Position};

/// A SHA-256.
pub type Hash = [u8; 32];

/// The hash before the first link of a chain.
pub const CHAIN_START: Hash = [0; 32];

/// Action on a stored token, an API key or their user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A token was stored.
    Stored,
    /// A token was deleted.
    Deleted,
    /// A token was used.
    Used,
    /// The user was erased.
    Erased,
    /// An API key was made.
    KeyCreated,
    /// What an API key may do was changed.
    KeyChanged,
    /// An API key got another secret.
    KeyRotated,
    /// An API key was revoked.
    KeyRevoked,
    /// Something happened to the account.
    Account(AccountAction),
}

impl Action {
    /// All of them but those on accounts.
    const BESIDE_ACCOUNTS: [Self; 8] = [
        Self::Stored,
        Self::Deleted,
        Self::Used,
        Self::Erased,
        Self::KeyCreated,
        Self::KeyChanged,
        Self::KeyRotated,
        Self::KeyRevoked,
    ];

    /// The names of those in the table.
    pub const NAMES_BESIDE_ACCOUNTS: [&str; 8] = {
        let mut names = [""; 8];
        let mut at = 0;
        while at < names.len() {
            names[at] = Self::BESIDE_ACCOUNTS[at].as_str();
            at += 1;
        }
        names
    };

    /// The name in the table.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Deleted => "deleted",
            Self::Used => "used",
            Self::Erased => "erased",
            Self::KeyCreated => "key_created",
            Self::KeyChanged => "key_changed",
            Self::KeyRotated => "key_rotated",
            Self::KeyRevoked => "key_revoked",
            Self::Account(action) => action.as_str(),
        }
    }

    /// The action of this name in the table.
    pub fn of_name(name: &str) -> Option<Self> {
        let mut all = Self::BESIDE_ACCOUNTS
            .into_iter()
            .chain(AccountAction::ALL.iter().map(|action| Self::Account(*action)));
        all.find(|action| action.as_str() == name)
    }
}

/// A link of a user's chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// User of the chain.
    pub user: UserId,
    /// Position of the event in the log.
    pub position: Position,
    /// The event.
    pub event_id: Uuid,
    /// The action.
    pub action: Action,
    /// The token, the API key, or what of the account it was.
    pub token_id: Option<Uuid>,
    /// Its type; `api_key` of an API key; of what happened to an account, the method.
    pub token_type: Option<String>,
    /// The token that a stored one took the place of.
    pub replaced_id: Option<Uuid>,
    /// Purpose of a token's use.
    pub purpose: Option<String>,
    /// Tells equal tokens of one user.
    pub fingerprint: Option<String>,
    /// Role in which somebody acted.
    pub actor_kind: &'static str,
    /// Id of the actor.
    pub actor_id: String,
    /// The user's name for the token.
    pub token_name: Option<String>,
    /// Address of the actor.
    pub ip_address: Option<String>,
    /// User agent of the actor.
    pub user_agent: Option<String>,
    /// Time of the action.
    pub at: DateTime<Utc>,
    /// SHA-256 of the event's bytes in its frame.
    pub event_hash: Hash,
    /// The hash that binds it to the link before it.
    pub hash: Hash,
}

/// The hash of the last link of each of these users' chains; a user without one is left out.
pub async fn last_hashes(conn: &mut PgConnection, users: &[UserId]) -> Result<HashMap<UserId, Hash>, Error> {
    let users: Vec<Uuid> = users.iter().map(|user| user.get()).collect();
    let rows = sqlx::query!(
        r#"SELECT given.user_id AS "user_id!", last.hash
           FROM UNNEST($1::uuid[]) AS given (user_id)
           CROSS JOIN LATERAL (SELECT hash FROM token_audit a WHERE a.user_id = given.user_id
                               ORDER BY log_seq DESC, log_idx DESC LIMIT 1) last"#,
        &users
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            let hash = row.hash.try_into().map_err(|_| Error::Inconsistent {
                table: "token_audit",
                column: "hash",
                value: "not 32 bytes".to_owned(),
            })?;
            Ok((UserId::new(row.user_id), hash))
        })
        .collect()
}

/// Those of these events that are links of these users' chains. Their ids are claimed too, but a claim is forgotten.
pub async fn linked(conn: &mut PgConnection, users: &[UserId], events: &[Uuid]) -> Result<Vec<Uuid>, Error> {
    let users: Vec<Uuid> = users.iter().map(|user| user.get()).collect();
    let linked = sqlx::query_scalar!(
        "SELECT event_id FROM token_audit WHERE user_id = ANY($1) AND event_id = ANY($2)",
        &users,
        events
    )
    .fetch_all(conn)
    .await?;
    Ok(linked)
}

/// Adds links, in the log's order.
pub async fn insert(conn: &mut PgConnection, links: &[Link]) -> Result<(), Error> {
    fn column<T>(links: &[Link], of: impl Fn(&Link) -> T) -> Vec<T> {
        links.iter().map(of).collect()
    }
    sqlx::query!(
        "INSERT INTO token_audit (user_id, log_seq, log_idx, event_id, action, token_id, token_type, replaced_id,
             purpose, fingerprint, actor_kind, actor_id, token_name, ip_address, user_agent, created_at, event_hash,
             hash)
         SELECT * FROM UNNEST($1::uuid[], $2::bigint[], $3::integer[], $4::uuid[], $5::text[], $6::uuid[], $7::text[],
             $8::uuid[], $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::text[],
             $16::timestamptz[], $17::bytea[], $18::bytea[])",
        &column(links, |link| link.user.get()),
        &column(links, |link| link.position.columns().0),
        &column(links, |link| link.position.columns().1),
        &column(links, |link| link.event_id),
        &column(links, |link| link.action.as_str().to_owned()),
        &column(links, |link| link.token_id) as &[Option<Uuid>],
        &column(links, |link| link.token_type.clone()) as &[Option<String>],
        &column(links, |link| link.replaced_id) as &[Option<Uuid>],
        &column(links, |link| link.purpose.clone()) as &[Option<String>],
        &column(links, |link| link.fingerprint.clone()) as &[Option<String>],
        &column(links, |link| link.actor_kind.to_owned()),
        &column(links, |link| link.actor_id.clone()),
        &column(links, |link| link.token_name.clone()) as &[Option<String>],
        &column(links, |link| link.ip_address.clone()) as &[Option<String>],
        &column(links, |link| link.user_agent.clone()) as &[Option<String>],
        &column(links, |link| link.at),
        &column(links, |link| link.event_hash.to_vec()),
        &column(links, |link| link.hash.to_vec()),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Blanks what is personal in the user's chain. No hash changes.
pub async fn blank(conn: &mut PgConnection, user: UserId) -> Result<(), Error> {
    sqlx::query!(
        "UPDATE token_audit SET token_name = NULL, ip_address = NULL, user_agent = NULL
         WHERE user_id = $1 AND (token_name IS NOT NULL OR ip_address IS NOT NULL OR user_agent IS NOT NULL)",
        user.get()
    )
    .execute(conn)
    .await?;
    Ok(())
}
