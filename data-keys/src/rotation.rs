//! Re-wrapping data keys under the current root key, users' page by page, beside running processes.

use ledger::UserId;
use sqlx::PgConnection;
use store::identity::ledger_keys;
use store::identity::wrapped_keys::{self, WrappedKey};
use vault::{KeyRing, OsEntropy};

use crate::error::KeysError;
use crate::wrapped::{parts, wrapped_ledger_key};

/// Data keys that one transaction re-wraps.
const PAGE: u32 = 500;

/// Result of one page of data keys.
#[derive(Debug, Default)]
pub struct Page {
    /// Number of those that are wrapped under the current root key now.
    pub rewrapped: u64,
    /// Those that did not open, and are as they were.
    pub refused: Vec<Refused>,
    /// Place where the next page begins; none after the last one.
    pub next: Option<WrappedKey>,
}

/// A data key that does not open.
#[derive(Debug)]
pub struct Refused {
    /// Its owner.
    pub user: UserId,
    /// Its name among the user's data keys.
    pub dek_id: String,
    /// The reason.
    pub error: KeysError,
}

/// Re-wraps the ledger's own data keys that another root key wraps; answers how many.
///
/// # Errors
/// One of them does not open, or the database refuses.
pub async fn rewrap_ledger_keys(conn: &mut PgConnection, ring: &KeyRing) -> Result<u64, KeysError> {
    let mut rewrapped = 0;
    for key in ledger_keys::not_under(conn, ring.current().as_str()).await? {
        let (dek, sealed) = parts(&key.dek_id, &key.sealed)?;
        let anew = ring.rewrap_ledger_key(&dek, &sealed, &OsEntropy)?;
        rewrapped += u64::from(ledger_keys::replace(conn, &key, &wrapped_ledger_key(&anew)).await?);
    }
    Ok(rewrapped)
}

/// Re-wraps users' next data keys after `after` that another root key wraps. The keys themselves stay the same: all
/// that is sealed under them opens as before, in processes that hold them too. Killed at any point, it goes on where it
/// was, for the tables say what is left.
pub async fn rewrap_page(
    conn: &mut PgConnection,
    ring: &KeyRing,
    after: Option<&WrappedKey>,
) -> Result<Page, KeysError> {
    let keys = wrapped_keys::not_under(conn, ring.current().as_str(), after, PAGE).await?;
    let mut page = Page::default();
    let mut rewrapped = Vec::with_capacity(keys.len());
    for key in &keys {
        match rewrap(ring, key) {
            Ok(Some(new)) => rewrapped.push((new, key.kid.clone())),
            Ok(None) => {}
            Err(error) => {
                page.refused.push(Refused { user: key.user, dek_id: key.dek_id.clone(), error });
            }
        }
    }
    page.rewrapped = wrapped_keys::replace(conn, &rewrapped).await?;
    page.next = keys.into_iter().next_back();
    Ok(page)
}

fn rewrap(ring: &KeyRing, key: &WrappedKey) -> Result<Option<WrappedKey>, KeysError> {
    let (dek, sealed) = parts(&key.dek_id, &key.sealed)?;
    let new = ring.rewrap(key.user.get(), &dek, &sealed, &OsEntropy)?;
    Ok(new.map(|sealed| WrappedKey {
        user: key.user,
        dek_id: key.dek_id.clone(),
        kid: sealed.kid().as_str().to_owned(),
        sealed: sealed.to_json(),
    }))
}
