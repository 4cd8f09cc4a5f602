//! The key ring: key encryption keys, which wrap and open data keys.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha512;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::a256cbc_hs512::{OpenError, Schedule};
use crate::data_key::DataKey;
use crate::derive::derive;
use crate::entropy::{Entropy, EntropyError};
use crate::ledger_key::LedgerKey;
use crate::lp::lp;
use crate::names::{DekId, NameError, RootKeyId};
use crate::role_key::RoleKey;
use crate::root_key::{RootKey, RootKeyError};
use crate::sealed::Sealed;

/// The root keys that data keys are wrapped under: the current one, and previous ones that only open.
///
/// Holds key encryption keys, derived from the root keys by HKDF-SHA-512, and not the root keys themselves.
pub struct KeyRing {
    current: RootKeyId,
    keys: BTreeMap<RootKeyId, Kek>,
}

/// KEK(kid) = HKDF-SHA-512(root key, no salt, info = lp("usage-ledger/v2/kek", kid), 64 bytes), made ready.
struct Kek {
    schedule: Box<Schedule>,
    check: KeyCheck,
    role_key: RoleKey,
}

/// Whose data key it is: part of what its wrapping is bound to.
#[derive(Clone, Copy)]
enum Owner {
    User(Uuid),
    Ledger,
}

/// Check value of a root key: the first 8 bytes of HMAC-SHA-512(KEK(kid), "check").
///
/// Stored at first start, it tells a changed root key from the right one. It reveals nothing of the key, and is shown
/// as 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyCheck([u8; 8]);

/// Findings of a process that holds its root keys against the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Startup {
    /// Root keys that the database does not know yet; their check values must be stored.
    pub to_store: Vec<(RootKeyId, KeyCheck)>,
    /// Root keys that are not configured although this many data keys are still wrapped under them. Their owners'
    /// tokens do not open until the key is back.
    pub missing: Vec<(RootKeyId, u64)>,
}

/// Why there is no key ring. Every variant names the root key concerned and echoes none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyRingError {
    /// The name of the current root key, or of a previous one, is malformed.
    #[error("a name in ENCRYPTION_KEY_ID or ENCRYPTION_KEY_PREVIOUS is malformed")]
    Name(#[source] NameError),
    /// A root key is malformed.
    #[error("the encryption key {kid} is malformed")]
    RootKey {
        /// Name of the root key.
        kid: RootKeyId,
        /// The reason.
        #[source]
        source: RootKeyError,
    },
    /// `ENCRYPTION_KEY_PREVIOUS` is not `kid:hex,kid:hex`.
    #[error("entry {entry} of ENCRYPTION_KEY_PREVIOUS is not of the form kid:hex")]
    Previous {
        /// Number of the comma-separated entry, from 1.
        entry: usize,
    },
    /// Two root keys of one name.
    #[error("the encryption key {kid} is given twice")]
    Duplicate {
        /// The name.
        kid: RootKeyId,
    },
    /// The root key of this name is not the one that the database was set up with.
    #[error(
        "the encryption key {kid} is not the one that this database expects: its check value is {found}, not {expected}"
    )]
    Changed {
        /// Name of the root key.
        kid: RootKeyId,
        /// The stored check value.
        expected: KeyCheck,
        /// The check value of the root key that was given.
        found: KeyCheck,
    },
    /// The database's data keys are wrapped under a root key that was not given, all of them.
    #[error(
        "this database expects the encryption key {kid}, which is not configured: {data_keys} data keys are wrapped under it"
    )]
    Absent {
        /// Name of the root key.
        kid: RootKeyId,
        /// Number of data keys that need it.
        data_keys: u64,
    },
}

/// Why a wrapped data key does not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DataKeyError {
    /// It is wrapped under a root key that is not configured.
    #[error("the encryption key {kid} is not configured")]
    UnknownKey {
        /// Name of the root key.
        kid: RootKeyId,
    },
    /// It is not what was sealed for this user under this root key.
    #[error("the data key does not open")]
    Open(#[source] OpenError),
}

