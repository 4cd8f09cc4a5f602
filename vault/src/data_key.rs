//! Data keys, opened: they seal and open tokens and personal data.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha512;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::a256cbc_hs512::{OpenError, Schedule};
use crate::derive::derive;
use crate::entropy::{Entropy, EntropyError};
use crate::lp::lp;
use crate::names::{DekId, RootKeyId};
use crate::sealed::Sealed;
use crate::secret::SecretText;
use crate::token::TokenKind;

/// A user's data key (DEK), opened. What it seals is bound to the user, to the purpose and to the row.
///
/// Keeps its HMAC and AES schedules, about 1.5 KiB with the key itself; all of it is zeroed on drop.
pub struct DataKey {
    user: Uuid,
    id: DekId,
    kid: RootKeyId,
    secret: Box<Secret>,
}

/// On the heap, so that moving a `DataKey` leaves no copy behind.
struct Secret {
    bytes: Zeroizing<[u8; 64]>,
    schedule: Schedule,
}

/// Tells whether two stored tokens of one user are the same, without revealing either: 8 bytes, shown as 16
/// hexadecimal digits. Its key comes from the data key, so it cannot be computed, or guessed at, once that is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 8]);

impl DataKey {
    pub(crate) fn new(user: Uuid, id: DekId, kid: RootKeyId, bytes: &[u8; 64]) -> Self {
        let secret = Box::new(Secret { bytes: Zeroizing::new(*bytes), schedule: Schedule::new(bytes) });
        Self { user, id, kid, secret }
    }

    /// The user whose data key this is.
    pub fn user(&self) -> Uuid {
        self.user
    }

    /// Name of this one among the user's data keys.
    pub fn id(&self) -> &DekId {
        &self.id
    }

    /// The root key that this data key was wrapped under when it was opened.
    pub fn kid(&self) -> &RootKeyId {
        &self.kid
    }

    /// Seals a token for the row `token_id`.
    pub fn seal_token<E: Entropy + ?Sized>(
        &self,
        kind: TokenKind,
        token_id: Uuid,
        token: &SecretText,
        entropy: &E,
    ) -> Result<Sealed, EntropyError> {
        self.seal(&self.token_aad(kind, token_id), token.expose().as_bytes(), entropy)
    }

    /// Opens a token that was sealed for this user, this kind and the row `token_id`.
    pub fn open_token(
        &self,
        kind: TokenKind,
        token_id: Uuid,
        sealed: &Sealed,
    ) -> Result<SecretText, OpenError> {
        let mut plaintext = self.open(&self.token_aad(kind, token_id), sealed)?;
        let text = String::from_utf8(std::mem::take(&mut *plaintext));
        text.map(SecretText::new).map_err(|error| {
            drop(Zeroizing::new(error.into_bytes()));
            OpenError
        })
    }

    /// Seals the personal fields of the event `event_id`; `plaintext` is their JSON.
    pub fn seal_personal<E: Entropy + ?Sized>(
        &self,
        event_id: &str,
        plaintext: &[u8],
        entropy: &E,
    ) -> Result<Sealed, EntropyError> {
        self.seal(&self.personal_aad(event_id), plaintext, entropy)
    }

    /// Opens the personal fields of the event `event_id`.
    pub fn open_personal(&self, event_id: &str, sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        self.open(&self.personal_aad(event_id), sealed)
    }

    /// Seals the secret of the second factor `factor_id`.
    pub fn seal_factor<E: Entropy + ?Sized>(
        &self,
        factor_id: Uuid,
        secret: &[u8],
        entropy: &E,
    ) -> Result<Sealed, EntropyError> {
        self.seal(&self.factor_aad(factor_id), secret, entropy)
    }

    /// Opens the secret of the second factor `factor_id`, if it was sealed for this user and that factor.
    pub fn open_factor(&self, factor_id: Uuid, sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        self.open(&self.factor_aad(factor_id), sealed)
    }

    /// The token's fingerprint: the first 8 bytes of HMAC-SHA-512 over `lp(token_type, token)`, under
    /// HKDF-SHA-512(DEK, no salt, `lp("usage-ledger/v2/fingerprint", user)`, 64 bytes).
    pub fn fingerprint(&self, kind: TokenKind, token: &SecretText) -> Fingerprint {
        let message = Zeroizing::new(lp(&[kind.as_str().as_bytes(), token.expose().as_bytes()]));
        Fingerprint(keyed_hash(&self.secret.bytes, self.user, b"usage-ledger/v2/fingerprint", &message))
    }

    fn seal<E: Entropy + ?Sized>(
        &self,
        aad: &[u8],
        plaintext: &[u8],
        entropy: &E,
    ) -> Result<Sealed, EntropyError> {
        let mut iv = [0; 16];
        entropy.fill(&mut iv)?;
        let (ciphertext, tag) = self.secret.schedule.seal(&iv, aad, plaintext);
        Ok(Sealed { kid: self.kid.clone(), dek: self.id.clone(), ciphertext, iv, tag })
    }

    fn open(&self, aad: &[u8], sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        if sealed.dek != self.id {
            return Err(OpenError);
        }
        self.secret.schedule.open(&sealed.iv, aad, &sealed.ciphertext, &sealed.tag)
    }

    fn factor_aad(&self, factor_id: Uuid) -> Vec<u8> {
        let (mut user_text, mut factor_text) = ([0; 36], [0; 36]);
        let user = self.user.as_hyphenated().encode_lower(&mut user_text);
        let factor = factor_id.as_hyphenated().encode_lower(&mut factor_text);
        lp(&[b"usage-ledger/v2/factor", user.as_bytes(), factor.as_bytes(), self.id.as_str().as_bytes()])
    }

    fn token_aad(&self, kind: TokenKind, token_id: Uuid) -> Vec<u8> {
        let (mut user_text, mut token_text) = ([0; 36], [0; 36]);
        let user = self.user.as_hyphenated().encode_lower(&mut user_text);
        let token_id = token_id.as_hyphenated().encode_lower(&mut token_text);
        lp(&[
            b"usage-ledger/v2/token",
            user.as_bytes(),
            kind.as_str().as_bytes(),
            token_id.as_bytes(),
            self.id.as_str().as_bytes(),
        ])
    }

    fn personal_aad(&self, event_id: &str) -> Vec<u8> {
        let mut user_text = [0; 36];
        let user = self.user.as_hyphenated().encode_lower(&mut user_text);
        lp(&[b"usage-ledger/v2/personal", user.as_bytes(), event_id.as_bytes(), self.id.as_str().as_bytes()])
    }
}

/// The first bytes of HMAC-SHA-512 over `message`, under a key that is derived from the data key for this purpose.
pub(crate) fn keyed_hash<const N: usize>(
    data_key: &[u8; 64],
    user: Uuid,
    label: &[u8],
    message: &[u8],
) -> [u8; N] {
    let mut text = [0; 36];
    let user = user.as_hyphenated().encode_lower(&mut text);
    let key = derive(data_key, &lp(&[label, user.as_bytes()]));
    let mac = Hmac::<Sha512>::new_from_slice(key.as_slice()).expect("HMAC takes a key of any length");
    let full = mac.chain_update(message).finalize().into_bytes();
    let mut hash = [0; N];
    hash.copy_from_slice(&full[..N]);
    hash
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}
