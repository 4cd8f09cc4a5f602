//! Keyed hashes of external ids, by which the id of an erased user is recognised when it comes again.

use ledger::ExternalId;
use secrecy::ExposeSecret as _;
use sqlx::PgConnection;
use store::identity::ledger_keys::{self, WrappedLedgerKey};
use store::identity::users::HashedExternalId;
use vault::{DataKeyError, DekId, KeyRing, LedgerKey, OsEntropy, Sealed};

use crate::config::KeyConfig;
use crate::error::KeysError;
use crate::keys::Keys;
use crate::start;
use crate::wrapped::{parts, wrapped_ledger_key};

impl Keys {
    /// The external ids with their hashes, under a data key of the ledger's own. It is made at first need; only then,
    /// and once a process, is the database asked: on a connection of its own, so that no transaction of a caller takes
    /// the key back.
    pub async fn hash_external_ids(&self, ids: Vec<ExternalId>) -> Result<Vec<HashedExternalId>, KeysError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let key = self.0.ledger.get_or_try_init(|| self.ledger_key()).await?;
        Ok(ids.into_iter().map(|id| hashed(key, id)).collect())
    }

    /// [`Keys::hash_external_ids`] of one.
    pub async fn hash_external_id(&self, id: ExternalId) -> Result<HashedExternalId, KeysError> {
        let key = self.0.ledger.get_or_try_init(|| self.ledger_key()).await?;
        Ok(hashed(key, id))
    }

    async fn ledger_key(&self) -> Result<LedgerKey, KeysError> {
        let conn = &mut store::connect(self.0.database_url.expose_secret(), store::Schema::Live).await?;
        self.prove(conn).await?;
        let name = DekId::first();
        let mut stored = ledger_keys::find(conn, name.as_str()).await?;
        if stored.is_none() {
            let (_, sealed) = self.0.ring.new_ledger_key(&name, &OsEntropy)?;
            ledger_keys::insert(conn, &wrapped_ledger_key(&sealed), self.0.clock.now()).await?;
            // What is stored counts: another process may have been quicker.
            stored = ledger_keys::find(conn, name.as_str()).await?;
        }
        let stored = stored.ok_or(KeysError::NoLedgerKey)?;
        let (key, anew) = opened(&self.0.ring, &stored)?;
        if let Some(anew) = anew {
            ledger_keys::replace(conn, &stored, &wrapped_ledger_key(&anew)).await?;
        }
        Ok(key)
    }
}

/// Hashes external ids and writes nothing: for who only looks.
pub struct Hasher(LedgerKey);

impl Hasher {
    /// Reads the ledger's own data key. Where there is none yet, no hash is stored, and none is found.
    ///
    /// # Errors
    /// A root key is missing or malformed, or does not open the data key.
    pub async fn open(conn: &mut PgConnection, config: &KeyConfig) -> Result<Self, KeysError> {
        let (ring, name) = (start::unproven(config)?, DekId::first());
        Ok(Self(match ledger_keys::find(conn, name.as_str()).await? {
            Some(stored) => opened(&ring, &stored)?.0,
            None => ring.new_ledger_key(&name, &OsEntropy)?.0,
        }))
    }

    /// The external id with its hashes.
    pub fn hash(&self, id: ExternalId) -> HashedExternalId {
        hashed(&self.0, id)
    }
}

/// The stored key, and how it is to be stored from now on where an earlier build wrapped it otherwise.
fn opened(ring: &KeyRing, stored: &WrappedLedgerKey) -> Result<(LedgerKey, Option<Sealed>), KeysError> {
    let (dek, sealed) = parts(&stored.dek_id, &stored.sealed)?;
    match ring.open_ledger_key(&dek, &sealed) {
        Err(DataKeyError::Open(_)) => {
            let anew = ring.rewrap_ledger_key(&dek, &sealed, &OsEntropy)?;
            Ok((ring.open_ledger_key(&dek, &anew)?, Some(anew)))
        }
        opened => Ok((opened?, None)),
    }
}

fn hashed(key: &LedgerKey, id: ExternalId) -> HashedExternalId {
    let earlier = id.earlier_texts().map(|text| {
        let hash = key.external_id_hash(&text);
        (text, hash)
    });
    let earlier = earlier.collect();
    HashedExternalId { hash: key.external_id_hash(id.as_str()), id, earlier }
}