impl KeyRing {
    /// A ring of one root key.
    pub fn new(kid: RootKeyId, root: &RootKey) -> Self {
        let kek = Kek::derive(&kid, root);
        Self { current: kid.clone(), keys: BTreeMap::from([(kid, kek)]) }
    }

    /// Adds a root key that opens what it wrapped once, and wraps nothing any more.
    pub fn add_previous(&mut self, kid: RootKeyId, root: &RootKey) -> Result<(), KeyRingError> {
        if self.keys.contains_key(&kid) {
            return Err(KeyRingError::Duplicate { kid });
        }
        let kek = Kek::derive(&kid, root);
        self.keys.insert(kid, kek);
        Ok(())
    }

    /// Reads `ENCRYPTION_KEY`, `ENCRYPTION_KEY_ID` and `ENCRYPTION_KEY_PREVIOUS` (`kid:hex,kid:hex`, empty for none).
    pub fn from_config(key: &str, kid: &str, previous: &str) -> Result<Self, KeyRingError> {
        let kid: RootKeyId = kid.parse().map_err(KeyRingError::Name)?;
        let mut ring = Self::new(kid.clone(), &read_root(&kid, key)?);
        if previous.is_empty() {
            return Ok(ring);
        }
        for (index, entry) in previous.split(',').enumerate() {
            let (kid, key) = entry.split_once(':').ok_or(KeyRingError::Previous { entry: index + 1 })?;
            let kid: RootKeyId = kid.parse().map_err(KeyRingError::Name)?;
            let root = read_root(&kid, key)?;
            ring.add_previous(kid, &root)?;
        }
        Ok(ring)
    }

    /// Name of the root key that wraps new data keys.
    pub fn current(&self) -> &RootKeyId {
        &self.current
    }

    /// Every root key of the ring with its check value, in the order of their names.
    pub fn checks(&self) -> impl Iterator<Item = (&RootKeyId, KeyCheck)> {
        self.keys.iter().map(|(kid, kek)| (kid, kek.check))
    }

    /// Every root key's name with the key that signs tokens of roles, in the order of the names.
    pub fn role_keys(&self) -> impl Iterator<Item = (&RootKeyId, &RoleKey)> {
        self.keys.iter().map(|(kid, kek)| (kid, &kek.role_key))
    }

    /// The key that signs new tokens of roles.
    pub fn current_role_key(&self) -> &RoleKey {
        &self.current_kek().role_key
    }

    /// Holds the ring against the database, before anything is sealed or opened: `stored` are the check values kept
    /// there, `in_use` how many data keys are wrapped under each root key.
    ///
    /// A root key that is not the one of its name refuses. So does a ring that opens none of the data keys there are:
    /// that is another database, or another root key under a new name. A ring that opens some of them starts, and says
    /// which root keys it lacks: the owners of the rest get [`DataKeyError::UnknownKey`].
    pub fn startup(
        &self,
        stored: &[(RootKeyId, KeyCheck)],
        in_use: &[(RootKeyId, u64)],
    ) -> Result<Startup, KeyRingError> {
        for (kid, expected) in stored {
            match self.keys.get(kid) {
                Some(kek) if kek.check != *expected => {
                    return Err(KeyRingError::Changed {
                        kid: kid.clone(),
                        expected: *expected,
                        found: kek.check,
                    });
                }
                _ => {}
            }
        }
        let missing: Vec<_> =
            in_use.iter().filter(|(kid, _)| !self.keys.contains_key(kid)).cloned().collect();
        if missing.len() == in_use.len()
            && let Some((kid, data_keys)) = missing.iter().max_by_key(|(_, count)| *count).cloned()
        {
            return Err(KeyRingError::Absent { kid, data_keys });
        }
        let is_new = |kid: &RootKeyId| !stored.iter().any(|(known, _)| known == kid);
        let to_store =
            self.checks().filter(|(kid, _)| is_new(kid)).map(|(kid, check)| (kid.clone(), check)).collect();
        Ok(Startup { to_store, missing })
    }

