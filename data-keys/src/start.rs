//! Holding the configured root keys against the database.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use store::identity::{encryption_keys, wrapped_keys};
use vault::{KeyCheck, KeyRing, RootKeyId, Startup};

use crate::config::KeyConfig;
use crate::error::KeysError;

/// A root key that this database knows, and how many data keys it wraps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InUse {
    /// Its name.
    pub kid: RootKeyId,
    /// Its check value, if one is stored.
    pub check: Option<KeyCheck>,
    /// Data keys that it wraps.
    pub data_keys: u64,
}

/// All root keys that this database knows, by name.
pub async fn in_use(conn: &mut PgConnection) -> Result<Vec<InUse>, store::Error> {
    let stored = stored_checks(conn).await?;
    let counts = named(wrapped_keys::counts(conn).await?)?;
    let mut known: Vec<InUse> =
        stored.into_iter().map(|(kid, check)| InUse { kid, check: Some(check), data_keys: 0 }).collect();
    for (kid, data_keys) in counts {
        match known.iter_mut().find(|key| key.kid == kid) {
            Some(key) => key.data_keys = data_keys,
            None => known.push(InUse { kid, check: None, data_keys }),
        }
    }
    known.sort_by(|a, b| a.kid.cmp(&b.kid));
    Ok(known)
}

/// The configured root keys, after proof that they are the database's. The check values of new ones are stored.
pub async fn ring(
    conn: &mut PgConnection,
    config: &KeyConfig,
    now: DateTime<Utc>,
) -> Result<KeyRing, KeysError> {
    Ok(proven(conn, config, now).await?.0)
}

/// [`ring`], and when the database first saw the current one.
pub(crate) async fn proven(
    conn: &mut PgConnection,
    config: &KeyConfig,
    now: DateTime<Utc>,
) -> Result<(KeyRing, DateTime<Utc>), KeysError> {
    let ring = match config.ring() {
        Ok(ring) => ring,
        Err(source) => {
            let counts = named(wrapped_keys::counts_at_start(conn).await?)?;
            let expected = expected(&stored_checks(conn).await?, &counts);
            return Err(KeysError::Ring { expected, source });
        }
    };
    let seen = prove(conn, &ring, now).await?;
    Ok((ring, seen))
}

/// The configured root keys while no database answers.
pub(crate) fn unproven(config: &KeyConfig) -> Result<KeyRing, KeysError> {
    config.ring().map_err(|source| KeysError::Ring { expected: String::new(), source })
}

/// Holds the root keys against the database and stores the check values of new ones. Answers when the database
/// first saw the current one as such.
pub(crate) async fn prove(
    conn: &mut PgConnection,
    ring: &KeyRing,
    now: DateTime<Utc>,
) -> Result<DateTime<Utc>, KeysError> {
    store_new(conn, ring, now).await?;
    let kid = ring.current();
    let seen = encryption_keys::current_since(conn, kid.as_str(), now).await?;
    Ok(seen.ok_or_else(|| inconsistent("kid", kid.as_str()))?)
}

async fn store_new(conn: &mut PgConnection, ring: &KeyRing, now: DateTime<Utc>) -> Result<(), KeysError> {
    let stored = stored_checks(conn).await?;
    let counts = named(wrapped_keys::counts_at_start(conn).await?)?;
    let startup = startup(ring, &stored, &counts)?;
    for (kid, data_keys) in &startup.missing {
        tracing::error!(%kid, data_keys, "an encryption key is not configured; what it wraps does not open");
    }
    if startup.to_store.is_empty() {
        return Ok(());
    }
    let new: Vec<_> =
        startup.to_store.iter().map(|(kid, check)| (kid.to_string(), check.to_string())).collect();
    encryption_keys::insert(conn, &new, now).await?;
    // Another process may have been quicker, with another root key.
    self::startup(ring, &stored_checks(conn).await?, &counts)?;
    for (kid, check) in &startup.to_store {
        tracing::info!(%kid, %check, "a new encryption key; what it wraps cannot be opened without it");
    }
    Ok(())
}

fn startup(
    ring: &KeyRing,
    stored: &[(RootKeyId, KeyCheck)],
    counts: &[(RootKeyId, u64)],
) -> Result<Startup, KeysError> {
    ring.startup(stored, counts)
        .map_err(|source| KeysError::Ring { expected: expected(stored, counts), source })
}

/// Words for an operator beside the reason: the root key that most data keys need, else the one that was used last.
fn expected(stored: &[(RootKeyId, KeyCheck)], counts: &[(RootKeyId, u64)]) -> String {
    let kid = counts.iter().max_by_key(|(_, count)| *count).map(|(kid, _)| kid);
    let Some(kid) = kid.or_else(|| stored.last().map(|(kid, _)| kid)) else { return String::new() };
    match stored.iter().find(|(stored, _)| stored == kid) {
        Some((_, check)) => format!(" (this database expects the key {kid}, check value {check})"),
        None => format!(" (this database expects the key {kid})"),
    }
}

async fn stored_checks(conn: &mut PgConnection) -> Result<Vec<(RootKeyId, KeyCheck)>, store::Error> {
    encryption_keys::all(conn)
        .await?
        .into_iter()
        .map(|(kid, check)| {
            let value = check.parse().map_err(|_| inconsistent("check_value", &check))?;
            Ok((kid.parse().map_err(|_| inconsistent("kid", &kid))?, value))
        })
        .collect()
}

fn named(counts: Vec<(String, u64)>) -> Result<Vec<(RootKeyId, u64)>, store::Error> {
    counts
        .into_iter()
        .map(|(kid, count)| {
            let name = kid.parse().map_err(|_| store::Error::Inconsistent {
                table: "user_data_keys",
                column: "kid",
                value: kid,
            })?;
            Ok((name, count))
        })
        .collect()
}

fn inconsistent(column: &'static str, value: &str) -> store::Error {
    store::Error::Inconsistent { table: "encryption_keys", column, value: value.to_owned() }
}
