//! Count of what changes about credentials: API keys, sessions, and the standing of accounts.
//!
//! Every change is counted and announced when its transaction commits, with the number that it got: who has seen the
//! one before it needs to forget the named thing alone, and who has missed one sees that by the number. It is counted
//! last: everybody who changes a credential locks the account, then the credential, then the count, which is one for
//! all.

use ledger::{KeyId, UserId};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::Error;

/// The channel on which a change is announced; the payload is the change's number, a blank and the [`Changed`].
pub const CHANNEL: &str = "ledger_credentials";

/// What changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    /// An API key.
    Key(KeyId),
    /// A session.
    Session(Uuid),
    /// All of a user: its standing, its keys, its sessions.
    User(UserId),
}

impl Changed {
    /// The announcement's text.
    fn text(self) -> String {
        match self {
            Self::Key(id) => format!("key {id}"),
            Self::Session(id) => format!("session {id}"),
            Self::User(id) => format!("user {id}"),
        }
    }

    /// The change that an announcement tells of, and its number; none if it is of another form.
    pub fn parse(payload: &str) -> Option<(i64, Self)> {
        let mut parts = payload.split(' ');
        let (number, kind, id) = (parts.next()?.parse().ok()?, parts.next()?, parts.next()?);
        let id = Uuid::try_parse(id).ok().filter(|_| parts.next().is_none())?;
        let changed = match kind {
            "key" => Self::Key(KeyId::new(id)),
            "session" => Self::Session(id),
            "user" => Self::User(UserId::new(id)),
            _ => return None,
        };
        Some((number, changed))
    }
}

/// Counts a change, and announces it when the caller's transaction commits. Until then no other one is counted.
pub async fn count(conn: &mut PgConnection, changed: Changed) -> Result<(), Error> {
    let announced = sqlx::query!(
        "WITH counted AS (UPDATE public.credential_changes SET number = number + 1 RETURNING number)
         SELECT pg_notify('ledger_credentials', number || ' ' || $1::text) FROM counted",
        changed.text()
    )
    .fetch_all(conn)
    .await?;
    crate::error::expect_rows("counting a change of credentials", 1, announced.len() as u64)
}

/// Number of changes so far.
pub async fn number(conn: &mut PgConnection) -> Result<i64, Error> {
    Ok(sqlx::query_scalar!("SELECT number FROM public.credential_changes").fetch_one(conn).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announcements_are_read_as_they_are_written() {
        let id = Uuid::from_u128(7);
        for changed in [Changed::Key(KeyId::new(id)), Changed::Session(id), Changed::User(UserId::new(id))] {
            assert_eq!(Changed::parse(&format!("5 {}", changed.text())), Some((5, changed)));
        }
        for other in [
            "",
            "5",
            "5 key",
            "5 key x",
            "x key 00000000-0000-0000-0000-000000000007",
            "5 other 7",
            "5 key 7 8",
        ] {
            assert_eq!(Changed::parse(other), None, "{other:?}");
        }
    }
}