    /// Makes a random data key for `user` and wraps it under the current root key.
    ///
    /// Two processes may do so at once; the one whose row is stored first wins, and the other opens that row.
    pub fn new_data_key<E: Entropy + ?Sized>(
        &self,
        user: Uuid,
        dek: DekId,
        entropy: &E,
    ) -> Result<(DataKey, Sealed), EntropyError> {
        let (bytes, sealed) = self.make(Owner::User(user), &dek, entropy)?;
        Ok((DataKey::new(user, dek, self.current.clone(), &bytes), sealed))
    }

    /// Opens the data key `dek` of `user`.
    pub fn open_data_key(&self, user: Uuid, dek: &DekId, sealed: &Sealed) -> Result<DataKey, DataKeyError> {
        let bytes = self.unwrap(Owner::User(user), dek, sealed)?;
        Ok(DataKey::new(user, dek.clone(), sealed.kid.clone(), &bytes))
    }

    /// Wraps a data key anew under the current root key; `None` when it already is. The data key itself stays the same,
    /// so all that is sealed under it opens as before.
    pub fn rewrap<E: Entropy + ?Sized>(
        &self,
        user: Uuid,
        dek: &DekId,
        sealed: &Sealed,
        entropy: &E,
    ) -> Result<Option<Sealed>, RewrapError> {
        if sealed.kid == self.current {
            return Ok(None);
        }
        let bytes = self.unwrap(Owner::User(user), dek, sealed)?;
        Ok(Some(self.wrap(Owner::User(user), dek, &bytes, entropy)?))
    }

    /// Makes a random data key for the ledger itself, as [`KeyRing::new_data_key`] does for a user.
    pub fn new_ledger_key<E: Entropy + ?Sized>(
        &self,
        dek: &DekId,
        entropy: &E,
    ) -> Result<(LedgerKey, Sealed), EntropyError> {
        let (bytes, sealed) = self.make(Owner::Ledger, dek, entropy)?;
        Ok((LedgerKey::new(&bytes), sealed))
    }

    /// Opens the data key `dek` of the ledger itself.
    pub fn open_ledger_key(&self, dek: &DekId, sealed: &Sealed) -> Result<LedgerKey, DataKeyError> {
        Ok(LedgerKey::new(&*self.unwrap(Owner::Ledger, dek, sealed)?))
    }

    /// Wraps the data key `dek` of the ledger itself anew under the current root key. One that an earlier build wrapped
    /// as that of the nil UUID's user is taken as well: that name is no user's any more.
    pub fn rewrap_ledger_key<E: Entropy + ?Sized>(
        &self,
        dek: &DekId,
        sealed: &Sealed,
        entropy: &E,
    ) -> Result<Sealed, RewrapError> {
        let bytes = match self.unwrap(Owner::Ledger, dek, sealed) {
            Err(DataKeyError::Open(_)) => self.unwrap(Owner::User(Uuid::nil()), dek, sealed)?,
            bytes => bytes?,
        };
        Ok(self.wrap(Owner::Ledger, dek, &bytes, entropy)?)
    }

    fn make<E: Entropy + ?Sized>(
        &self,
        owner: Owner,
        dek: &DekId,
        entropy: &E,
    ) -> Result<(Zeroizing<[u8; 64]>, Sealed), EntropyError> {
        let mut bytes = Zeroizing::new([0; 64]);
        entropy.fill(bytes.as_mut_slice())?;
        let sealed = self.wrap(owner, dek, &bytes, entropy)?;
        Ok((bytes, sealed))
    }

