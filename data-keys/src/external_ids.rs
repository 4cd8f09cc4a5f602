//! Keyed hashes of external ids, by which the id of an erased user is recognised when it comes again.

use std::sync::Arc;

use ledger::ExternalId;
use secrecy::ExposeSecret as _;
use store::identity::users::HashedExternalId;
use store::identity::wrapped_keys::{self, WrappedKey};
use uuid::Uuid;
use vault::{DataKey, DekId, OsEntropy};

use crate::error::KeysError;
use crate::keys::Keys;
use crate::wrapped::open;

/// Owner of the ledger's own data key.
const LEDGER: Uuid = Uuid::nil();

impl Keys {
    /// The external ids with their hashes, under a data key of the ledger's own. It is made at first need; only then,
    /// and once a process, is the database asked: on a connection of its own, so that no transaction of a caller takes
    /// the key back.
    pub async fn hash_external_ids(&self, ids: Vec<ExternalId>) -> Result<Vec<HashedExternalId>, KeysError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let key = self.0.ledger.get_or_try_init(|| self.ledger_key()).await?;
        Ok(ids
            .into_iter()
            .map(|id| HashedExternalId { hash: key.external_id_hash(id.as_str()), id })
            .collect())
    }

    /// [`Keys::hash_external_ids`] of one.
    pub async fn hash_external_id(&self, id: ExternalId) -> Result<HashedExternalId, KeysError> {
        let key = self.0.ledger.get_or_try_init(|| self.ledger_key()).await?;
        Ok(HashedExternalId { hash: key.external_id_hash(id.as_str()), id })
    }

    async fn ledger_key(&self) -> Result<Arc<DataKey>, KeysError> {
        let conn = &mut store::connect(self.0.database_url.expose_secret(), store::Schema::Live).await?;
        self.prove(conn).await?;
        let name = DekId::first();
        let mut stored = wrapped_keys::of_ledger(conn, name.as_str()).await?;
        if stored.is_none() {
            let (key, sealed) = self.0.ring.new_data_key(LEDGER, name.clone(), &OsEntropy)?;
            let new = WrappedKey {
                user: LEDGER.into(),
                dek_id: key.id().as_str().to_owned(),
                kid: sealed.kid().as_str().to_owned(),
                sealed: sealed.to_json(),
            };
            wrapped_keys::insert_of_ledger(conn, &new, self.0.clock.now()).await?;
            // What is stored counts: another process may have been quicker.
            stored = wrapped_keys::of_ledger(conn, name.as_str()).await?;
        }
        let stored = stored.ok_or(KeysError::NoAccount)?;
        Ok(Arc::new(open(&self.0.ring, &stored)?))
    }
}
