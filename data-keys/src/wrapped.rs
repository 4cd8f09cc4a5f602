//! Opening of stored data keys.

use store::identity::ledger_keys::WrappedLedgerKey;
use store::identity::wrapped_keys::WrappedKey;
use vault::{DataKey, DataKeyError, DekId, KeyRing, OpenError, Sealed};

/// Opens a stored data key.
pub(crate) fn open(ring: &KeyRing, wrapped: &WrappedKey) -> Result<DataKey, DataKeyError> {
    let (dek, sealed) = parts(&wrapped.dek_id, &wrapped.sealed)?;
    ring.open_data_key(wrapped.user.get(), &dek, &sealed)
}

/// A stored data key's name and its sealed form. The database checks both; who wrote something else by hand meets the
/// error of a key that does not open.
pub(crate) fn parts(dek_id: &str, sealed: &str) -> Result<(DekId, Sealed), DataKeyError> {
    let dek = dek_id.parse().map_err(|_| DataKeyError::Open(OpenError))?;
    let sealed = Sealed::from_json(sealed).map_err(DataKeyError::Open)?;
    Ok((dek, sealed))
}

/// A data key of the ledger's own, to be stored.
pub(crate) fn wrapped_ledger_key(sealed: &Sealed) -> WrappedLedgerKey {
    WrappedLedgerKey {
        dek_id: sealed.dek().as_str().to_owned(),
        kid: sealed.kid().as_str().to_owned(),
        sealed: sealed.to_json(),
    }
}