    fn wrap<E: Entropy + ?Sized>(
        &self,
        owner: Owner,
        dek: &DekId,
        bytes: &[u8; 64],
        entropy: &E,
    ) -> Result<Sealed, EntropyError> {
        let mut iv = [0; 16];
        entropy.fill(&mut iv)?;
        let aad = owner.wrap_aad(dek, &self.current);
        let (ciphertext, tag) = self.current_kek().schedule.seal(&iv, &aad, bytes);
        Ok(Sealed { kid: self.current.clone(), dek: dek.clone(), ciphertext, iv, tag })
    }

    fn unwrap(
        &self,
        owner: Owner,
        dek: &DekId,
        sealed: &Sealed,
    ) -> Result<Zeroizing<[u8; 64]>, DataKeyError> {
        let kek =
            self.keys.get(&sealed.kid).ok_or_else(|| DataKeyError::UnknownKey { kid: sealed.kid.clone() })?;
        if sealed.dek != *dek {
            return Err(DataKeyError::Open(OpenError));
        }
        let aad = owner.wrap_aad(dek, &sealed.kid);
        let plaintext = kek
            .schedule
            .open(&sealed.iv, &aad, &sealed.ciphertext, &sealed.tag)
            .map_err(DataKeyError::Open)?;
        if plaintext.len() != 64 {
            return Err(DataKeyError::Open(OpenError));
        }
        let mut bytes = Zeroizing::new([0; 64]);
        bytes.copy_from_slice(&plaintext);
        Ok(bytes)
    }

    fn current_kek(&self) -> &Kek {
        self.keys.get(&self.current).expect("the current key is always in the ring")
    }
}

/// Why a data key was not wrapped anew. The old row stays as it is.
#[derive(Debug, thiserror::Error)]
pub enum RewrapError {
    /// It does not open under the root key that it names.
    #[error("the data key cannot be wrapped anew, for it does not open")]
    DataKey(#[from] DataKeyError),
    /// There are no random bytes for a new IV.
    #[error("the data key cannot be wrapped anew")]
    Entropy(#[from] EntropyError),
}

fn read_root(kid: &RootKeyId, key: &str) -> Result<RootKey, KeyRingError> {
    RootKey::parse(key).map_err(|source| KeyRingError::RootKey { kid: kid.clone(), source })
}

impl Owner {
    /// What the wrapping of a data key is bound to; the two labels keep users' keys and the ledger's apart.
    fn wrap_aad(self, dek: &DekId, kid: &RootKeyId) -> Vec<u8> {
        let (dek, kid) = (dek.as_str().as_bytes(), kid.as_str().as_bytes());
        match self {
            Self::User(user) => {
                let mut user_text = [0; 36];
                let user = user.as_hyphenated().encode_lower(&mut user_text);
                lp(&[b"usage-ledger/v2/dek", user.as_bytes(), dek, kid])
            }
            Self::Ledger => lp(&[b"usage-ledger/v2/ledger-dek", dek, kid]),
        }
    }
}

impl Kek {
    fn derive(kid: &RootKeyId, root: &RootKey) -> Self {
        let key = derive(root.bytes(), &lp(&[b"usage-ledger/v2/kek", kid.as_str().as_bytes()]));
        let mac = Hmac::<Sha512>::new_from_slice(key.as_slice()).expect("HMAC takes a key of any length");
        let full = mac.chain_update(b"check").finalize().into_bytes();
        let mut check = [0; 8];
        check.copy_from_slice(&full[..8]);
        let role_key = RoleKey::derive(kid, root);
        Self { schedule: Box::new(Schedule::new(&key)), check: KeyCheck(check), role_key }
    }
}

impl fmt::Display for KeyCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl FromStr for KeyCheck {
    type Err = hex::FromHexError;

    fn from_str(text: &str) -> Result<Self, hex::FromHexError> {
        let mut bytes = [0; 8];
        hex::decode_to_slice(text, &mut bytes)?;
        Ok(Self(bytes))
    }
}
