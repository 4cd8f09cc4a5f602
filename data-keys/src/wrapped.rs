//! Opening of stored data keys.

use store::identity::wrapped_keys::WrappedKey;
use vault::{DataKey, DataKeyError, DekId, KeyRing, OpenError, Sealed};

/// Opens a stored data key.
pub(crate) fn open(ring: &KeyRing, wrapped: &WrappedKey) -> Result<DataKey, DataKeyError> {
    let (dek, sealed) = parts(wrapped)?;
    ring.open_data_key(wrapped.user.get(), &dek, &sealed)
}

/// A stored data key's name and its sealed form. The database checks both; who wrote something else by hand meets the
/// error of a key that does not open.
pub(crate) fn parts(wrapped: &WrappedKey) -> Result<(DekId, Sealed), DataKeyError> {
    let dek = wrapped.dek_id.parse().map_err(|_| DataKeyError::Open(OpenError))?;
    let sealed = Sealed::from_json(&wrapped.sealed).map_err(DataKeyError::Open)?;
    Ok((dek, sealed))
}
