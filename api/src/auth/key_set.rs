//! Key sets of an identity provider (RFC 7517): which of its keys verifies a token.

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;

/// Keys of one set. Providers have two or three.
const MAX_KEYS: usize = 64;
/// A shorter modulus than 2,048 bits is none (RFC 7518 §3.3), in characters of base64url.
const MIN_MODULUS_CHARS: usize = 2048 / 6;

/// Keys that verify signatures, each by one algorithm.
#[derive(Debug)]
pub(super) struct KeySet(Vec<Key>);

#[derive(Debug)]
struct Key {
    kid: Option<String>,
    algorithm: Algorithm,
    verifier: DecodingKey,
}

/// A document that is no key set.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeySetError {
    #[error("the document is no JSON Web Key Set")]
    NotASet(#[source] serde_json::Error),
    #[error("the key set has more than {MAX_KEYS} keys")]
    TooMany,
    #[error("the key set has no key that verifies RS256, ES256 or EdDSA")]
    NoKeys,
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
}

impl KeySet {
    /// The set of a document. Keys for other uses are passed over: Keycloak lists one for encryption beside them.
    pub(super) fn parse(document: &[u8]) -> Result<Self, KeySetError> {
        let document: Document = serde_json::from_slice(document).map_err(KeySetError::NotASet)?;
        if document.keys.len() > MAX_KEYS {
            return Err(KeySetError::TooMany);
        }
        let keys: Vec<Key> = document.keys.into_iter().filter_map(Key::parse).collect();
        if keys.is_empty() { Err(KeySetError::NoKeys) } else { Ok(Self(keys)) }
    }

    /// The key of this name and algorithm. A token that names none is verified where there is no choice.
    pub(super) fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Option<&DecodingKey> {
        let mut fitting = self.0.iter().filter(|key| key.algorithm == algorithm);
        match kid {
            Some(kid) => fitting.find(|key| key.kid.as_deref() == Some(kid)).map(|key| &key.verifier),
            None => fitting.next().filter(|_| fitting.next().is_none()).map(|key| &key.verifier),
        }
    }
}

impl Key {
    fn parse(key: Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(key).ok()?;
        let algorithm = match &jwk.algorithm {
            AlgorithmParameters::RSA(rsa) if rsa.n.len() >= MIN_MODULUS_CHARS => Algorithm::RS256,
            AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => Algorithm::ES256,
            AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
                Algorithm::EdDSA
            }
            // Never `oct`: whoever reads a public document would sign as the provider.
            _ => return None,
        };
        let common = &jwk.common;
        let is_for_it = match common.key_algorithm {
            None => true,
            Some(KeyAlgorithm::RS256) => algorithm == Algorithm::RS256,
            Some(KeyAlgorithm::ES256) => algorithm == Algorithm::ES256,
            Some(KeyAlgorithm::EdDSA) => algorithm == Algorithm::EdDSA,
            Some(_) => false,
        };
        let is_public = common.public_key_use.as_ref().is_none_or(|its| *its == PublicKeyUse::Signature)
            && common.key_operations.as_ref().is_none_or(|all| all.contains(&KeyOperations::Verify));
        if !(is_for_it && is_public) {
            return None;
        }
        let verifier = DecodingKey::from_jwk(&jwk).ok()?;
        Some(Self { kid: jwk.common.key_id, algorithm, verifier })
    }
}

#[cfg(test)]
mod tests;
